"""What runs, predictions and pages take from a checkpoint: its model, whether a run can go on from it."""

from typing import Any

from models.checkpoint_files import WholeFiles, read_checkpoint
from models.classifier import Classifier
from models.language_model import LanguageModel
from models.other_batches import changed_sizes

__all__ = ["WholeFiles", "read_checkpoint"]  # for those who import them from here
NEEDED = (
    "epoch", "global_step", "pytorch-lightning_version", "loops", "callbacks", "optimizer_states", "lr_schedulers",
    "random_states", "other_random_states",
)  # fmt: skip


def checkpoint_for(model: Any, data: Any, path: str | None, init_from: str | None = None) -> dict[str, Any]:
    """What a run goes on from; nothing where it begins, be it with the weights of another run, which the model gets.

    Raises ValueError where model or data are not those of the checkpoint, or its optimizer knows other things of them.
    """
    if path == "":
        raise ValueError("--ckpt_path is empty: give it a checkpoint, or leave it out")
    checkpoint = read_checkpoint(path) if path else None
    if checkpoint is not None:
        check_complete(checkpoint, str(path))
    data.check(checkpoint)
    if init_from:
        load_weights(model, read_checkpoint(init_from))
    if checkpoint is None:
        return {}
    before = checkpoint["hyper_parameters"]
    plateau = "plateau" in (before.get("schedule"), model.hparams["schedule"])
    check_kept(["optimizer", *["schedule"] * plateau], dict(model.hparams), before)
    check_position(data, checkpoint, str(path))
    load_weights(model, checkpoint)
    return checkpoint


def load_weights(model: Any, checkpoint: dict[str, Any]) -> None:
    """Raises ValueError where they are those of another model."""
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except RuntimeError:
        before = checkpoint["hyper_parameters"]
        changed = [f"--model.{name} {value}" for name, value in before.items() if model.hparams.get(name) != value]
        raise ValueError(f"the checkpoint is of another model: {', '.join(changed)}") from None


def check_complete(checkpoint: dict[str, Any], path: str) -> None:
    """Raises ValueError where a run cannot go on from a checkpoint, because it has less than last.ckpt has."""
    missing = [name for name in NEEDED if not checkpoint.get(name) and checkpoint.get(name) != 0]
    missing += [] if "learning_rate" in checkpoint["hyper_parameters"] else ["learning_rate"]
    if "num_classes" not in checkpoint["hyper_parameters"] and "recurrent_state" not in checkpoint:
        missing.append("recurrent_state")
    if missing:
        raise ValueError(f"{path}: no run can go on from it, as it has no {', '.join(missing)}; give a last.ckpt")


def check_position(data: Any, checkpoint: dict[str, Any], path: str) -> None:
    """Raises ValueError where the position of the loader lies beyond the text, which is then another one."""
    sizes = checkpoint.get("datamodule_hyper_parameters", {})
    streams = None if changed_sizes(sizes, data) else getattr(data, "train_streams", None)
    for state in checkpoint["loops"]["fit_loop"]["state_dict"].get("combined_loader", []):
        position = state.get("position")
        if type(position) is not int or streams is not None and position >= len(streams):
            windows = "" if streams is None else f", but this text has {len(streams):,} windows"
            raise ValueError(f"{path}: its position is {position}{windows}: give the text that it was trained on")


def check_kept(names: list[str], now: dict[str, Any], before: dict[str, Any]) -> None:
    for name in names:
        if name in before and now[name] != before[name]:
            raise ValueError(f"--model.{name} is {now[name]}, but {before[name]} in the checkpoint: leave it so")


def language_model(checkpoint: dict[str, Any]) -> LanguageModel:
    """The model that a checkpoint holds, ready to predict. Raises ValueError for a classifier's."""
    if "num_classes" in checkpoint["hyper_parameters"]:
        raise ValueError("the checkpoint is a classifier's, which writes nothing: use predict.py classify")
    if "TextDataModule" not in checkpoint:
        raise ValueError("the checkpoint has no tokenizer: it was saved without the TextDataModule")
    return loaded(LanguageModel, checkpoint)


def classifier(checkpoint: dict[str, Any]) -> Classifier:
    """The model that a checkpoint holds, ready to predict. Raises ValueError for a language model's."""
    if "num_classes" not in checkpoint["hyper_parameters"]:
        raise ValueError("the checkpoint is a language model's, which knows no classes: use predict.py generate")
    if "LabelledDataModule" not in checkpoint:
        raise ValueError("the checkpoint has no words: it was saved without the LabelledDataModule")
    return loaded(Classifier, checkpoint)


def loaded(kind: type[Any], checkpoint: dict[str, Any]) -> Any:
    options = {name: value for name, value in checkpoint["hyper_parameters"].items() if not name.startswith("_")}
    try:
        model = kind(**options)
        model.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"the checkpoint's weights are not those of its model: {error}") from None
    return model.eval()
