"""How checkpoints are written and read: a file is complete or not there, and reading one never runs code."""

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from complete_files import complete_file
from models.checkpoint_archive import read_archive
from models.checkpoint_schema import FORMAT, PATHS, check, restores_paths
from models.guard import check_weights


class CheckedFiles(TorchCheckpointIO):
    """How Lightning reads checkpoints of the models of this project, whatever Trainer asks for them."""

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Like `read_checkpoint`, wherever Lightning restores from a file."""
        return read_checkpoint(path)


class WholeFiles(CheckedFiles):
    """How Lightning writes and reads checkpoints: beside the one that is there, which the new one replaces when all of
    it is on the disk. Weights that are not finite are not written."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises FloatingPointError for weights that are not finite, and OSError where the disk is full."""
        check_weights(checkpoint)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with complete_file(path) as file:
                torch.save(checkpoint | {"format": FORMAT}, file)
        except (OSError, RuntimeError) as error:  # torch has an error of its own for a disk that is full
            raise OSError(f"{path} could not be written, and is as it was before: {error}") from None


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A checkpoint's content on the CPU, whatever device it was saved from. The file may come from anyone: every entry
    is checked (`models.checkpoint_schema`), and no path that it names outside of its own run is kept.

    Raises OSError where there is no such file, and ValueError, with the file's name, where it is damaged or not a
    checkpoint of this project.
    """
    try:
        checkpoint = read_archive(path)
        for options in ("hyper_parameters", "datamodule_hyper_parameters"):
            remove_instantiator(checkpoint, options)
        check(checkpoint)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such checkpoint; train one with train.py") from None
    except ValueError as error:
        message = str(error)
        if not message.startswith(("is ", "was ")):
            message = f"is not a checkpoint of train.py: {message}"
        raise ValueError(f"{path}: {message}") from None
    keep_own_paths(checkpoint, Path(path))
    return checkpoint


def remove_instantiator(checkpoint: Any, options: str) -> None:
    """Lightning's command line adds the name of a function, which Lightning would import: nothing here needs it."""
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get(options), dict):
        checkpoint[options].pop("_instantiator", None)


def keep_own_paths(checkpoint: dict[str, Any], path: Path) -> None:
    """Leaves in the states of callbacks only paths of checkpoints beside the run's own last.ckpt: Lightning's
    ModelCheckpoint deletes the files that its state names."""
    folder = path.absolute().parent
    is_own = path.name == "last.ckpt" and folder.name == "checkpoints"
    for state in filter(restores_paths, checkpoint.get("callbacks", {}).values()):
        for name in PATHS:
            if state[name] and not (is_own and lies_in(folder, state[name], name == "dirpath")):
                state[name] = "" if name != "dirpath" else None
        state["best_k_models"] = {
            name: score for name, score in state["best_k_models"].items() if is_own and lies_in(folder, name)
        }


def lies_in(folder: Path, given: str, is_folder: bool = False) -> bool:
    """Whether a path is that folder, or of a checkpoint directly in it."""
    path, here = Path(given), folder.resolve()
    if is_folder:
        return path.resolve() == here
    return path.parent.resolve() == here and path.suffix == ".ckpt" and path.is_file()
