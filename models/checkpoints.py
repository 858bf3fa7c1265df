"""What runs, predictions and pages take from a checkpoint: its model, its config, whether a run can go on from it."""

from typing import Any

import yaml

from models.checkpoint_files import WholeFiles, put_in_place, read_checkpoint
from models.classifier import Classifier
from models.language_model import LanguageModel

__all__ = ["WholeFiles", "put_in_place", "read_checkpoint"]  # for those who import them from here

CARRIED = ("task", "seed_everything", "save_every", "trainer", "model", "data")


def checkpoint_for(model: Any, data: Any, path: str | None) -> dict[str, Any]:
    """What a run goes on from; nothing where it begins.

    Raises ValueError where model or data are not those of the checkpoint, or its optimizer knows other things of them.
    """
    checkpoint = read_checkpoint(path) if path else None
    data.check(checkpoint)
    if checkpoint is None:
        return {}
    before, of_data = checkpoint["hyper_parameters"], checkpoint.get("datamodule_hyper_parameters", {})
    plateau = "plateau" in (before.get("schedule"), model.hparams["schedule"])
    check_kept("model", ["optimizer", *["schedule"] * plateau], dict(model.hparams), before)
    check_kept("data", ["batch_size", "window"], dict(data.hparams), of_data)  # each stream has a state and a position
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError:
        changed = [f"--model.{name} {value}" for name, value in before.items() if model.hparams.get(name) != value]
        raise ValueError(f"the checkpoint is of another model: {', '.join(changed)}") from None
    return checkpoint


def check_kept(part: str, names: list[str], now: dict[str, Any], before: dict[str, Any]) -> None:
    for name in names:
        if name in before and now[name] != before[name]:
            raise ValueError(f"--{part}.{name} is {now[name]}, but {before[name]} in the checkpoint: leave it so")


def carried_config(checkpoint: dict[str, Any]) -> str:
    """The text of the config that a checkpoint was trained with, but for where it was.

    Raises ValueError where it has none, or where it names classes, whose code would run at a stranger's wish.
    """
    try:
        config = yaml.safe_load(checkpoint["config"])
    except (KeyError, AttributeError, yaml.YAMLError):
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("trainer"), dict):
        raise ValueError("the checkpoint carries no config: give that of its run with --config")
    config = {name: config[name] for name in CARRIED if name in config}
    config["trainer"].pop("default_root_dir", None)
    if names_classes(config["trainer"]):
        raise ValueError("the checkpoint's config names classes: if you trust them, give it with --config")
    return str(yaml.safe_dump(config))


def names_classes(options: Any) -> bool:
    """Lightning's command line imports what `class_path` has, and, for a class, any string with a dot."""
    if isinstance(options, dict):
        return any(name == "class_path" or names_classes(value) for name, value in options.items())
    if isinstance(options, list):
        return any(names_classes(value) for value in options)
    return isinstance(options, str) and "." in options


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
    options = {name: value for name, value in checkpoint["hyper_parameters"].items() if not name.startswith("_")}
    try:
        model = kind(**options)
        model.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the checkpoint's weights are not those of its model: {error}") from None
    return model.eval()
