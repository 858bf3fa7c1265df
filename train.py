"""Train a model from a YAML file, in <runs or --trainer.default_root_dir>/<the file's name>/version_N/; or go on there.

python train.py --config configs/lstm.yaml [--data.path FILE] | --ckpt_path runs/lstm/version_0/checkpoints/last.ckpt
"""

import sys
from contextlib import nullcontext
from typing import Any

from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from command_line import in_one_line, mistakes_in_one_line, quiet
from models.checkpoints import WholeFiles, checkpoint_for
from models.run_callbacks import RunCallbacks
from models.run_folder import run_folder
from models.training_arguments import check_trainer_arguments, metrics_that_exist
from tasks import TASKS, chosen, completed, inherited_vocabulary
from training_parser import TrainingParser, add_run_arguments

FAILURES = (OSError, FloatingPointError, MisconfigurationException, ModuleNotFoundError)


class TrainingRun(LightningCLI):
    """Lightning's command line, with a folder for each run and everything that belongs into it."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        add_run_arguments(parser, tuple(TASKS))
        self.task = next(task for task in TASKS.values() if task.model is self.model_class)
        for name in self.task.linked:
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        given, options = (self.config.ckpt_path, self.config.init_from), self.config_init.trainer
        updates = checkpoint_for(self.model, self.datamodule, *given).get("global_step", 0)
        check_trainer_arguments(options, self.model, self.datamodule)
        place = run_folder(options.default_root_dir, self.config.config[-1], *given)
        with nullcontext() if options.fast_dev_run else place as folder:
            config = self.parser.dump(self.config, skip_none=False)
            self.parts = RunCallbacks(options, folder, self.task, self.config.save_every, config)
            kwargs |= {"plugins": [*(options.plugins or []), WholeFiles()]} | self.parts.options_of_trainer(updates)
            trainer = super().instantiate_trainer(**kwargs)
            self.datamodule.check(None, trainer.world_size)
        return trainer


def main() -> None:
    quiet()
    with mistakes_in_one_line("train.py", *FAILURES), inherited_vocabulary(sys.argv[1:]):
        task = TASKS[chosen(arguments := completed(sys.argv[1:]))]
        more: dict[str, Any] = {"run": False, "auto_configure_optimizers": False, "save_config_callback": None}
        more |= {"args": arguments, "parser_kwargs": {"exit_on_error": False, "description": __doc__}}
        run = TrainingRun(task.model, task.data, parser_class=TrainingParser, **more)
    with in_one_line("train.py", 1, *FAILURES), metrics_that_exist():
        run.trainer.fit(run.model, run.datamodule, ckpt_path=run.config.ckpt_path, weights_only=True)
        run.parts.conclude(run.trainer)


if __name__ == "__main__":
    main()
