"""Trained models from files that cannot run code: a checkpoint is read as numbers and primitives alone."""

from typing import Any

import torch

from models.classifier import Classifier
from models.language_model import LanguageModel


def read_checkpoint(path: str) -> dict[str, Any]:
    """A checkpoint's contents on the CPU, whatever device they were saved from.

    Raises OSError where there is no such file, and ValueError where it is not a checkpoint of this project.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such checkpoint; train one with train.py") from None
    except OSError:
        raise
    except Exception:  # an unpickler stumbles over bytes that are no checkpoint in any way there is
        checkpoint = None
    if not isinstance(checkpoint, dict) or not {"state_dict", "hyper_parameters"} <= checkpoint.keys():
        raise ValueError(f"{path}: is not a checkpoint of train.py")
    return checkpoint


def language_model(checkpoint: dict[str, Any]) -> LanguageModel:
    """The model that a checkpoint holds, ready to predict. Raises ValueError for a classifier's."""
    if "num_classes" in checkpoint["hyper_parameters"]:
        raise ValueError("the checkpoint is a classifier's, which writes nothing: use predict.py classify")
    return loaded(LanguageModel, checkpoint)


def classifier(checkpoint: dict[str, Any]) -> Classifier:
    """The model that a checkpoint holds, ready to predict. Raises ValueError for a language model's."""
    if "num_classes" not in checkpoint["hyper_parameters"]:
        raise ValueError("the checkpoint is a language model's, which knows no classes: use predict.py generate")
    return loaded(Classifier, checkpoint)


def loaded(kind: type[Any], checkpoint: dict[str, Any]) -> Any:
    model = kind(**{name: value for name, value in checkpoint["hyper_parameters"].items() if not name.startswith("_")})
    model.load_state_dict(checkpoint["state_dict"])
    return model.eval()
