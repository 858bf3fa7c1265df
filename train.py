"""Train a model from a YAML file, in <runs or --trainer.default_root_dir>/<the file's name>/version_N/; or go on there.

python train.py --config configs/lstm.yaml [--data.path FILE] | --ckpt_path runs/lstm/version_0/checkpoints/last.ckpt
"""

import sys
from typing import Any, Literal

from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line import in_one_line, mistakes_in_one_line, quiet
from models.callbacks import BestCheckpoint, LastCheckpoint, Progress, Throughput, ValidateAtTheEnd, loggers
from models.checkpoints import WholeFiles, checkpoint_for
from models.run_folder import run_folder
from tasks import TASKS, chosen, completed


class TrainingRun(LightningCLI):
    """Lightning's command line, with a folder for each run and everything that belongs into it."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="go on from this checkpoint")
        parser.add_argument("--save_every", type=int, default=500, help="updates between two last.ckpt")
        parser.add_argument("--task", type=Literal[tuple(TASKS)], default="write", help="has options of its own")
        parser.set_defaults({"trainer.num_sanity_val_steps": 0, "trainer.enable_model_summary": False})
        self.task = next(task for task in TASKS.values() if task.model is self.model_class)
        for name in self.task.linked:
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        given, options = self.config.ckpt_path, self.config_init.trainer
        updates = checkpoint_for(self.model, self.datamodule, given).get("global_step", 0)
        with run_folder(options.default_root_dir, self.config.config[-1], given) as folder:
            self.throughput, self.teller, self.best = Throughput(), self.task.teller(folder), BestCheckpoint(folder)
            callbacks = [*(options.callbacks or []), ValidateAtTheEnd(), self.throughput, self.teller]
            if options.enable_checkpointing is not False:
                last, config = folder / "checkpoints/last.ckpt", self.parser.dump(self.config, skip_none=False)
                callbacks += [self.best, LastCheckpoint(last, self.config.save_every, config)]
            callbacks += [*self.task.more(folder), *[Progress()] * (options.enable_progress_bar is not False)]
            kwargs |= {"logger": loggers(folder, updates), "plugins": [*(options.plugins or []), WholeFiles()]}
            trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
            self.datamodule.check(None, trainer.world_size)
        return trainer


def main() -> None:
    quiet()
    with mistakes_in_one_line("train.py", MisconfigurationException):
        task = TASKS[chosen(arguments := completed(sys.argv[1:]))]
        more: dict[str, Any] = {"args": arguments, "parser_kwargs": {"exit_on_error": False, "description": __doc__}}
        more["save_config_kwargs"] = {"overwrite": True}  # in the folder of a run that goes on
        run = TrainingRun(task.model, task.data, run=False, auto_configure_optimizers=False, **more)
    with in_one_line("train.py", 1, OSError, FloatingPointError, MisconfigurationException):
        run.trainer.fit(run.model, run.datamodule, ckpt_path=run.config.ckpt_path, weights_only=True)
        run.teller.conclude(run.trainer, run.best, run.throughput.tokens_per_second)


if __name__ == "__main__":
    main()
