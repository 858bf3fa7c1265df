"""How checkpoints are written and read: a file is complete or not there, and reading one never runs code."""

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from models.guard import check_weights


class WholeFiles(TorchCheckpointIO):
    """How Lightning writes and reads checkpoints: beside the one that is there, which the new one replaces when all of
    it is on the disk. Weights that are not finite are not written."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises FloatingPointError for weights that are not finite, and OSError where the disk is full."""
        check_weights(checkpoint)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".part")
        try:
            with beside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch has an error of its own for a disk that is full
            beside.unlink(missing_ok=True)
            raise OSError(f"{path} could not be written, and is as it was before: {error}") from None
        put_in_place(beside, path)

    def load_checkpoint(self, *given: Any, **options: Any) -> dict[str, Any]:
        return super().load_checkpoint(*given, **options | {"weights_only": True})


def put_in_place(beside: Path, path: Path) -> None:
    """Renames a file, for good: the name, too, is on the disk."""
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_checkpoint(path: str) -> dict[str, Any]:
    """A checkpoint's contents on the CPU, whatever device they were saved from.

    Raises OSError where there is no such file, and ValueError where it is not a checkpoint of this project.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of bytes that are no checkpoint
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
