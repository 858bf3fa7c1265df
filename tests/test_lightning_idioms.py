"""Lightning's Trainer, Tuner and load_from_checkpoint with the models and data modules of this project."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BatchSizeFinder, EMAWeightAveraging, LearningRateFinder
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from datamodules.labelled import LabelledDataModule
from datamodules.text import TextDataModule
from models.classifier import Classifier
from models.language_model import LanguageModel

pytestmark = pytest.mark.filterwarnings("ignore:.*`IterableDataset` has `__len__` defined")
TEXT = "the quick brown fox jumps over the lazy dog. " * 40
TABLE = "text,label\n" + "It is good!,good\nIt isn't,bad\nIt is what it is,none\n" * 10
TASKS = ["write", "classify"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder, and afterwards the precision of before."""
    monkeypatch.chdir(tmp_path)
    before = torch.get_float32_matmul_precision()
    yield tmp_path
    torch.set_float32_matmul_precision(before)


def data_for(task: str, **options: Any) -> Any:
    if task == "write":
        Path("text.txt").write_text(TEXT, encoding="utf-8")
        return TextDataModule("text.txt", **{"batch_size": 3, "window": 8, "val_streams": 2, **options})
    Path("table.csv").write_text(TABLE, encoding="utf-8")
    return LabelledDataModule("table.csv", **{"batch_size": 4, **options})


def model_for(data: Any, **options: Any) -> Any:
    pl.seed_everything(0)
    options = {"embedding_size": 4, "hidden_size": 5, "learning_rate": 0.01, **options}
    if isinstance(data, TextDataModule):
        return LanguageModel(data.vocab_size, **options)
    return Classifier(data.vocab_size, data.num_classes, **options)


def trainer_for(**options: Any) -> pl.Trainer:
    plain: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    plain |= {"enable_checkpointing": False, "num_sanity_val_steps": 0, "accelerator": "cpu", "max_steps": 4}
    return pl.Trainer(**{**plain, **options})


class Rates(pl.Callback):
    """Records the learning rate of every update."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(float(optimizer.param_groups[0]["lr"]))


def assert_same_weights(one: torch.nn.Module, other: torch.nn.Module) -> None:
    before, after = one.state_dict(), other.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.dtype == after[name].dtype and torch.equal(value, after[name]), name  # copies, not computed


@pytest.mark.parametrize("precision", ["32-true", "64-true"])
@pytest.mark.parametrize("task", TASKS)
def test_a_checkpoint_of_any_moment_loads_without_a_trainer(task: str, precision: str) -> None:
    class Save(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint("before.ckpt")

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.save_checkpoint("within.ckpt")

    data = data_for(task)
    model, trainer = model_for(data), trainer_for(callbacks=[Save()], precision=precision)
    trainer.fit(model, data)
    trainer.save_checkpoint("after.ckpt")
    trainer.save_checkpoint("weights.ckpt", weights_only=True)
    for name in ("within.ckpt", "after.ckpt", "weights.ckpt"):
        loaded = type(model).load_from_checkpoint(name)
        assert_same_weights(model, loaded)
        assert dict(loaded.hparams) == dict(model.hparams) and loaded._trainer is None
    again = type(model).load_from_checkpoint("weights.ckpt", learning_rate=0.5)
    assert again.hparams["learning_rate"] == 0.5
    for place in (None, "cpu", torch.device("cpu"), {"cuda:1": "cpu"}, lambda storage, _: storage):
        again = type(model).load_from_checkpoint(Path("after.ckpt"), place, strict=None, weights_only=True)
        assert_same_weights(model, again)
    first = type(model).load_from_checkpoint("before.ckpt")
    trainer_for(precision=precision).fit(first, data_for(task))  # a new run of its own
    assert type(data).load_from_checkpoint("after.ckpt").vocab_size == data.vocab_size


@pytest.mark.parametrize("task", TASKS)
def test_a_run_goes_on_from_a_checkpoint_of_before_the_first_batch(task: str) -> None:
    class Save(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint("before.ckpt")

    data = data_for(task)
    model = model_for(data, schedule="cosine", dropout=0.3)
    trainer_for(callbacks=[Save()]).fit(model, data)
    again = model_for(data, schedule="cosine", dropout=0.3)
    torch.rand(7)  # its random numbers are those of the checkpoint
    trainer_for().fit(again, data_for(task), ckpt_path="before.ckpt", weights_only=True)
    assert_same_weights(model, again)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "exponential", "plateau"])
@pytest.mark.parametrize("task", TASKS)
def test_the_learning_rate_that_is_found_is_the_one_that_is_used(task: str, schedule: str) -> None:
    data, seen = data_for(task), Rates()
    model = model_for(data, schedule=schedule)
    finder = LearningRateFinder(num_training_steps=30)
    trainer_for(callbacks=[finder, seen]).fit(model, data)
    found = finder.optimal_lr.suggestion()
    assert found != 0.01 and model.hparams["learning_rate"] == found
    assert seen.rates[0] == pytest.approx(found)
    if schedule == "constant":
        assert seen.rates == pytest.approx([found] * 4)
    assert not list(Path().glob(".lr_find*"))


@pytest.mark.parametrize("task", TASKS)
def test_training_after_a_search_is_training_without_one(task: str) -> None:
    """The search reads data, draws random numbers and carries a state, of which nothing may stay."""
    plain, data = data_for(task), data_for(task)
    model, searched = model_for(plain, dropout=0.3), None
    trainer_for().fit(model, plain)
    searched = model_for(data, dropout=0.3)
    trainer_for(callbacks=[LearningRateFinder(num_training_steps=7, update_attr=False)]).fit(searched, data)
    assert_same_weights(model, searched)


@pytest.mark.parametrize("task", TASKS)
def test_the_tuner_finds_a_rate_and_a_batch_size(task: str) -> None:
    data = data_for(task)
    model = model_for(data, warmup_steps=2)
    tuner = Tuner(trainer_for())
    found = tuner.lr_find(model, datamodule=data, num_training=30)
    assert found is not None and model.hparams["learning_rate"] == found.suggestion()
    assert tuner.scale_batch_size(model, datamodule=data, max_trials=2, steps_per_trial=1) in (4, 8)
    seen = Rates()
    trainer_for(callbacks=[seen]).fit(model, data)
    third = found.suggestion() / 3
    assert seen.rates == pytest.approx([third, 2 * third, 3 * third, 3 * third])


@pytest.mark.slow
@pytest.mark.parametrize(("task", "largest"), [("write", 202), ("classify", 32)])
@pytest.mark.parametrize("mode", ["power", "binsearch"])
def test_the_batch_size_that_is_found_is_used_and_fits_the_data(task: str, largest: int, mode: str) -> None:
    """Without an end of memory in sight, the data sets the limit: 1,620 symbols are 202 streams of one window of 8."""
    data = data_for(task)
    finder = BatchSizeFinder(mode, steps_per_trial=1, margin=0.0)
    trainer_for(callbacks=[finder]).fit(model_for(data), data)
    assert data.hparams["batch_size"] == finder.optimal_batch_size == largest
    batch = next(iter(data.train_dataloader()))
    assert batch[0].shape[1] == min(largest, 27 if task == "classify" else largest)


@pytest.mark.parametrize("task", TASKS)
def test_validate_test_and_predict(task: str) -> None:
    Path("test.csv").write_text(TABLE, encoding="utf-8")
    data = data_for(task, **({"test_path": "test.csv"} if task == "classify" else {}))
    model, trainer = model_for(data), trainer_for()
    (validated,) = trainer.validate(model, data, verbose=False)
    assert {"write": "val_bpc", "classify": "val_f1"}[task] in validated
    (tested,) = trainer.test(model, dataloaders=data.val_dataloader(), verbose=False)
    assert tested == {name.replace("val_", "test_"): value for name, value in validated.items()}
    predictions = trainer.predict(model, data)
    assert predictions is not None
    if task == "write":
        with pytest.raises(MisconfigurationException, match="no test part.*trainer.validate"):
            trainer.test(model, data)
        nats = torch.cat([part.flatten() for part in predictions])
        nats = nats[~nats.isnan()]
        assert len(nats) == len(data._encoded.held_out) - 1
        assert nats.double().mean().item() == pytest.approx(validated["val_loss"], rel=1e-5)  # sums of float32
    else:
        assert trainer.test(model, data, verbose=False)[0]["test_loss"] > 0
        chances = torch.cat(predictions)
        assert chances.shape == (30, 3) and chances.sum(-1) == pytest.approx(torch.ones(30))
        with torch.inference_mode():
            tokens = data.encoder.encode("It isn't")[:, None]
            logits, _ = model.eval()(tokens, torch.tensor([len(tokens)]))
        assert chances[1] == pytest.approx(logits[0].softmax(-1), rel=1e-4)  # the second row of the table
        with pytest.raises(MisconfigurationException, match="--data.test_path"):
            trainer.test(model, data_for(task))


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_reads_a_checkpoint(task: str) -> None:
    data = data_for(task)
    model, trainer = model_for(data), trainer_for()
    trainer.fit(model, data)
    (expected,) = trainer.validate(model, data, verbose=False)
    trainer.save_checkpoint("whole.ckpt")
    trainer.save_checkpoint("weights.ckpt", weights_only=True)
    for name in ("whole.ckpt", "weights.ckpt"):
        (found,) = trainer_for().validate(model_for(data), data, ckpt_path=name, verbose=False, weights_only=True)
        assert found == expected


class Evil:
    def __reduce__(self) -> Any:
        return Path.mkdir, (Path("harmed"),)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_no_checkpoint_of_the_model_is_refused(task: str) -> None:
    data = data_for(task)
    model, trainer = model_for(data), trainer_for()
    trainer.fit(model, data)
    trainer.save_checkpoint("good.ckpt")
    (other,) = {LanguageModel, Classifier} - {type(model)}
    with pytest.raises(ValueError, match="good.ckpt: is not a checkpoint of this"):
        other.load_from_checkpoint("good.ckpt")
    with pytest.raises(ValueError, match=r"(?s)good.ckpt: .*size mismatch"):
        type(model).load_from_checkpoint("good.ckpt", hidden_size=6)
    with pytest.raises(FileNotFoundError, match="missing.ckpt"):
        type(model).load_from_checkpoint("missing.ckpt")
    torch.save({"state_dict": {}, "hyper_parameters": {}, "evil": Evil()}, "evil.ckpt")
    with pytest.raises(ValueError, match="evil.ckpt"):
        type(model).load_from_checkpoint("evil.ckpt")
    for act in (trainer_for().fit, trainer_for().validate, trainer_for().predict):
        with pytest.raises(ValueError, match="evil.ckpt"):
            act(model, datamodule=data, ckpt_path="evil.ckpt", weights_only=False)
    for kind in (TextDataModule, LabelledDataModule):
        with pytest.raises(ValueError, match="evil.ckpt"):
            kind.load_from_checkpoint("evil.ckpt")
    with pytest.raises(ValueError, match="good.ckpt: is not a checkpoint with a"):
        ({TextDataModule, LabelledDataModule} - {type(data)}).pop().load_from_checkpoint("good.ckpt")
    again = type(data).load_from_checkpoint("good.ckpt", batch_size=2)
    assert again.hparams["batch_size"] == 2 and again.state_dict() == data.state_dict()
    assert not Path("harmed").exists()


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # no path is taken from a checkpoint
@pytest.mark.parametrize("task", TASKS)
def test_a_trainer_of_ones_own_writes_and_continues_checkpoints(task: str) -> None:
    """With all that Lightning does by default, a callback with a state of its own, and averaged weights."""

    class Count(pl.Callback):
        batches = 0

        def on_train_batch_end(self, *_: Any) -> None:
            self.batches += 1

        def state_dict(self) -> dict[str, Any]:
            return {"batches": self.batches, "shape": torch.zeros(3), "nested": {"names": ["a", None]}}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.batches = state["batches"]

    options: dict[str, Any] = {"enable_checkpointing": True, "max_steps": -1, "limit_train_batches": 3}
    data = data_for(task)
    trainer = trainer_for(callbacks=[Count(), EMAWeightAveraging()], max_epochs=2, **options)
    trainer.fit(model_for(data), data)
    (saved,) = Path("checkpoints").glob("*.ckpt")
    counted = Count()
    trainer_for(callbacks=[counted, EMAWeightAveraging()], max_epochs=3, **options).fit(
        model_for(data), data_for(task), ckpt_path=saved
    )
    assert counted.batches == 9
    type(data).load_from_checkpoint(saved, weights_only=True)
    type(model_for(data)).load_from_checkpoint(saved)
