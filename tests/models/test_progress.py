"""What a terminal shows during a training: a bar on one line, and why a run ended early."""

import io
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import rich
import torch
from pytorch_lightning.callbacks import EarlyStopping, Timer
from rich.console import Console

from datamodules.text import TextDataModule
from models.language_model import LanguageModel
from models.progress import Progress, batches_left
from models.stop_reason import StopReason


class Watch(pl.Callback):
    """Prints the bar as terminals of several widths would show it, after every batch."""

    def __init__(self, widths: tuple[int, ...] = (80,), long: bool = False) -> None:
        self.widths, self.long = widths, long
        self.lines: list[tuple[int, list[str]]] = []
        self.batches: list[int | None] = []

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        bar = trainer.progress_bar_callback
        self.batches.append(batches_left(trainer))
        if self.long:
            numbers = {"description": "epoch 100/100", "total": 2000, "completed": 2000}
            bar.progress.update(bar.train_progress_bar_id, **numbers)
            bar._metric_component.update({"nats": "1.234", "tokens/s": "98,123"})
        for width in self.widths:
            console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
            bar._console = console
            columns = [*bar.configure_columns(trainer), bar._metric_component]
            bar.progress.columns, before = columns, bar.progress.columns
            console.print(bar.progress.get_renderable())
            bar.progress.columns = before
            self.lines.append((width, console.file.getvalue().splitlines()))  # type: ignore[attr-defined]


def trained(tmp_path: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 10, encoding="utf-8")
    data = TextDataModule(str(path), batch_size=3, window=16, val_streams=2)
    pl.seed_everything(0)
    model = LanguageModel(data.vocab_size, embedding_size=3, hidden_size=4, learning_rate=options.pop("rate", 0.01))
    plain: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "max_epochs": 3}
    plain |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    precision = torch.get_float32_matmul_precision()
    trainer = pl.Trainer(callbacks=list(callbacks), **{**plain, **options})
    try:
        trainer.fit(model, data)
    finally:
        torch.set_float32_matmul_precision(precision)
        rich.reconfigure()
    return trainer


@pytest.mark.parametrize("long", [False, True])
def test_the_bar_is_one_line_of_any_terminal(tmp_path: Path, long: bool) -> None:
    watch = Watch((40, 60, 80, 120, 200), long)
    trained(tmp_path, Progress(), watch, limit_train_batches=2, limit_val_batches=0)
    assert len(watch.lines) == 30
    for width, lines in watch.lines:
        assert len(lines) == 1 and len(lines[0].rstrip()) <= width, lines
        whole = width >= 80
        assert not whole or "…" not in lines[0], lines
        assert not whole or "nats: " in lines[0] and ("/2 " in lines[0] or long)
    firsts = [lines[0] for width, lines in watch.lines if width == 80]
    if long:
        assert firsts[-1].startswith("epoch 100/100 ━") and firsts[-1].rstrip().endswith("tokens/s: 98,123")
    else:
        assert [line[:9] for line in firsts] == ["epoch 1/3"] * 2 + ["epoch 2/3"] * 2 + ["epoch 3/3"] * 2
        assert " left " not in firsts[0] and all(" left " in line for line in firsts[1:])


def test_the_time_left_is_that_of_the_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress, watch = Progress(), Watch(())
    trainer = trained(tmp_path, progress, watch, limit_train_batches=4, limit_val_batches=0)
    assert watch.batches == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    progress.began, progress.batches = 100.0, 10
    monkeypatch.setattr("models.progress.time.monotonic", lambda: 150.0)  # five seconds a batch
    monkeypatch.setattr("models.progress.batches_left", lambda trainer: 7)
    assert progress.seconds_left(trainer) == 35.0
    timer = Timer("00:00:00:20")
    trainer.callbacks.append(timer)  # type: ignore[attr-defined]
    assert progress.seconds_left(trainer) == 20.0
    monkeypatch.setattr("models.progress.batches_left", lambda trainer: None)
    assert progress.seconds_left(trainer) == 20.0


def test_steps_limit_the_run_too(tmp_path: Path) -> None:
    watch = Watch(())
    trained(tmp_path, Progress(), watch, max_epochs=-1, max_steps=3, accumulate_grad_batches=2, limit_train_batches=4)
    assert watch.batches == [6, 4, 4, 2, 2, 0]


@pytest.mark.parametrize(
    ("stop", "reason"),
    [
        (EarlyStopping("val_loss", patience=2, min_delta=100.0), "did not improve in the last 2 records. Best score: "),
        (EarlyStopping("val_loss", stopping_threshold=50.0), "Stopping threshold reached: val_loss = "),
        (Timer(timedelta(microseconds=1)), "--trainer.max_time is over"),
    ],
    ids=["patience", "threshold", "time"],
)
def test_a_run_that_is_stopped_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stop: pl.Callback, reason: str
) -> None:
    trainer = trained(tmp_path, stop, StopReason(), max_epochs=9, limit_train_batches=2, enable_progress_bar=False)
    assert trainer.global_step < 18
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("stopped")]
    epochs = {"Best": 3, "Stop": 1, "--tr": 1}[reason[:4] if reason[:4] in ("Stop", "--tr") else "Best"]
    assert line.startswith(f"stopped after epoch {epochs}, update {trainer.global_step}: ") and reason in line
    assert "Signaling" not in line and not line.endswith(".")


def test_a_run_that_is_not_stopped_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = EarlyStopping("val_loss", patience=9)
    stop.stopped_epoch, stop.stopping_reason_message = 1, "of the run before"
    timer = Timer("01:00:00:00")
    trained(tmp_path, stop, timer, StopReason(), limit_train_batches=2, enable_progress_bar=False)
    assert "stopped" not in capsys.readouterr().out
