"""What can be trained: a model, its data, and what is told of it, chosen by the key `task` of a config."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonargparse import set_parsing_settings
from pytorch_lightning import LightningDataModule

from datamodules.labelled import LabelledDataModule
from datamodules.text import TextDataModule
from datamodules.vocabulary import vocabulary_of
from models.callbacks import Samples, SuggestionAccuracy, Teller, Verdicts
from models.checkpoint_config import as_text, config_of
from models.checkpoints import read_checkpoint
from models.classifier import Classifier
from models.insight.flow import GradientFlow
from models.language_model import LanguageModel
from models.training import Trained


class Task(NamedTuple):
    """`linked` are the model's arguments that the data knows. `teller`, and callbacks that work before and after the
    last checkpoint is written, are made with the run's folder."""

    model: type[Trained]
    data: type[LightningDataModule]
    linked: tuple[str, ...]
    teller: Callable[[Path], Teller]
    before: Callable[[Path], list[Any]] = lambda folder: []
    after: Callable[[Path], list[Any]] = lambda folder: []


TASKS = {
    "write": Task(
        LanguageModel,
        TextDataModule,
        ("vocab_size",),
        lambda folder: Samples(folder / "samples.txt"),
        lambda folder: [GradientFlow(folder / "flow.npz")],
        lambda folder: [SuggestionAccuracy(folder / "suggestions.png")],
    ),
    "classify": Task(Classifier, LabelledDataModule, ("vocab_size", "num_classes", "class_weights"), Verdicts),
}


def completed(arguments: list[str]) -> list[str]:
    """With the config that the checkpoint of --ckpt_path carries, if no --config is given.

    Raises ValueError where there is neither, nor a question of what could be given.
    """
    known = read(arguments)
    if known.config or any(argument.startswith(("-h", "--help", "--print_config")) for argument in arguments):
        return arguments
    if known.ckpt_path is None and known.init_from is None:
        raise ValueError("there is nothing to train: give --config configs/lstm.yaml, or another of configs/")
    path = known.ckpt_path or known.init_from
    needed = ("trainer", "model", "data") if known.ckpt_path else ("data",)
    config = config_of(read_checkpoint(path), path, arguments, needed)
    before = config.get("task", "write")
    if (known.task or before) != before or before not in TASKS:
        raise ValueError(f"{path}: its task is {before}: leave out --task, or give a checkpoint of that task")
    task = TASKS[before]
    set_parsing_settings(config_read_mode_fsspec_enabled=False)  # nothing that a checkpoint has is looked up as a file
    return ["--config", as_text(config, task.model, task.data), *arguments]


def inherited_vocabulary(arguments: list[str]) -> AbstractContextManager[None]:
    """Within it, data is created with the vocabulary of the checkpoint of --init_from; or of --ckpt_path, if that run
    had inherited it.

    Raises ValueError where both are given, or the checkpoint has no vocabulary.
    """
    known = read(arguments)
    if known.init_from and known.ckpt_path:
        raise ValueError("--ckpt_path continues a run, and --init_from begins one: give one of them")
    if not (path := known.init_from or known.ckpt_path):
        return vocabulary_of(None)
    checkpoint = read_checkpoint(path)
    state = checkpoint.get("TextDataModule") or checkpoint.get("LabelledDataModule")
    if known.init_from and not state:
        raise ValueError(f"{path}: has no vocabulary: it was not written by train.py")
    return vocabulary_of(state if known.init_from or state and state.get("inherited") else None)


def chosen(arguments: list[str]) -> str:
    """That of --task, or of the last --config that has one, or "write". What else is asked for is not looked at."""
    known = read(arguments)
    in_configs = [task_of(config) for config in known.config]
    named = [task for task in (*in_configs, known.task) if task is not None]
    if named and named[-1] not in TASKS:
        raise ValueError(f"there is no task {named[-1]!r}: choose one of {', '.join(TASKS)}")
    return named[-1] if named else "write"


def read(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    for name in ("--task", "--ckpt_path", "--init_from"):
        parser.add_argument(name)
    return parser.parse_known_args(arguments)[0]


def task_of(config: str) -> Any:
    """Of a file, or of what a checkpoint carries. Raises nothing: who reads the whole says what is wrong with it."""
    try:
        content = yaml.safe_load(config if "\n" in config else Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content.get("task") if isinstance(content, dict) else None
