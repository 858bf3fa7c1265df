"""Two processes do what one does with both their streams: through train.py, as users start them."""

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow
TEXT = "".join(f"{number} times {number + 1} is {number * (number + 1)}.\n" for number in range(200))
SGD = {"optimizer": "sgd", "learning_rate": 0.5}
CONFIG: dict[str, Any] = {
    "seed_everything": 1,
    "trainer": {
        "accelerator": "cpu",
        "precision": "64-true",
        "max_steps": 6,
        "log_every_n_steps": 1,
        "gradient_clip_val": 1.0,
        "enable_progress_bar": False,
    },
    "model": {"embedding_size": 4, "hidden_size": 6, **SGD},
    "data": {"batch_size": 8, "window": 8, "val_streams": 4},
}


def train(root: Path, processes: int, arguments: Sequence[str] = (), **parts: dict[str, Any]) -> dict[str, Any]:
    """The last checkpoint of a run."""
    root.mkdir()
    parts = {**CONFIG, **parts}
    parts["trainer"] = {**CONFIG["trainer"], **parts["trainer"], "devices": processes, "default_root_dir": str(root)}
    if processes > 1:
        parts["trainer"]["strategy"] = "ddp"
    if "path" not in parts["data"]:
        (root / "text.txt").write_text(TEXT, encoding="utf-8")
        parts["data"] = {**parts["data"], "path": str(root / "text.txt")}
    (root / "run.yaml").write_text(yaml.safe_dump(parts), encoding="utf-8")
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(root / "run.yaml"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    (last,) = root.glob("run/version_*/checkpoints/last.ckpt")
    return torch.load(last, weights_only=True)


def assert_close(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Weights of two runs, and what their optimizers and streams have.

    A gradient is the mean of n = 64 steps' terms of at most 1, each known to some 10 u. However they are grouped, their
    mean is off by at most (n + 10) u < 1e-14, and two groupings are at most 2e-14 apart. Six updates of rate 0.5 add
    that up to three times, and pass on what they have by factors near 1: 1e-13 is the bound. Other streams than these,
    or a mean of means where parts are uneven, come out further apart by ten orders of magnitude.
    """
    for name, value in one["state_dict"].items():
        assert value.dtype == torch.float64
        assert torch.allclose(value, other["state_dict"][name], rtol=0, atol=1e-13), name


def held_out(root: Path) -> dict[str, float]:
    with next(root.glob("run/version_*/metrics.csv")).open(encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return {name: value for row in rows for name, value in row.items() if name in ("val_loss", "train_loss")}


def test_two_processes_make_the_updates_of_one(tmp_path: Path) -> None:
    alone, together = (train(tmp_path / str(processes), processes) for processes in (1, 2))
    assert_close(alone, together)
    states = [torch.stack(run["recurrent_state"]) for run in (alone, together)]  # of all streams, in their order
    assert states[0].shape == (2, 1, 8, 6) and torch.allclose(*states, rtol=0, atol=1e-13)
    # Means over all symbols, of all streams.
    assert held_out(tmp_path / "1") == pytest.approx(held_out(tmp_path / "2"), rel=1e-13)
    assert alone["TextDataModule"] == together["TextDataModule"]


def test_two_processes_share_uneven_batches_of_labelled_texts(tmp_path: Path) -> None:
    """Of three texts one process has two, of the last batch's one both have that one, and it counts once."""
    table = tmp_path / "table.csv"
    texts = ["It is good!,good", "It isn't,bad", "It is what it is,none", "Good,good", "Not so good at all,bad"]
    table.write_text("\n".join(["text,label", *texts * 2, ""]), encoding="utf-8")
    options = {
        "data": {"path": str(table), "val_path": str(table), "batch_size": 3, "balanced": True},
        "model": {"embedding_size": 4, "hidden_size": 3, "label_smoothing": 0.1, **SGD},
        "arguments": ["--task", "classify"],
    }
    alone, together = (train(tmp_path / str(processes), processes, **options) for processes in (1, 2))
    assert_close(alone, together)
    found = [held_out(tmp_path / str(processes))["val_loss"] for processes in (1, 2)]
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_two_processes_resume_with_the_same_bits_and_drop_different_values(tmp_path: Path) -> None:
    drops = {"model": {**CONFIG["model"], "dropout": 0.5}}
    whole = train(tmp_path / "whole", 2, **drops)
    train(tmp_path / "part", 2, trainer={"max_steps": 3}, **drops)
    last = next((tmp_path / "part").glob("run/*/checkpoints/last.ckpt"))
    text = {"data": {**CONFIG["data"], "path": str(tmp_path / "part" / "text.txt")}}
    resumed = train(tmp_path / "rest", 2, arguments=["--ckpt_path", str(last)], **drops, **text)
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    mine, other = whole["random_states"]
    assert not torch.equal(mine[0], other[0])
