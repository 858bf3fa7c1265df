"""Prints why a run has ended before its last epoch."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, Timer


class StopReason(pl.Callback):
    """One line at the end of a training that EarlyStopping or --trainer.max_time has stopped."""

    def __init__(self) -> None:
        self.before: list[Any] = []  # what a checkpoint has restored, of an earlier stop

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        self.before = [state_of(callback) for callback in trainer.callbacks]

    def on_train_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            for callback, before in zip(trainer.callbacks, self.before, strict=True):
                if reason := reason_of(callback, before):
                    when = f"stopped after epoch {trainer.current_epoch}, update {trainer.global_step:,}"
                    print(f"{when}: {reason}\n", flush=True)


def state_of(callback: Any) -> Any:
    """What changes when EarlyStopping stops the training."""
    return (callback.stopped_epoch, callback.stopping_reason_message) if isinstance(callback, EarlyStopping) else None


def reason_of(callback: Any, before: Any) -> str:
    """Why a callback has stopped the training; nothing if it has not. `before` is its state at the start."""
    if isinstance(callback, EarlyStopping) and state_of(callback) != before:
        message = callback.stopping_reason_message or ""
        return message.removesuffix(" Signaling Trainer to stop.").removesuffix(".")
    remaining = callback.time_remaining() if isinstance(callback, Timer) else None
    return "--trainer.max_time is over" if remaining is not None and remaining <= 0 else ""
