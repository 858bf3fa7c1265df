"""What happens beside the training: the guard before each update, checkpoints that are whole, metrics that stay."""

import os
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from command_line import in_one_line
from datamodules.text import TextDataModule
from models.callbacks import (
    BestCheckpoint,
    LastCheckpoint,
    Teller,
    Throughput,
    ValidateAtTheEnd,
    peak_memory_mb,
)
from models.checkpoints import WholeFiles, read_checkpoint
from models.language_model import LanguageModel

SGD = {"optimizer": "sgd", "learning_rate": 0.125}


@pytest.fixture
def data(tmp_path: Path) -> TextDataModule:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    return TextDataModule(str(path), batch_size=3, window=8, val_streams=2)


def trainer_with(*callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", num_sanity_val_steps=0, callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, **{"limit_val_batches": 0, "max_steps": 5, **options},
    )  # fmt: skip


class Poison(pl.Callback):
    """Puts a value into one entry of a gradient, or of a weight, before the third update."""

    def __init__(self, value: float, name: str, of_weight: bool = False) -> None:
        self.value, self.name, self.of_weight = value, name, of_weight
        self.before: dict[str, torch.Tensor] = {}

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 2:
            parameter = dict(pl_module.named_parameters())[self.name]
            (parameter.data if self.of_weight else parameter.grad).view(-1)[1] = self.value
            self.before = {name: value.clone() for name, value in pl_module.state_dict().items()}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "clip",
    [{}, {"gradient_clip_val": 1.0}, {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}],
    ids=["no clip", "by norm", "by value"],
)
def test_no_gradient_that_is_not_finite_reaches_a_weight(
    data: TextDataModule, value: float, clip: dict[str, Any]
) -> None:
    model = LanguageModel(data.vocab_size, "gru", 4, 6, **SGD)
    poison = Poison(value, "recurrent.cells.0.weight_hh")
    said = r"update 3 was not made: the loss is [\d.]+, the norm of the gradient of recurrent.cells.0.weight_hh is"
    with pytest.raises(FloatingPointError, match=rf"^{said} (nan|inf), the learning rate is 0.125\.$"):
        trainer_with(poison, **clip).fit(model, data)
    assert poison.before and all(torch.equal(model.state_dict()[name], old) for name, old in poison.before.items())


def test_a_weight_that_is_not_finite_is_what_is_named(data: TextDataModule) -> None:
    model = LanguageModel(data.vocab_size, "gru", 4, 6, **SGD)
    with torch.no_grad():
        model.head.bias[2] = float("nan")
    with pytest.raises(FloatingPointError, match=r"update 1 .* the loss is nan, .* the gradient of head.bias is"):
        trainer_with().fit(model, data)


def test_a_loss_that_is_not_finite_is_enough(data: TextDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient may be finite all the same."""
    plain = LanguageModel.training_step
    monkeypatch.setattr(LanguageModel, "training_step", lambda *given: plain(*given) + torch.inf)
    with pytest.raises(FloatingPointError, match="update 1 was not made: the loss is inf"):
        trainer_with().fit(LanguageModel(data.vocab_size, "gru", 4, 6, **SGD), data)


def test_gradients_that_are_accumulated_are_looked_at_together(data: TextDataModule) -> None:
    poison = Poison(float("nan"), "head.weight")  # in the first of the two batches of update 3
    with pytest.raises(FloatingPointError, match="update 3 was not made: .* head.weight is nan"):
        trainer_with(poison, accumulate_grad_batches=2).fit(LanguageModel(data.vocab_size, "gru", 4, 6, **SGD), data)


def test_weights_that_are_not_finite_are_not_saved(data: TextDataModule, tmp_path: Path) -> None:
    model, path = LanguageModel(data.vocab_size, "gru", 4, 6, **SGD), tmp_path / "last.ckpt"
    poison = Poison(float("inf"), "head.bias", of_weight=True)
    last = LastCheckpoint(path, every_n_updates=1)
    with pytest.raises(FloatingPointError, match=r"update 3 left head.bias with values that are not finite\."):
        trainer_with(poison, last, plugins=[WholeFiles()]).fit(model, data)
    assert read_checkpoint(str(path))["global_step"] == 2


def saved(path: Path, value: float) -> None:
    model = LanguageModel(20, "rnn", None, 30)
    weights = {name: torch.full_like(weight, value) for name, weight in model.state_dict().items()}
    WholeFiles().save_checkpoint(
        {"state_dict": weights, "hyper_parameters": dict(model.hparams), "global_step": 1}, path
    )


@pytest.mark.parametrize("step", ["torch.save", "os.fsync", "pathlib.Path.replace"])
def test_the_checkpoint_before_stays_until_the_new_one_is_whole(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder" / "last.ckpt"
    saved(path, 1.0)

    def full(*given: Any) -> None:
        if step == "torch.save":
            given[1].write(b"half of")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(step, full)
        with pytest.raises(OSError, match="No space left on device"):
            saved(path, 2.0)
    assert read_checkpoint(str(path))["state_dict"]["head.bias"][0] == 1
    saved(path, 3.0)
    assert read_checkpoint(str(path))["state_dict"]["head.bias"][0] == 3
    assert [found.name for found in path.parent.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    for owner, name in ((os, "fsync"), (Path, "replace")):
        plain = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, plain=plain, name=name: (order.append(name), plain(*given))[1])
    saved(tmp_path / "last.ckpt", 1.0)
    assert order == ["fsync", "replace", "fsync"]


def test_the_speed_of_a_run_that_goes_on_in_mid_epoch(data: TextDataModule, tmp_path: Path) -> None:
    path, model = tmp_path / "last.ckpt", LanguageModel(data.vocab_size, "gru", 4, 6, **SGD)
    first, second = Throughput(), Throughput()
    trainer_with(LastCheckpoint(path), first).fit(model, data)
    trainer_with(LastCheckpoint(path), second, max_steps=9).fit(model, data, ckpt_path=path, weights_only=True)
    assert first.tokens == 5 * 24 and second.tokens == 9 * 24
    assert first.seconds < second.seconds < 60


def test_nothing_told_or_complained_of_can_control_a_terminal(
    data: TextDataModule, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2Jevil\x07\x9b"

    class Told(Teller):
        def tell(self, *given: Any) -> None:
            pass

    class Data(TextDataModule):
        def __str__(self) -> str:
            return evil

    named = Data(data.hparams["path"], batch_size=3, window=8)
    trainer_with(Told(Path(evil))).fit(LanguageModel(named.vocab_size, "gru", 4, 6, **SGD), named)
    with pytest.raises(SystemExit, match="2"), in_one_line("train.py", 2, ValueError):
        raise ValueError(f"{evil}.txt: no\nsuch file")
    printed = capsys.readouterr()
    assert printed.out.startswith("\\x1b[2Jevil\\x07\\x9b\n") and "run in \\x1b[2Jevil\\x07\\x9b\n" in printed.out
    assert printed.err == "train.py: \\x1b[2Jevil\\x07\\x9b.txt: no such file\n"


class Checks(Teller):
    """Of what a best checkpoint does, says nothing; with the summary as users see it."""

    def loss(self, nats: float) -> str:
        return f"{nats:.2f}"

    def proof(self, *given: Any) -> str:
        return "it works"


@pytest.mark.parametrize("damage", ["cut", "deleted", "other"])
def test_a_best_checkpoint_that_is_damaged_is_one_line_at_the_end(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best, checks = BestCheckpoint(tmp_path), Checks(tmp_path)
    path = tmp_path / "checkpoints" / "best.ckpt"
    saved(path, 1.0)
    best.best_model_path, best.best_model_score = str(path), torch.tensor(1.5)
    trainer: Any = SimpleNamespace(is_global_zero=True, datamodule=None)
    checks.conclude(trainer, best, 1000.0)
    figures = f"best checkpoint  {path}\nheld out         1.50\ntraining speed   1,000 tokens/s\n"
    assert capsys.readouterr().out == figures + "it works\n"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "deleted":
        path.unlink()
    else:
        path.write_bytes(b"other")
    with pytest.raises(SystemExit, match="1"), in_one_line("train.py", 1, OSError):
        checks.conclude(trainer, best, 1000.0)
    printed = capsys.readouterr()
    assert printed.out == figures and printed.err.count("\n") == 1
    assert printed.err.startswith(f"train.py: the best checkpoint cannot be read: {path}: ")
    assert "last.ckpt beside it has the weights of the end" in printed.err


def test_a_run_that_goes_on_throws_the_same_dice(data: TextDataModule, tmp_path: Path) -> None:
    """Torch's, Python's and NumPy's: a callback of the user's may throw any of them."""

    class Throws(pl.Callback):
        def __init__(self) -> None:
            self.thrown: list[float] = []

        def on_train_batch_start(self, *given: Any) -> None:
            self.thrown += [random.random(), random.gauss(), np.random.rand(), np.random.randn(), torch.rand(1).item()]

    def throws(updates: int, **options: Any) -> list[float]:
        pl.seed_everything(3)
        thrown, model = Throws(), LanguageModel(data.vocab_size, "gru", 4, 6, **SGD)
        last = LastCheckpoint(tmp_path / "last.ckpt", 1)
        trainer_with(last, thrown, max_steps=updates).fit(model, data, weights_only=True, **options)
        return thrown.thrown

    whole = throws(9)
    assert throws(4) + throws(9, ckpt_path=tmp_path / "last.ckpt") == whole


@pytest.mark.parametrize("limit", [{"max_time": {"seconds": 1}, "max_steps": -1}, {"max_steps": 7}], ids=str)
def test_a_run_that_is_stopped_is_validated_whatever_epochs_are(data: TextDataModule, limit: dict[str, Any]) -> None:
    options = {"check_val_every_n_epoch": 1000, "max_epochs": 100_000, "limit_val_batches": 1.0, **limit}
    trainer = trainer_with(ValidateAtTheEnd(), **options)
    trainer.fit(LanguageModel(data.vocab_size, "rnn", 4, 6), data)
    assert "val_loss" in trainer.callback_metrics


def test_a_checkpoint_is_due_after_one_update_at_least(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--save_every is 0: it must be at least 1"):
        LastCheckpoint(tmp_path / "last.ckpt", 0)


def test_without_a_count_of_memory_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resource")
    assert isinstance(peak_memory_mb(torch.device("cpu")), float)
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert peak_memory_mb(torch.device("cpu")) is None
