"""The progress bar of a training run: one line that fits the terminal, with the time left for the whole run."""

import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar, Timer
from pytorch_lightning.callbacks.progress.rich_progress import CustomBarColumn
from rich.progress import ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

OTHERS = 70  # columns of a terminal that all but the bar itself take, in a long run
BAR = 40  # columns, at most


class Progress(RichProgressBar):
    """`epoch 3/100 ━━━━━━━━━━ 1520/2000 0:03:12 left nats: 1.234 tokens/s: 98,123`

    Epochs count from 1, as in all messages. The estimate of the time counts all epochs, and validation at the speed
    that this process has had so far.
    """

    NAMES = {"train_loss": "nats", "tokens_per_second": "tokens/s"}

    def __init__(self) -> None:
        super().__init__(refresh_rate=10)  # updates: asking for metrics takes time, and waits for a GPU
        self.began: float | None = None  # at the end of the first batch of this process, which may compile
        self.batches = 0  # since then

    @property
    def validation_description(self) -> str:
        return "held out"

    def configure_columns(self, trainer: Any) -> list[Any]:
        def on_one_line() -> Column:
            return Column(no_wrap=True, overflow="ellipsis")

        width = min((self._console.width if self._console else 80) - OTHERS, BAR)
        return [
            TextColumn("{task.description}", table_column=on_one_line()),
            *[CustomBarColumn(bar_width=width)] * (width >= 4),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", table_column=on_one_line()),
            TimeLeft(self, table_column=on_one_line()),
        ]

    def _init_progress(self, trainer: Any) -> None:
        super()._init_progress(trainer)
        if self._metric_component is not None:
            self._metric_component._table_column = Column(no_wrap=True, overflow="ellipsis")

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs
        return f"epoch {current_epoch + 1}" + (f"/{epochs}" if epochs is not None and epochs > 0 else "")

    def get_metrics(self, trainer: Any, pl_module: pl.LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        return {
            short: f"{metrics[name]:,.{0 if short == 'tokens/s' else 3}f}"
            for name, short in self.NAMES.items()
            if name in metrics
        }

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.began is None:
            self.began = time.monotonic()
        else:
            self.batches += 1
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def seconds_left(self, trainer: Any) -> float | None:
        """Until the end of the run, as far as that is known."""
        timers = [callback.time_remaining() for callback in trainer.callbacks if isinstance(callback, Timer)]
        limits = [seconds for seconds in timers if seconds is not None]
        batches = batches_left(trainer)
        if batches is not None and self.began is not None and self.batches:
            limits.append(batches * (time.monotonic() - self.began) / self.batches)
        return min(limits, default=None)


def batches_left(trainer: Any) -> int | None:
    """Training batches until max_epochs or max_steps is reached; None where neither limits the run."""
    limits = []
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        in_epoch = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        limits.append((trainer.max_epochs - trainer.current_epoch) * trainer.num_training_batches - in_epoch)
    if trainer.max_steps > 0:
        limits.append((trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
    return max(min(limits), 0) if limits else None


class TimeLeft(ProgressColumn):
    """The time until the end of the run, beside the bar of the training batches."""

    max_refresh = 0.5  # seconds

    def __init__(self, progress: Progress, table_column: Column) -> None:
        self.progress = progress
        super().__init__(table_column)

    def render(self, task: Task) -> Text:
        if task.id != self.progress.train_progress_bar_id:
            return Text()
        seconds = self.progress.seconds_left(self.progress.trainer)
        return Text("" if seconds is None else f"{timedelta(seconds=round(seconds))} left")
