"""The callbacks and loggers of a training run: the user's own, and those that write the files of its folder."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint, ProgressBar

from complete_files import complete_file
from models.callbacks import BestCheckpoint, LastCheckpoint, Throughput, ValidateAtTheEnd, loggers
from models.checkpoint_config import carried
from models.progress import Progress
from models.schedule_note import ScheduleNote
from models.stop_reason import StopReason
from models.training_arguments import as_list

SEARCHES = ("LearningRateFinder", "BatchSizeFinder")


class RunCallbacks:
    """The callbacks of one run, by what its options ask for.

    Args:
        options: the values of `--trainer`.
        folder: of the run; None for a run that writes no file, as `--trainer.fast_dev_run` asks for.
        task: what is trained, an entry of `tasks.TASKS`.
        save_every: updates between two last.ckpt.
        config: the text of config.yaml.

    Attributes: `all`, the callbacks, in the order in which Lightning calls them.
    """

    def __init__(self, options: Any, folder: Path | None, task: Any, save_every: int, config: str) -> None:
        self.options, self.folder = options, folder
        self.throughput = Throughput()
        given = as_list(options.callbacks)
        self.all = [*given, ValidateAtTheEnd(), self.throughput, StopReason(), ScheduleNote()]
        if folder is not None:
            self.reporter, self.best = task.teller(folder), BestCheckpoint(folder)
            self.all += [self.reporter, ConfigFile(folder / "config.yaml", config), *task.before(folder)]
            if options.enable_checkpointing is not False:
                self.all += [self.best] if options.limit_val_batches != 0 else []
                data, flags = carried(without_searches(yaml.safe_load(config)), task.model, task.data)
                self.all += [LastCheckpoint(folder / "checkpoints/last.ckpt", save_every, data, flags)]
            self.all += task.after(folder)
        if options.enable_progress_bar is not False and not any(isinstance(each, ProgressBar) for each in given):
            self.all.append(Progress())

    def options_of_trainer(self, updates: int) -> dict[str, Any]:
        """What the Trainer is created with. Lightning would add a ModelCheckpoint of its own where there is none."""
        checkpoints = any(isinstance(callback, ModelCheckpoint) for callback in self.all)
        enabled = checkpoints and self.options.enable_checkpointing is not False
        return {"callbacks": self.all, "enable_checkpointing": enabled, "logger": self.loggers(updates)}

    def loggers(self, updates: int) -> Any:
        """Those that `--trainer.logger` names, or else ours, of a run that has made so many updates."""
        given = self.options.logger
        if given is not None and given is not True:
            return given
        return loggers(self.folder, updates) if self.folder else False

    def conclude(self, trainer: Any) -> None:
        """Prints what the run came to. Raises OSError if its best checkpoint cannot be read."""
        if self.folder is not None:
            self.reporter.conclude(trainer, self.best, self.throughput.tokens_per_second)
        elif trainer.is_global_zero:
            print(f"fast_dev_run: training and validation ran on {trainer.max_steps} batches; no file was written")


def without_searches(config: dict[str, Any]) -> dict[str, Any]:
    """The config without LearningRateFinder and BatchSizeFinder: a run that continues keeps what they have found."""
    given = config["trainer"]["callbacks"]
    listed = given if isinstance(given, list) else [] if given is None else [given]
    kept = [callback for callback in listed if not callback["class_path"].endswith(SEARCHES)]
    return config if len(kept) == len(listed) else config | {"trainer": config["trainer"] | {"callbacks": kept or None}}


class ConfigFile(pl.Callback):
    """Writes config.yaml into the folder of a run when training starts. The file is complete at every moment."""

    def __init__(self, path: Path, config: str) -> None:
        self.path, self.config = path, config

    def on_fit_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with complete_file(self.path) as file:
                file.write(self.config.encode("utf-8"))
