"""The Trainer's arguments in train.py: loggers and callbacks are honoured, impossible values refused in one line."""

import csv
import importlib.util
import os
import re
import shlex
import signal
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from pytorch_lightning.callbacks import EarlyStopping, StochasticWeightAveraging

from models.callbacks import Throughput
from models.checkpoints import read_checkpoint
from models.classifier import Classifier
from models.language_model import LanguageModel
from models.training_arguments import as_list, check_trainer_arguments
from tests.scripts import run

CONFIG: dict[str, Any] = {
    "seed_everything": 1,
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 2,
        "limit_train_batches": 4,
        "limit_val_batches": 2,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
    },
    "model": {"embedding_size": 4, "hidden_size": 5},
    "data": {"path": "text.txt", "batch_size": 3, "window": 8, "val_streams": 2},
}
RUN = Path("runs/tiny/version_0")


class Data:
    """A data module of 6 training batches and 5 held-out ones."""

    def train_dataloader(self) -> range:
        return range(6)

    def val_dataloader(self) -> range:
        return range(5)


def check(schedule: str = "constant", classifies: bool = False, **trainer: Any) -> None:
    model = Classifier(5, 2, schedule=schedule) if classifies else LanguageModel(5, hidden_size=2, schedule=schedule)
    check_trainer_arguments(Namespace(trainer), model, Data())


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"accumulate_grad_batches": 0}, "--trainer.accumulate_grad_batches is 0: it must be at least 1"),
        ({"accumulate_grad_batches": -3}, "--trainer.accumulate_grad_batches is -3: it must be at least 1"),
        ({"log_every_n_steps": 0}, "--trainer.log_every_n_steps is 0: it must be at least 1"),
        ({"check_val_every_n_epoch": 0}, "--trainer.check_val_every_n_epoch is 0: it must be at least 1"),
        ({"check_val_every_n_epoch": -1}, "--trainer.check_val_every_n_epoch is -1"),
        ({"gradient_clip_val": -1.0}, "--trainer.gradient_clip_val is -1.0: it must be at least 0"),
        ({"gradient_clip_val": float("nan")}, "--trainer.gradient_clip_val is nan"),
        ({"min_steps": -2}, "--trainer.min_steps is -2: it must be at least 0"),
        ({"max_epochs": 0}, "--trainer.max_epochs is 0: nothing would be trained"),
        ({"max_steps": 0}, "--trainer.max_steps is 0: nothing would be trained"),
        ({"limit_train_batches": 0}, "--trainer.limit_train_batches is 0: nothing would be trained"),
        ({"limit_train_batches": 0.1}, "--trainer.limit_train_batches is 0.1 of 6 batches, less than one"),
        ({"limit_val_batches": 0.1}, "--trainer.limit_val_batches is 0.1 of 5 batches, less than one"),
        ({"val_check_interval": 0}, "--trainer.val_check_interval is 0: it must be greater than 0"),
        ({"val_check_interval": 1000}, "--trainer.val_check_interval is 1000, but an epoch has 6 training batches"),
        ({"val_check_interval": 4, "limit_train_batches": 0.5}, "4, but an epoch has 3 training batches"),
        ({"val_check_interval": 3, "limit_train_batches": 2}, "3, but an epoch has 2 training batches"),
        ({"callbacks": StochasticWeightAveraging(0.1)}, "give WeightAveraging or EMAWeightAveraging instead"),
        ({"barebones": True}, "--trainer.barebones is true"),
        ({"schedule": "plateau", "limit_val_batches": 0}, "--model.schedule plateau needs validation"),
        ({"callbacks": EarlyStopping("vall_loss")}, "EarlyStopping monitors 'vall_loss', which is not logged: choose"),
        ({"callbacks": [EarlyStopping("val_accuracy")]}, "EarlyStopping monitors 'val_accuracy'"),
        ({"callbacks": [EarlyStopping("val_bpc")], "classifies": True}, "EarlyStopping monitors 'val_bpc'"),
        ({"callbacks": [EarlyStopping("val_loss")], "limit_val_batches": 0}, "EarlyStopping monitors 'val_loss'"),
    ],
)
def test_impossible_values_are_named(trainer: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(**{"check_val_every_n_epoch": 1, **trainer})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "trainer",
    [
        {"accumulate_grad_batches": 3, "log_every_n_steps": None, "gradient_clip_val": 0},
        {"val_check_interval": 6},
        {"val_check_interval": 1000, "check_val_every_n_epoch": None},
        {"val_check_interval": 1000, "limit_val_batches": 0},
        {"val_check_interval": "00:00:01:00"},
        {"max_epochs": -1, "max_steps": -1, "limit_val_batches": 0, "num_sanity_val_steps": -1},
        {"callbacks": EarlyStopping("val_loss"), "schedule": "plateau"},
        {"callbacks": [EarlyStopping("val_f1", mode="max")], "classifies": True},
        {"callbacks": [EarlyStopping("anything", strict=False)]},
    ],
)
def test_possible_values_are_accepted(trainer: dict[str, Any]) -> None:
    assert check(**{"check_val_every_n_epoch": 1, **trainer}) is None


def test_callbacks_as_a_list() -> None:
    one, two = EarlyStopping("val_loss"), EarlyStopping("val_bpc")
    assert as_list(None) == [] and as_list(one) == [one] and as_list((one, two)) == [one, two]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40, encoding="utf-8")
    return tmp_path


def train(*arguments: str, **trainer: Any) -> CompletedProcess[str]:
    config = {**CONFIG, "trainer": {**CONFIG["trainer"], **trainer}}
    Path("tiny.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return run("train.py", "--config", "tiny.yaml", *arguments, cwd=Path.cwd())


def trained(*arguments: str, **trainer: Any) -> str:
    done = train(*arguments, **trainer)
    assert done.returncode == 0 and done.stderr == "Seed set to 1\n"[: len(done.stderr)], done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trainer.val_check_interval", "1000"],
        ["--trainer.accumulate_grad_batches", "0"],
        ["--trainer.limit_val_batches", "1.5"],
        ["--trainer.accelerator", "tpu"],
        ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "lossy"],
    ],
    ids=" ".join,
)
def test_the_script_refuses_them_in_one_line_and_leaves_nothing(arguments: list[str]) -> None:
    done = train(*arguments)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("train.py: "), done.stderr
    assert "Traceback" not in done.stderr and not Path("runs").exists()


EARLY = {"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss", "patience": 5}}
RATES = {"class_path": "LearningRateMonitor"}


@pytest.mark.parametrize("callbacks", [EARLY, [EARLY], [EARLY, RATES], []], ids=["one", "list of one", "two", "none"])
def test_one_callback_or_a_list(callbacks: Any) -> None:
    trained(callbacks=callbacks)
    assert (RUN / "checkpoints/last.ckpt").exists()
    kept = yaml.safe_load((RUN / "config.yaml").read_text(encoding="utf-8"))["trainer"]["callbacks"]
    assert len(kept if isinstance(kept, list) else [kept]) == len(callbacks if isinstance(callbacks, list) else [1])


def test_our_loggers_are_the_default() -> None:
    for given in (None, True):
        trained(logger=given)
    for version in ("version_0", "version_1"):
        names = {path.name.split(".")[0] for path in Path("runs/tiny", version).iterdir()}
        assert {"metrics", "events", "config", "checkpoints"} <= names


def test_no_logger() -> None:
    trained("--trainer.logger", "false")
    names = {path.name for path in RUN.iterdir()}
    assert {"config.yaml", "checkpoints", "samples.txt"} <= names and "metrics.csv" not in names
    assert not [name for name in names if name.startswith("events")]
    assert not Path("config.yaml").exists() and not Path("lightning_logs").exists()


@pytest.mark.parametrize("as_list", [False, True])
def test_another_logger_by_class(as_list: bool) -> None:
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "elsewhere", "name": "mine"}}
    trained(logger=[logger] if as_list else logger)
    with Path("elsewhere/mine/version_0/metrics.csv").open(encoding="utf-8") as file:
        assert {"train_loss", "val_loss"} <= set(next(csv.reader(file)))
    assert not (RUN / "metrics.csv").exists() and (RUN / "config.yaml").exists()


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_logger_that_is_not_installed_is_one_line() -> None:
    done = train("--trainer.logger", "WandbLogger")
    assert done.returncode == 2 and "wandb" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()[-1]) < 300 and not Path("runs").exists()


def test_without_validation_the_last_checkpoint_is_named() -> None:
    printed = trained("--trainer.limit_val_batches", "0")
    assert f"last checkpoint  {RUN}/checkpoints/last.ckpt (no best.ckpt, as there was no validation)" in printed
    assert [path.name for path in (RUN / "checkpoints").iterdir()] == ["last.ckpt"]


def test_without_checkpoints_none_is_named() -> None:
    assert "no checkpoint was written\n" in trained("--trainer.enable_checkpointing", "false")
    assert not (RUN / "checkpoints").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--trainer.check_val_every_n_epoch", "5"],
        ["--trainer.val_check_interval", "00:01:00:00"],
        ["--trainer.val_check_interval", "3", "--trainer.max_epochs", "1"],
        ["--trainer.val_check_interval", "1000", "--trainer.check_val_every_n_epoch", "null"],
    ],
    ids=" ".join,
)
def test_every_run_is_validated_at_its_end(arguments: list[str]) -> None:
    printed = trained(*arguments)
    end = "epoch 1, update 4" if "--trainer.max_epochs" in arguments else "epoch 2, update 8"
    assert f"{end}: held out" in printed and "best checkpoint" in printed


@pytest.mark.parametrize("batches", ["1", "3"])
def test_a_dry_run_writes_no_file(batches: str) -> None:
    before = set(Path().rglob("*"))
    printed = trained("--trainer.fast_dev_run", batches, callbacks=[EARLY])
    assert f"on {batches} batches; no file was written" in printed
    assert set(Path().rglob("*")) - before == {Path("tiny.yaml")}


@pytest.mark.parametrize(
    "callback",
    [
        {"class_path": "Timer", "init_args": {"duration": "00:01:00:00"}},
        {"class_path": "GradientAccumulationScheduler", "init_args": {"scheduling": {0: 2}}},
        {"class_path": "EMAWeightAveraging"},
        {"class_path": "ModelCheckpoint", "init_args": {"monitor": "val_bpc", "save_weights_only": True}},
        {"class_path": "ModelSummary"},
    ],
    ids=lambda callback: callback["class_path"],
)
def test_callbacks_of_lightning(callback: dict[str, Any]) -> None:
    trained(callbacks=[callback])
    assert (RUN / "checkpoints/last.ckpt").exists() and (RUN / "checkpoints/best.ckpt").exists()


LAST = str(RUN / "checkpoints/last.ckpt")
AGAIN = ["--data.path", "text.txt", "--trainer.accelerator", "cpu"]  # no checkpoint carries these


@pytest.mark.parametrize(("epochs", "share"), [("3", "25.0%"), ("4", "50.0%")])
def test_a_run_that_continues_after_its_cosine_schedule_says_at_which_rate(epochs: str, share: str) -> None:
    assert "schedule" not in trained("--model.schedule", "cosine")
    done = run("train.py", "--ckpt_path", LAST, "--trainer.max_epochs", epochs, *AGAIN, cwd=Path.cwd())
    assert done.returncode == 0 and f"training continues at {share} of --model.learning_rate" in done.stdout


def test_it_continues_at_a_constant_rate_where_that_is_asked_for() -> None:
    trained("--model.schedule", "cosine")
    more = ["--trainer.max_epochs", "3", "--model.schedule", "constant", "--model.learning_rate", "0.25"]
    done = run("train.py", "--ckpt_path", LAST, *more, *AGAIN, cwd=Path.cwd())
    assert done.returncode == 0 and "schedule" not in done.stdout
    with (RUN / "metrics.csv").open(encoding="utf-8") as file:
        rates = [float(row["learning_rate"]) for row in csv.DictReader(file) if row["learning_rate"]]
    assert rates[-3:] == [0.25] * 3 and len(rates) == 12


def interrupted(monkeypatch: pytest.MonkeyPatch, *arguments: str, **trainer: Any) -> list[str]:
    """The arguments of the command for going on, which a run prints that SIGTERM stops after three updates."""
    plain = Throughput.on_train_batch_end

    def stop(self: Any, trainer: Any, *others: Any) -> None:
        plain(self, trainer, *others)
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as context:
        context.setattr(Throughput, "on_train_batch_end", stop)
        done = train(*arguments, **trainer)
    assert done.returncode == 143, done.stderr
    (command,) = re.findall("to go on: python train.py (.+)", done.stdout)
    return shlex.split(command)


@pytest.mark.parametrize("callbacks", [EARLY, [EARLY], [EARLY, RATES]], ids=["one", "list of one", "two"])
def test_the_printed_command_goes_on_with_the_callbacks(callbacks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    command = interrupted(monkeypatch, callbacks=callbacks)
    done = run("train.py", *command, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    assert read_checkpoint(LAST)["global_step"] == 8 and [path.name for path in RUN.parent.iterdir()] == [RUN.name]
    states = read_checkpoint(LAST)["callbacks"]
    (early,) = [state for name, state in states.items() if name.startswith("EarlyStopping")]
    assert early["best_score"] < 10


def test_a_run_that_early_stopping_ended_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    stops = {"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss", "stopping_threshold": 100.0}}
    printed = trained(callbacks=stops)
    assert "stopped after epoch 1, update 4: Stopping threshold reached: val_loss = " in printed
    assert "best checkpoint" in printed


def test_a_run_goes_on_with_what_the_searches_have_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = {"class_path": "LearningRateFinder", "init_args": {"num_training_steps": 30}}
    size = {"class_path": "BatchSizeFinder", "init_args": {"max_trials": 2, "steps_per_trial": 1}}
    command = interrupted(monkeypatch, callbacks=[size, rate, EARLY], limit_train_batches=20)
    saved = read_checkpoint(LAST)
    found = saved["hyper_parameters"]["learning_rate"], saved["datamodule_hyper_parameters"]["batch_size"]
    assert found[0] != 2e-3 and found[1] == 4 and "Finder" not in " ".join(command)
    done = run("train.py", *command, cwd=Path.cwd())
    assert done.returncode == 0, done.stderr
    after = read_checkpoint(LAST)
    assert after["global_step"] == 40
    assert (after["hyper_parameters"]["learning_rate"], after["datamodule_hyper_parameters"]["batch_size"]) == found
    (group,) = after["optimizer_states"][0]["param_groups"]
    assert group["lr"] == pytest.approx(found[0])
