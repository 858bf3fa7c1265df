"""Checks of the Trainer's arguments: of those that Lightning accepts and then fails on, or silently ignores."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, StochasticWeightAveraging
from pytorch_lightning.utilities.exceptions import MisconfigurationException

SMALLEST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "gradient_clip_val": 0,
    "log_every_n_steps": 1,
    "min_epochs": 0,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
}
NOTHING_AT_ZERO = ("limit_train_batches", "max_epochs", "max_steps")


def check_trainer_arguments(options: Any, model: Any, data: Any) -> None:
    """Checks the values of `--trainer`, for a model and the data module that it will be trained on.

    Raises ValueError, with the argument and its allowed values.
    """
    for name, smallest in SMALLEST.items():
        value = options.get(name)
        if value is not None and not value >= smallest:
            raise ValueError(f"--trainer.{name} is {value}: it must be at least {smallest}")
    for name in NOTHING_AT_ZERO:
        if options.get(name) == 0 and options.get(name) is not None:
            raise ValueError(f"--trainer.{name} is {options[name]}: nothing would be trained")
    if options.get("barebones"):
        raise ValueError("--trainer.barebones is true: train.py always logs and saves; leave it out")
    batches = {"train": len(data.train_dataloader()), "val": len(data.val_dataloader())}
    for part, count in batches.items():
        share = options.get(f"limit_{part}_batches")
        if isinstance(share, float) and 0 < share and count * share < 1:
            raise ValueError(
                f"--trainer.limit_{part}_batches is {share} of {count} batches, less than one: give a larger share, or "
                "a whole number of batches"
            )
    check_validation_interval(options, in_an_epoch(options, batches["train"]))
    if options.get("limit_val_batches") == 0 and model.hparams["schedule"] == "plateau":
        raise ValueError(
            "--model.schedule plateau needs validation, which --trainer.limit_val_batches 0 turns off: change either"
        )
    for callback in as_list(options.get("callbacks")):
        if isinstance(callback, StochasticWeightAveraging):
            raise ValueError(
                "StochasticWeightAveraging replaces the optimizer's schedule, and no run could continue from its "
                "checkpoints: give WeightAveraging or EMAWeightAveraging instead"
            )
        if isinstance(callback, EarlyStopping):
            check_early_stopping(callback, model.METRICS, options)


def in_an_epoch(options: Any, batches: int) -> int:
    """The training batches of an epoch, after --trainer.limit_train_batches."""
    limit = options.get("limit_train_batches")
    if limit is None:
        return batches
    return min(limit, batches) if isinstance(limit, int) else int(batches * limit)


def check_validation_interval(options: Any, batches: int) -> None:
    interval = options.get("val_check_interval")
    if isinstance(interval, int | float) and interval == 0:
        raise ValueError(f"--trainer.val_check_interval is {interval}: it must be greater than 0")
    counts_in_epochs = options.get("check_val_every_n_epoch") is not None
    if isinstance(interval, int) and interval > batches and counts_in_epochs and options.get("limit_val_batches") != 0:
        raise ValueError(
            f"--trainer.val_check_interval is {interval}, but an epoch has {batches} training batches: give at most "
            f"{batches}, or add --trainer.check_val_every_n_epoch null to count batches across epochs"
        )


def check_early_stopping(callback: EarlyStopping, metrics: tuple[str, ...], options: Any) -> None:
    """Other metrics are allowed where callbacks of the user's own may log them."""
    own = [other for other in as_list(options["callbacks"]) if not type(other).__module__.startswith("pytorch_l")]
    validates = options.get("limit_val_batches") != 0
    known = [name for name in metrics if validates or not name.startswith("val_")]
    if callback.strict and callback.monitor not in known and not own:
        raise ValueError(f"EarlyStopping monitors {callback.monitor!r}, which is not logged: choose {', '.join(known)}")


@contextmanager
def metrics_that_exist() -> Iterator[None]:
    """Turns EarlyStopping's RuntimeError, for a metric that was not logged, into a MisconfigurationException."""
    try:
        yield
    except RuntimeError as error:
        if "Early stopping conditioned on metric" in str(error):
            raise MisconfigurationException(str(error)) from None
        raise


def as_list(value: Any) -> list[Any]:
    """One callback, several or none, as a list."""
    if value is None:
        return []
    return [value] if isinstance(value, pl.Callback) else list(value)
