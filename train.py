"""Train a model from a YAML file, in <runs or --trainer.default_root_dir>/<the file's name>/version_N/.

python train.py --config configs/lstm.yaml [--data.path FILE] [--trainer.max_time 00:00:03:00] [--ckpt_path FILE]
"""

import sys
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line import mistakes_in_one_line, quiet
from models.callbacks import LastCheckpoint, Progress, Throughput, ValidateAtTheEnd
from models.checkpoints import read_checkpoint
from tasks import TASKS, chosen


class TrainingRun(LightningCLI):
    """Lightning's command line, with a folder for each run and everything that belongs into it."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="go on from this checkpoint")
        parser.add_argument("--task", type=Literal[tuple(TASKS)], default="write", help="has options of its own")
        parser.set_defaults({"trainer.num_sanity_val_steps": 0, "trainer.enable_model_summary": False})
        self.task = next(task for task in TASKS.values() if task.model is self.model_class)
        for name in self.task.linked:
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        if not self.config.config:
            raise ValueError("there is nothing to train: give --config configs/lstm.yaml, or another of configs/")

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        self.datamodule.check(self.config.ckpt_path and read_checkpoint(self.config.ckpt_path))
        csv = CSVLogger(self.config.trainer.default_root_dir or "runs", name=Path(str(self.config.config[-1])).stem)
        folder = Path(csv.log_dir)
        self.throughput, self.teller = Throughput(), self.task.teller(folder)
        self.best = ModelCheckpoint(folder / "checkpoints", "best", monitor="val_loss", enable_version_counter=False)
        progress = [] if self.config.trainer.enable_progress_bar is False else [Progress()]
        callbacks = [*(self.config_init.trainer.callbacks or []), ValidateAtTheEnd(), self.throughput, self.teller]
        if self.config.trainer.enable_checkpointing is not False:
            callbacks += [self.best, LastCheckpoint(folder / "checkpoints" / "last.ckpt")]
        kwargs["logger"] = [csv, TensorBoardLogger(csv.save_dir, csv.name, csv.version)]
        return super().instantiate_trainer(callbacks=[*callbacks, *self.task.more(folder), *progress], **kwargs)


def main() -> None:
    quiet()
    with mistakes_in_one_line("train.py", MisconfigurationException):
        task, parser = TASKS[chosen(sys.argv[1:])], {"exit_on_error": False, "description": __doc__}
        run = TrainingRun(task.model, task.data, run=False, auto_configure_optimizers=False, parser_kwargs=parser)
    run.trainer.fit(run.model, run.datamodule, ckpt_path=run.config.ckpt_path, weights_only=True)
    print(run.teller.summary(run.trainer, run.best, run.throughput.tokens_per_second))


if __name__ == "__main__":
    main()
