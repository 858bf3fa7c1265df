"""Runs that are interrupted and go on, through train.py: what they leave, what they say, what they refuse."""

import os
import pickle
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train
from benchmarks import kills
from benchmarks.kills import equal, left, runs
from datamodules.streams import Streams
from models import callbacks, run_folder
from models.callbacks import LastCheckpoint, Throughput
from models.checkpoints import WholeFiles, read_checkpoint
from models.metrics_file import Metrics, read_rows

# Of what Lightning's command line calls in jsonargparse; and what forkserver is told of threads that torch has.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
TRAINER = {
    "accelerator": "cpu", "max_epochs": 2, "limit_train_batches": 8, "log_every_n_steps": 1, "gradient_clip_val": 1.0,
    "enable_progress_bar": False,
}  # fmt: skip
WRITES = {
    "seed_everything": 1,
    "save_every": 1,
    "trainer": TRAINER,
    "model": {"embedding_size": 4, "hidden_size": 5, "num_layers": 2, "dropout": 0.3, "schedule": "cosine"},
    "data": {"path": "text.txt", "batch_size": 3, "window": 4},
}
CLASSIFIES = {
    **WRITES,
    "task": "classify",
    "model": {"embedding_size": 4, "hidden_size": 3, "dropout": 0.3, "word_dropout": 0.1, "schedule": "exponential"},
    "data": {"path": "table.csv", "batch_size": 5},
}
SETTINGS = {
    "writes": WRITES,
    "classifies": CLASSIFIES,
    "by a plateau": {**WRITES, "model": {**WRITES["model"], "schedule": "plateau", "decay_steps": 1}},
    "validates often": {**WRITES, "trainer": {**TRAINER, "val_check_interval": 3}},
    "accumulates": {**WRITES, "trainer": {**TRAINER, "accumulate_grad_batches": 3}},
    "counts updates": {**WRITES, "trainer": {**TRAINER, "max_epochs": -1, "max_steps": 14}},
}
WORDS = {**WRITES, "data": {**WRITES["data"], "path": "words.txt", "val_fraction": 0.5}}
LAST = "runs/tiny/version_0/checkpoints/last.ckpt"
CPU = ["--trainer.accelerator", "cpu"]
AGAIN = [*CPU, "--data.path", "text.txt"]  # which no checkpoint carries


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "text.txt").write_text("0123456789 9876543210\n" * 30, encoding="utf-8")
    (tmp_path / "words.txt").write_text("so it goes on and on, " * 40, encoding="utf-8")
    (tmp_path / "table.csv").write_text("text,label\n" + "It is good!,good\nIt isn't,bad\nIt is,none\n" * 15)
    monkeypatch.chdir(tmp_path)
    before = torch.get_float32_matmul_precision()
    yield tmp_path
    torch.set_float32_matmul_precision(before)


def start(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    Path("tiny.yaml").write_text(yaml.safe_dump(options), encoding="utf-8")
    call(monkeypatch, "--config", "tiny.yaml", *arguments)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    train.main()


def at(
    hook: str, count: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch, of: type[Any] = Throughput
) -> None:
    """Does something after that call of a callback's hook, counted from 1."""
    calls = iter(range(1, 10**6))
    plain = getattr(of, hook)

    def counted(self: Any, *arguments: Any) -> None:
        plain(self, *arguments)
        if next(calls) == count:
            act()

    monkeypatch.setattr(of, hook, counted)


class Killed(Exception):
    """In the place of SIGKILL, which a test would not outlive."""


def killed() -> None:
    raise Killed


def stopped(number: int = signal.SIGTERM) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_that_is_interrupted_anywhere_ends_as_one_that_never_was(
    setting: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mid-epoch, at a batch that is the last of an epoch, in a validation, between the epochs; and then again."""
    start(SETTINGS[setting], monkeypatch)
    whole = left(folder)
    assert len(whole["metrics.csv"]) > 14 or setting == "accumulates"
    os.rename("runs", "before")
    arguments = ["--config", "tiny.yaml"]
    for hook, count, act, error, of in (
        ("on_train_batch_end", 4, killed, Killed, LastCheckpoint),  # what it wrote has no name as yet
        ("on_train_batch_end", 6, killed, Killed, Throughput),
        ("on_validation_end", 1, killed, Killed, Throughput),
        ("on_train_batch_end", 2, stopped(), SystemExit, Throughput),
    ):
        with monkeypatch.context() as context, pytest.raises(error):
            at(hook, count, act, context, of)
            context.setattr(Metrics, "finalize", lambda *_: None)  # nor would SIGKILL leave it time
            call(context, *arguments)
        path = SETTINGS[setting]["data"]["path"]
        arguments = ["--ckpt_path", LAST, "--trainer.accelerator", "cpu", "--data.path", path]
    call(monkeypatch, *arguments)
    assert {path.name for path in Path(LAST).parent.iterdir()} == {"best.ckpt", "last.ckpt"}
    found = left(folder)
    assert [name for name in whole.keys() | found.keys() if not equal(whole[name], found[name])] == []


def test_asked_to_stop_it_saves_and_says_how_to_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    never, before = {**WRITES, "save_every": 10**6}, signal.getsignal(signal.SIGINT)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with monkeypatch.context() as context:
            at("on_train_batch_end", 5, stopped(number), context)
            with pytest.raises(SystemExit, match=str(code)):
                start(never, monkeypatch)
        printed = capfd.readouterr()
        last = LAST.replace("version_0", f"version_{code == 143:d}")
        assert (
            f"stopped after update 5; to go on: python train.py --ckpt_path {last} {' '.join(AGAIN)}\n" in printed.out
        )
        assert printed.err == "\nstopping after the next batch; once more to stop at once\n"
        assert read_checkpoint(last)["global_step"] == 5
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_signal_stops_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        stopped(signal.SIGINT)()
        stopped(signal.SIGINT)()

    at("on_train_batch_end", 5, twice, monkeypatch)
    with pytest.raises(SystemExit, match="130"):
        start({**WRITES, "save_every": 3}, monkeypatch)
    assert read_checkpoint(LAST)["global_step"] == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "signals"), [("writes", 1), ("writes", 2), ("validates often", 1), ("classifies", 1)]
)
def test_a_validation_is_interrupted_after_its_current_batch(
    setting: str,
    signals: int,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """What was trained before is saved, and the run that continues ends as one that never was interrupted."""
    rare: dict[str, Any] = {**SETTINGS[setting], "save_every": 10**6}
    several = {"batch_size": 2} if setting == "classifies" else {"val_fraction": 0.3}  # batches to validate
    rare["data"] = {**rare["data"], **several}
    again = [*AGAIN[:-1], rare["data"]["path"]]
    start(rare, monkeypatch)
    whole = left(folder)
    os.rename("runs", "before")
    capfd.readouterr()
    validated: list[int] = []
    with monkeypatch.context() as context:
        context.setattr(callbacks, "RECENT_SECONDS", 0.0)
        act = [stopped(signal.SIGINT)] * signals
        at("on_validation_batch_end", 1, lambda: [each() for each in act], context)
        at("on_validation_batch_end", 2, lambda: validated.append(1), context)
        with pytest.raises(SystemExit, match="130"):
            start(rare, monkeypatch)
    printed, updates = capfd.readouterr(), read_checkpoint(LAST)["global_step"]
    before_validation = {"validates often": 3}.get(setting, 8)
    assert validated == [] and updates == before_validation - 1
    if signals == 1:
        said = f"stopped in the validation after update {before_validation}; to go on: python train.py --ckpt_path"
        assert f"{said} {LAST} {' '.join(again)}\n" in printed.out
    call(monkeypatch, "--ckpt_path", LAST, *again)
    found = left(folder)
    same = [name for name in whole.keys() - {"config.yaml"} if equal(whole[name], found.get(name))]
    assert same == [name for name in whole.keys() - {"config.yaml"}]


def test_a_validation_before_the_first_checkpoint_is_interrupted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at("on_validation_batch_end", 1, stopped(signal.SIGINT), monkeypatch)
    with pytest.raises(SystemExit, match="130"):
        start({**WRITES, "save_every": 10**6, "trainer": {**TRAINER, "val_check_interval": 1}}, monkeypatch)
    assert "stopped in the validation after update 1; no checkpoint has been written yet" in capsys.readouterr().out


def test_a_stop_waits_for_validation_and_the_end_of_the_epoch(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at("on_validation_end", 1, stopped(), monkeypatch)
    with pytest.raises(SystemExit, match="143"):
        start(WRITES, monkeypatch)
    assert read_checkpoint(LAST)["global_step"] == 9, "one more than the epoch has"


def test_options_beside_the_checkpoint_override(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        at("on_train_batch_end", 5, stopped(), context)
        with pytest.raises(SystemExit):
            start({**WRITES, "model": {**WRITES["model"], "schedule": "constant"}}, monkeypatch)
    call(monkeypatch, *AGAIN, "--ckpt_path", LAST, "--model.learning_rate", "0.5", "--model.weight_decay", "0.25")
    rates = [row["learning_rate"] for row in left(folder)["metrics.csv"] if "learning_rate" in row]
    assert [float(rate) for rate in rates] == pytest.approx([2e-3] * 5 + [0.5] * 11)  # logged in float32
    (group,) = read_checkpoint(LAST)["optimizer_states"][0]["param_groups"]
    assert group["weight_decay"] == 0.25


def test_a_finished_run_has_nothing_to_do_and_goes_on_for_more_epochs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start({**WRITES, "model": {**WRITES["model"], "schedule": "constant"}}, monkeypatch, "--trainer.max_epochs", "3")
    whole = left(folder)
    os.rename("runs", "before")
    start({**WRITES, "model": {**WRITES["model"], "schedule": "constant"}}, monkeypatch)
    end = capsys.readouterr().out.split("best checkpoint")[-1]
    before = left(folder)
    call(monkeypatch, *AGAIN, "--ckpt_path", LAST)
    assert capsys.readouterr().out == "best checkpoint" + end and equal(left(folder), before)
    call(monkeypatch, *AGAIN, "--ckpt_path", LAST, "--trainer.max_epochs", "3")
    assert equal(left(folder), whole)


def test_a_run_that_was_killed_after_its_last_checkpoint_makes_up_for_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its last.ckpt says that training has ended. Whatever of the rest is missing is made; nothing is made twice."""
    start(WORDS, monkeypatch, "--trainer.max_epochs", "1")
    run, table = Path(LAST).parent.parent, "how often the next word of the held-out text is suggested"
    whole, end = left(folder), capsys.readouterr().out.partition("\n\n")[2]
    assert table in end and any("suggested_top1_typed0" in row for row in whole["metrics.csv"])

    def lose_metrics() -> None:
        columns, rows, _ = read_rows(run / "metrics.csv")
        lines = [",".join(row.values()) for row in rows if not row["suggested_top1_typed0"]]
        (run / "metrics.csv").write_text("\n".join([",".join(columns), *lines, ""]), encoding="utf-8")

    for lose in (
        (run / "suggestions.png").unlink,
        (run / "flow.npz").unlink,
        lose_metrics,
        lambda: [lose_metrics(), (run / "suggestions.png").unlink()],
        lambda: (run / "samples.txt").write_bytes(whole["samples.txt"] + b"half of a sam"),
        lambda: (run / "suggestions.png.part").write_bytes(b"half"),
        lambda: (run / "checkpoints" / "last.ckpt.next.part").write_bytes(b"half"),
        lambda: (run / "config.yaml").write_text("half: "),
        lambda: (run / "flow.npz").write_bytes(b"half"),
        lambda: None,
    ):
        lose()
        lost = left(folder) if lose.__name__ == "lose_metrics" else {}
        assert not lost or lost["metrics.csv"] != whole["metrics.csv"]
        call(monkeypatch, *AGAIN[:-1], "words.txt", "--ckpt_path", LAST)
        found = left(folder)
        assert [name for name in whole.keys() | found.keys() if not equal(whole.get(name), found.get(name))] == []
        assert end[end.index("best checkpoint") :] in capsys.readouterr().out


def test_only_last_ckpt_goes_on_in_its_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(WRITES, monkeypatch, "--trainer.max_epochs", "1")
    best = LAST.replace("last", "best")
    Path("copy.ckpt").write_bytes(Path(LAST).read_bytes())
    for given, more, place in (
        (LAST, [], "runs/tiny/version_0"),
        (best, [], "runs/tiny/version_1"),
        ("copy.ckpt", [], "runs/copy/version_0"),
        (LAST, ["--trainer.default_root_dir", "other"], "other/tiny/version_0"),
        (LAST, ["--config", "tiny.yaml"], "runs/tiny/version_0"),
        (LAST, ["--config", "runs/tiny/version_0/config.yaml"], "runs/tiny/version_0"),
    ):
        written = Path(place) / "config.yaml"
        before = written.stat().st_mtime_ns if written.exists() else 0
        call(monkeypatch, *AGAIN, "--ckpt_path", given, "--trainer.max_epochs", "1", *more)
        assert written.stat().st_mtime_ns > before, given


@pytest.mark.skipif(run_folder.fcntl is None, reason="the system has no locks of folders")
def test_two_runs_do_not_continue_in_one_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(WRITES, monkeypatch, "--trainer.max_epochs", "1")
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    other = os.open(Path(LAST).parent.parent, os.O_RDONLY)  # as another process would open it
    run_folder.fcntl.flock(other, run_folder.fcntl.LOCK_EX)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, *AGAIN, "--ckpt_path", LAST)
    assert "runs/tiny/version_0: another process is training this run; wait for its end" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    os.close(other)
    call(monkeypatch, *AGAIN, "--ckpt_path", LAST)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model.hidden_size", "6"], "the checkpoint is of another model: --model.hidden_size 5"),
        (["--model.optimizer", "sgd"], "--model.optimizer is sgd, but adamw in the checkpoint: leave it so"),
        (["--model.schedule", "plateau"], "--model.schedule is plateau, but cosine in the checkpoint"),
        (["--task", "classify"], "its task is write: leave out --task"),
        (["--trainer.max_epochs", "0"], "--trainer.max_epochs is 0: nothing would be trained"),
    ],
)
def test_what_a_run_cannot_go_on_with_is_one_line(
    arguments: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start(WRITES, monkeypatch, "--trainer.max_epochs", "1")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        call(monkeypatch, *AGAIN, "--ckpt_path", LAST, *arguments)
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1, printed.err


def test_a_run_with_callbacks_goes_on_with_the_command_that_it_prints(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"]
    with monkeypatch.context() as context, pytest.raises(SystemExit):
        at("on_train_batch_end", 9, stopped(), context)
        start(WRITES, context, *more, "--trainer.callbacks.patience=7")
    command = capsys.readouterr().out.split("to go on: ")[-1].splitlines()[0]
    assert '--trainer.callbacks \'[{"class_path": ' in command and command.startswith("python train.py --ckpt_path ")
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, *AGAIN, "--ckpt_path", LAST)
    refused = capsys.readouterr().err
    assert refused.startswith(f"train.py: {LAST}: its run was started with --trainer.callbacks, which a checkpoint")
    call(monkeypatch, *shlex.split(command)[2:])
    (name,) = (name for name in read_checkpoint(LAST)["callbacks"] if name.startswith("EarlyStopping"))
    state = read_checkpoint(LAST)["callbacks"][name]
    assert state["patience"] == 7 and read_checkpoint(LAST)["global_step"] == 16
    call(monkeypatch, "--ckpt_path", LAST, "--config", "runs/tiny/version_0/config.yaml")
    assert [path.name for path in Path("runs").glob("*/*")] == ["version_0"]


def test_no_checkpoint_carries_a_path_a_class_or_a_device(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss", "--trainer.devices=1"]
    start(WRITES, monkeypatch, "--trainer.max_epochs", "1", *stopping)
    config = read_checkpoint(LAST)["config"]
    assert config["again"] == ["data.path", "trainer.accelerator", "trainer.callbacks", "trainer.devices"]
    assert "path" not in config["data"] and config["data"]["batch_size"] == 3 and config["model"]["hidden_size"] == 5
    assert config["trainer"]["gradient_clip_val"] == 1.0 and config["trainer"]["max_time"] is None
    assert set(config["trainer"]).isdisjoint({"callbacks", "accelerator", "devices", "logger", "default_root_dir"})
    best = read_checkpoint(LAST.replace("last", "best"))
    assert best["config"] == config and best["format"] == 1


@pytest.mark.parametrize(
    ("options", "stop", "first", "updates", "told"),
    [
        (["--data.batch_size", "2"], 5, 0, 5 + 16, "batch_size 3 → 2: the states of the streams are reset, and the ep"),
        (["--data.batch_size", "2"], 11, 12, 11 + 8, "batch_size 3 → 2: the states"),  # of 74 windows instead of 50
        (["--data.window", "5"], 11, 6, 11 + 8, "window 4 → 5: the states"),  # of 40
        (["--data.window", "8", "--data.batch_size", "1"], 8, 12, 8 + 8, "batch_size 3 → 1, window 4 → 8: the states"),
    ],
)
def test_a_run_continues_with_other_batches_at_the_beginning_of_its_epoch(
    options: list[str],
    stop: int,
    first: int,
    updates: int,
    told: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if stop == 8:
        start(WRITES, monkeypatch, "--trainer.max_epochs", "1")
    else:
        with monkeypatch.context() as context, pytest.raises(SystemExit):
            at("on_train_batch_end", stop, stopped(), context)
            start(WRITES, context)
    read: list[tuple[int, bool]] = []
    plain = Streams.at
    with monkeypatch.context() as context:
        context.setattr(Streams, "at", lambda self, place: (read.append((place, self.whole)), plain(self, place))[1])
        model: list[Any] = []
        context.setattr(Throughput, "on_train_start", lambda self, trainer, module: model.append(module.state))
        call(context, *AGAIN, "--ckpt_path", LAST, "--trainer.max_epochs", "2", *options)
    printed = capsys.readouterr().out
    assert told in printed and ("the epoch starts again" in printed) == (stop != 8)
    trained = [place for place, whole in read if not whole]
    assert trained[:8] == [*range(first, first + 8)] and model == [None]
    assert read_checkpoint(LAST)["global_step"] == updates


def test_a_classifier_continues_with_other_batches_at_the_beginning_of_its_epoch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = {**CLASSIFIES, "trainer": {**TRAINER, "limit_train_batches": 1.0}}  # 8 batches of 5 or 6 of 7
    with monkeypatch.context() as context, pytest.raises(SystemExit):
        at("on_train_batch_end", 11, stopped(), context)
        start(whole, context)
    call(monkeypatch, *CPU, "--ckpt_path", LAST, "--data.path", "table.csv", "--data.batch_size", "7")
    assert "batch_size 5 → 7" in capsys.readouterr().out
    content = read_checkpoint(LAST)
    assert content["global_step"] == 11 + 6
    assert content["loops"]["fit_loop"]["state_dict"]["combined_loader"] == [{"position": 12}]


TEXT, OTHER = "0123456789 9876543210\n" * 30, "9876543210 0123456789\n" * 30  # of the same symbols
OFFER = "or train its weights on this one, anew, with --init_from instead of --ckpt_path"


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (
            OTHER,
            [],
            "text.txt: is not the text that the checkpoint was trained on, which had 594 symbols to train on, ",
        ),
        (TEXT + TEXT, [], "which had 594 symbols to train on, where this has 1,188: give the text of the run, "),
        (TEXT[:200], [], "which had 594 symbols to train on, where this has 180: give the text of the run, "),
        (TEXT, ["--data.val_fraction", "0.2"], "text.txt: has 528 training symbols, but 594 in the checkpoint: leave"),
        (TEXT, ["--data.val_fraction", "0"], "text.txt: has 660 training symbols, but 594 in the checkpoint: leave"),
    ],
    ids=["other", "longer", "shorter", "another fraction", "nothing held out"],
)
def test_a_run_does_not_continue_on_another_text(
    text: str,
    arguments: list[str],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    start(WRITES, monkeypatch, "--trainer.max_epochs", "1")
    Path("text.txt").write_text(text, encoding="utf-8")
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, *AGAIN, "--ckpt_path", LAST, *arguments)
    printed = capsys.readouterr().err
    assert message in printed and OFFER in printed and printed.count("\n") == 1, printed


def test_a_text_that_has_moved_is_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(WRITES, monkeypatch, "--trainer.max_epochs", "1")
    os.rename("text.txt", "moved.txt")
    call(monkeypatch, *CPU, "--ckpt_path", LAST, "--data.path", "moved.txt", "--trainer.max_epochs", "2")
    assert read_checkpoint(LAST)["global_step"] == 16


def test_a_classifier_does_not_continue_on_other_texts(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(CLASSIFIES, monkeypatch, "--trainer.max_epochs", "1")
    lines = Path("table.csv").read_text().splitlines(keepends=True)
    Path("table.csv").write_text("".join([*lines, lines[1]]))
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, *CPU, "--ckpt_path", LAST, "--data.path", "table.csv")
    printed = capsys.readouterr().err
    assert "table.csv: has not the texts that the checkpoint was trained on" in printed and OFFER in printed


def test_the_weights_of_a_run_are_trained_on_another_text_in_a_run_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its vocabulary stays, also when that run continues."""
    start(WRITES, monkeypatch, "--trainer.max_epochs", "1")
    before, files = read_checkpoint(LAST), {path: path.read_bytes() for path in Path("runs").rglob("*.*")}
    Path("new.txt").write_text("0123 abc\n" * 60, encoding="utf-8")
    first: list[dict[str, Any]] = []
    capsys.readouterr()
    with monkeypatch.context() as context:

        def note(self: Any, trainer: Any, module: Any) -> None:
            first.append({name: value.clone() for name, value in module.state_dict().items()})

        context.setattr(Throughput, "on_fit_start", note)
        call(context, *CPU, "--init_from", LAST, "--data.path", "new.txt", "--trainer.max_epochs", "1")
    told = (
        "not in the vocabulary: 33.3% of the training part, 33.3% of the held-out part: the vocabulary is that of the"
    )
    assert told in capsys.readouterr().out
    assert equal(first[0], before["state_dict"])
    assert files == {path: path.read_bytes() for path in files}
    new = LAST.replace("version_0", "version_1")
    trained = read_checkpoint(new)
    assert trained["global_step"] == 8 and trained["optimizer_states"][0]["state"][0]["step"] == 8
    assert trained["TextDataModule"]["tokenizer"] == before["TextDataModule"]["tokenizer"]
    call(monkeypatch, *CPU, "--ckpt_path", new, "--data.path", "new.txt", "--trainer.max_epochs", "2")
    assert read_checkpoint(new)["global_step"] == 16
    for arguments, message in (
        (["--ckpt_path", LAST, "--init_from", LAST], "--ckpt_path continues a run, and --init_from begins one"),
        (
            ["--init_from", LAST, "--model.hidden_size", "6"],
            "the checkpoint is of another model: --model.hidden_size 5",
        ),
        (["--init_from", LAST, "--data.level", "byte"], "--data.level is byte, but character in the checkpoint"),
        (["--init_from", "none.ckpt"], "none.ckpt: no such checkpoint"),
    ):
        with pytest.raises(SystemExit, match="2"):
            call(monkeypatch, *CPU, *arguments, "--data.path", "new.txt")
        printed = capsys.readouterr().err
        assert message in printed and printed.count("\n") == 1, printed


def test_a_classifier_is_trained_on_other_texts_with_its_words_and_labels(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(CLASSIFIES, monkeypatch, "--trainer.max_epochs", "1")
    Path("new.csv").write_text("text,label\n" + "It is new,good\nIt is,none\n" * 15)
    capsys.readouterr()
    call(monkeypatch, *CPU, "--init_from", LAST, "--data.path", "new.csv", "--trainer.max_epochs", "1")
    assert "19.4% of the words to train on are not in the checkpoint's vocabulary" in capsys.readouterr().out
    encoders = [
        read_checkpoint(LAST.replace("version_0", f"version_{n}"))["LabelledDataModule"]["encoder"] for n in (0, 1)
    ]
    assert encoders[0] == encoders[1]


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


def test_a_strangers_file_runs_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start(WRITES, monkeypatch, "--trainer.max_epochs", "1")
    good = read_checkpoint(LAST)
    torch.save({**good, "evil": Evil()}, "evil.ckpt")
    Path("plain.ckpt").write_bytes(pickle.dumps({**good, "evil": Evil()}))
    for path in ("evil.ckpt", "plain.ckpt"):
        with pytest.raises(SystemExit, match="2"):
            call(monkeypatch, "--ckpt_path", path)
        assert f"{path}: is not a checkpoint of train.py" in capsys.readouterr().err
    with pytest.raises(ValueError, match="evil.ckpt: is not a checkpoint of train.py"):
        WholeFiles().load_checkpoint("evil.ckpt", weights_only=False)
    assert not Path("harmed").exists()
    for config in ("", "{", "trainer: {max_epochs: 3}", {}, {"trainer": {}}):
        torch.save({**good, "config": config}, "bare.ckpt")
        with pytest.raises(SystemExit, match="2"):
            call(monkeypatch, "--ckpt_path", "bare.ckpt")
        assert "the checkpoint carries no config: give that of its run with --config" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"optimizer": "sgd", "learning_rate": 1e38}, "update 2 was not made: the loss is inf, the norm of"),
        ({"optimizer": "sgd", "learning_rate": 1e33, "warmup_steps": 9}, "after update 8 the held-out loss is nan:"),
    ],
)
def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(
    model: dict[str, Any],
    message: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="1"):
        start({**WRITES, "model": {**WRITES["model"], **model}}, monkeypatch)
    printed = capsys.readouterr().err
    assert printed.startswith(f"train.py: {message}") and printed.count("\n") == 1, printed
    command = " ".join(["python train.py --ckpt_path", LAST, *AGAIN, "--model.learning_rate"])
    assert re.search(rf"the learning rate is \S+\. To go on from before: {re.escape(command)} ", printed)
    assert all(torch.isfinite(value).all() for value in read_checkpoint(LAST)["state_dict"].values())


@pytest.mark.slow
def test_runs_that_are_killed_in_any_phase_end_as_one_that_never_was(tmp_path: Path) -> None:
    found = list(runs(len(kills.PHASES) + 3, tmp_path))
    assert {phase for run in found for phase in run.phases} >= kills.PHASES.keys()
    assert all(run.differences == [] and run.unreadable == 0 for run in found), found


@pytest.mark.slow
def test_runs_that_start_at_the_same_moment_leave_what_each_would_leave_alone(tmp_path: Path) -> None:
    assert kills.differences_of_two_at_once(tmp_path) == []
