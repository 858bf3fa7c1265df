"""The argument parser of train.py: Lightning's, with arguments of this project and suggestions for unknown options."""

from enum import Enum
from typing import Any, Literal

import yaml
from pytorch_lightning.cli import LightningArgumentParser

from command_line import SuggestsOptions
from help_texts import shorten

# Values of enumerations, as Timer has them, are written as their strings.
yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_str(str(value.value)))


class TrainingParser(SuggestsOptions, LightningArgumentParser):
    """The parser of `--trainer`, `--model` and `--data`."""

    def format_help(self, formatter: Any = None) -> str:
        """In some 200 lines, where Lightning would print 600."""
        self.usage = "train.py --config FILE [--KEY VALUE ...]"
        shorten(self)
        return super().format_help(formatter)


def add_run_arguments(parser: LightningArgumentParser, tasks: tuple[str, ...]) -> None:
    """Adds the arguments of a run itself, and this project's defaults for the Trainer."""
    parser.add_argument("--ckpt_path", type=str | None, default=None, help="continue from this checkpoint")
    parser.add_argument(
        "--init_from",
        type=str | None,
        default=None,
        help="begin a new run with the weights and the vocabulary of this checkpoint, on any text",
    )
    parser.add_argument("--save_every", type=int, default=500, help="updates between two last.ckpt")
    parser.add_argument(
        "--task", type=Literal[tasks], default="write", help="write: a language model; classify: a classifier of texts"
    )
    parser.set_defaults({"trainer.num_sanity_val_steps": 0, "trainer.enable_model_summary": False})
