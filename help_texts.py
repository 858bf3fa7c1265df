"""What `--help` prints: an entry of one or two lines for each argument."""

import argparse
import textwrap
from typing import Any

from jsonargparse import DefaultHelpFormatter

TRAINER = {
    "accelerator": "cpu, gpu, mps, tpu, or auto for what there is",
    "strategy": "how processes share the work: auto, ddp, fsdp, or a class",
    "devices": "how many processes or GPUs, or a list of their numbers, or auto",
    "num_nodes": "the number of machines",
    "precision": "32-true, 64-true, 16-mixed, bf16-mixed, or another of Lightning's",
    "logger": "a class, or a list of them; false for none; else metrics.csv and TensorBoard",
    "callbacks": "a class, or a list of them, as EarlyStopping",
    "fast_dev_run": "try so many batches, write no file",
    "max_epochs": "stop after so many epochs; -1 for no limit",
    "min_epochs": "no stop before so many epochs",
    "max_steps": "stop after so many updates; -1 for no limit",
    "min_steps": "no stop before so many updates",
    "max_time": "stop after DD:HH:MM:SS, by the clock",
    "limit_train_batches": "training batches in an epoch: a number, or a share from 0.0 to 1.0",
    "limit_val_batches": "held-out batches, or their share; 0 for none",
    "limit_test_batches": "not used by train.py",
    "limit_predict_batches": "not used by train.py",
    "overfit_batches": "train and validate on so many batches, or this share, alone",
    "val_check_interval": "batches between two validations, or a share of an epoch, or DD:HH:MM:SS",
    "check_val_every_n_epoch": "epochs between two validations; null counts batches across epochs",
    "num_sanity_val_steps": "held-out batches to try before the training starts; -1 for all",
    "log_every_n_steps": "updates between two rows of metrics",
    "enable_checkpointing": "whether best.ckpt and last.ckpt are written",
    "enable_progress_bar": "whether a progress bar is shown",
    "enable_model_summary": "whether the model's layers are listed",
    "accumulate_grad_batches": "batches whose gradients make one update",
    "gradient_clip_val": "the largest norm of all gradients together; larger ones are scaled down",
    "gradient_clip_algorithm": "norm, or value: what gradient_clip_val limits",
    "deterministic": "refuse operations of torch whose results vary from run to run; warn only warns",
    "benchmark": "let cuDNN choose its algorithms by trying them",
    "inference_mode": "validate without autograd at all",
    "use_distributed_sampler": "not used: data modules share batches",
    "profiler": "measure where the time goes: simple, advanced or pytorch, or a class",
    "detect_anomaly": "find the operation that made a NaN; slow",
    "barebones": "refused: train.py always logs and saves",
    "plugins": "Lightning's plugins, by class",
    "sync_batchnorm": "not used: no model has batch norm",
    "reload_dataloaders_every_n_epochs": "epochs between two readings of the data",
    "default_root_dir": "the folder for runs; else runs",
    "enable_autolog_hparams": "whether loggers get the options",
    "model_registry": "the name of a model on Lightning's hub",
}
OTHERS = {
    "config": "a YAML file; of several, later ones have precedence",
    "print_config": "print the config that all arguments make, and exit; with =skip_default what differs",
    "seed_everything": "the seed of all random numbers; true draws one",
}
SCALARS = {int: "N", float: "X", bool: "true|false"}


class ShortHelp(DefaultHelpFormatter):
    """Leaves types to the placeholders of the values, keeps the lines of descriptions, and breaks no entry in vain."""

    def __init__(self, prog: str, indent_increment: int = 2, max_help_position: int = 32, width: Any = None) -> None:
        super().__init__(prog, indent_increment, max_help_position, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = [textwrap.wrap(line, width, initial_indent=indent, subsequent_indent=indent) or [""]
                 for line in text.strip().splitlines()]  # fmt: skip
        return "\n".join(line for wrapped in lines for line in wrapped)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = " ".join((action.help or "").split()).removesuffix(".").replace("%", "%%")
        if action.required and action.option_strings:
            return f"{text} [required]"
        plain = isinstance(action.default, str | int | float) and action.default not in ("", argparse.SUPPRESS)
        return f"{text} [{shown(action.default)}]" if plain and action.default is not False else text

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kind = getattr(action, "_typehint", None) or action.type
        choices = [part for part in getattr(kind, "__args__", ()) if part is not type(None)]
        words = [SCALARS[part] for part in [*choices, kind] if isinstance(part, type) and part in SCALARS]
        return words[0] if len(words) == 1 else "VALUE" if words else action.dest.rsplit(".")[-1].upper()


def shown(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def shorten(parser: Any) -> None:
    """Gives the arguments of train.py the texts of this module, and hides what is there once more for every class."""
    for action in parser._actions:
        group, _, name = action.dest.partition(".")
        kind = type(action).__name__
        if kind in ("_ActionHelpClassPath", "_ActionConfigLoad", "ActionLink"):
            action.help = argparse.SUPPRESS
        elif group == "trainer" and name in TRAINER:
            action.help = TRAINER[name]
            action.option_strings = [option for option in action.option_strings if not option.endswith("+")]
        elif action.dest in OTHERS:
            action.help = OTHERS[action.dest]
        if action.metavar is not None and str(action.metavar).startswith("{true,false"):
            action.metavar = "true|false"
