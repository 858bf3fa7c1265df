"""Train a model from a YAML file, in <runs or --trainer.default_root_dir>/<the file's name>/version_N/.

python train.py --config configs/lstm.yaml [--data.path FILE] [--trainer.max_time 00:00:03:00] [--ckpt_path FILE]
"""

from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line import mistakes_in_one_line, quiet
from datamodules.text import TextDataModule
from models.callbacks import LastCheckpoint, Progress, Samples, Throughput, ValidateAtTheEnd
from models.checkpoints import read_checkpoint
from models.language_model import LanguageModel


class TrainingRun(LightningCLI):
    """Lightning's command line, with a folder for each run and everything that belongs into it."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="go on from this checkpoint")
        parser.link_arguments("data.vocab_size", "model.vocab_size", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        if not self.config.config:
            raise ValueError("there is nothing to train: give --config configs/lstm.yaml, or another of configs/")

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        self.datamodule.check(self.config.ckpt_path and read_checkpoint(self.config.ckpt_path))
        csv = CSVLogger(self.config.trainer.default_root_dir or "runs", name=Path(str(self.config.config[-1])).stem)
        folder = Path(csv.log_dir)
        self.throughput, self.samples = Throughput(), Samples(folder / "samples.txt")
        self.best = ModelCheckpoint(folder / "checkpoints", "best", monitor="val_loss", enable_version_counter=False)
        progress = [] if self.config.trainer.enable_progress_bar is False else [Progress()]
        callbacks = [*(self.config_init.trainer.callbacks or []), self.throughput, self.samples, ValidateAtTheEnd()]
        if self.config.trainer.enable_checkpointing is not False:
            callbacks += [self.best, LastCheckpoint(folder / "checkpoints" / "last.ckpt")]
        loggers = [csv, TensorBoardLogger(csv.save_dir, csv.name, csv.version)]
        return super().instantiate_trainer(logger=loggers, callbacks=callbacks + progress, **kwargs)


def main() -> None:
    quiet()
    with mistakes_in_one_line("train.py", MisconfigurationException):
        run = TrainingRun(
            LanguageModel, TextDataModule, run=False, auto_configure_optimizers=False,
            trainer_defaults={"num_sanity_val_steps": 0, "enable_model_summary": False},
            parser_kwargs={"exit_on_error": False, "description": __doc__},
        )  # fmt: skip
    run.trainer.fit(run.model, run.datamodule, ckpt_path=run.config.ckpt_path, weights_only=True)
    print(run.samples.summary(run.trainer, run.best, run.throughput.tokens_per_second))


if __name__ == "__main__":
    main()
