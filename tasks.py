"""What can be trained: a model, its data, and what is told of it, chosen by the key `task` of a config."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pytorch_lightning import LightningDataModule

from datamodules.labelled import LabelledDataModule
from datamodules.text import TextDataModule
from models.callbacks import Samples, SuggestionAccuracy, Teller, Verdicts
from models.classifier import Classifier
from models.language_model import LanguageModel
from models.training import Trained


class Task(NamedTuple):
    """`linked` are the model's arguments that the data knows; `teller` is made with the run's folder."""

    model: type[Trained]
    data: type[LightningDataModule]
    linked: tuple[str, ...]
    teller: Callable[[Path], Teller]
    more: Callable[[Path], list[Any]] = lambda folder: []  # callbacks


TASKS = {
    "write": Task(
        LanguageModel,
        TextDataModule,
        ("vocab_size",),
        lambda folder: Samples(folder / "samples.txt"),
        lambda folder: [SuggestionAccuracy(folder / "suggestions.png")],
    ),
    "classify": Task(Classifier, LabelledDataModule, ("vocab_size", "num_classes", "class_weights"), Verdicts),
}


def chosen(arguments: list[str]) -> str:
    """That of --task, or of the last --config that has one, or "write". What else is asked for is not looked at."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="append", default=[])
    parser.add_argument("--task")
    known, _ = parser.parse_known_args(arguments)
    in_files = [task_of(Path(file)) for file in known.config]
    named = [task for task in (*in_files, known.task) if task is not None]
    if named and named[-1] not in TASKS:
        raise ValueError(f"there is no task {named[-1]!r}: choose one of {', '.join(TASKS)}")
    return named[-1] if named else "write"


def task_of(file: Path) -> Any:
    """Raises nothing: who reads the whole file says what is wrong with it."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content.get("task") if isinstance(content, dict) else None
