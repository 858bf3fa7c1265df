"""What a page says of the run that a checkpoint comes from, and what each symbol of a text cost the model."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.insight.gates import gate_table
from models.insight.losses import symbol_losses
from models.insight.recording import record
from models.insight.run import POINTS, facts, recorded_losses, run_of, thinned
from models.language_model import LanguageModel

METRICS = "step,train_loss,val_loss\n9,3.0,\n19,2.5,\n19,,2.75\n29,2.0,\n29,,2.25\n"
ABOUT = {"cell": "lstm", "layers": 2, "hidden_size": 8, "embedding_size": None, "parameters": 1234, "vocab_size": 99}


def run_in(folder: Path, metrics: str | None = METRICS) -> Path:
    """The checkpoint of a run."""
    path = folder / "runs" / "rnn" / "version_3" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    if metrics is not None:
        (path.parent.parent / "metrics.csv").write_text(metrics, encoding="utf-8")
    return path


def test_a_run_is_named_by_its_folder_and_the_loss_is_that_of_its_last_validation(tmp_path: Path) -> None:
    run = run_of(run_in(tmp_path), {"epoch": 1, "global_step": 25})
    assert run["name"] == "rnn/version_3" and run["update"] == 25 and run["epoch"] == 2
    assert run["held_out"] == 2.75, "the validation after update 30 came after the checkpoint"
    assert run["losses"]["train"]["updates"].tolist() == [10, 20, 30], "updates are counted from 1"
    assert run["losses"]["held out"]["nats"].tolist() == [2.75, 2.25]
    told = facts(run, ABOUT)
    assert told["Trained until"] == "update 25, epoch 2"
    assert told["Held-out loss"] == f"2.7500 nats = {2.75 / math.log(2):.4f} bits per symbol"
    assert told["Architecture"] == "LSTM, 2 × 8 units, one-hot input, 1,234 parameters, vocabulary of 99"


def test_without_metrics_the_loss_is_that_of_the_callbacks(tmp_path: Path) -> None:
    callbacks = {"other": 3, "best": {"monitor": "val_loss", "current_score": torch.tensor(1.25)}}
    run = run_of(run_in(tmp_path, None), {"callbacks": callbacks})
    assert run["held_out"] == 1.25 and run["losses"] == {} and run["update"] is run["epoch"] is None
    assert facts(run, ABOUT)["Trained until"] == "not recorded"


def test_a_checkpoint_that_lies_elsewhere_has_no_losses_of_others(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(METRICS, encoding="utf-8")
    path = tmp_path / "folder" / "copied.ckpt"
    path.parent.mkdir()
    path.write_bytes(b"")
    run = run_of(path, {"callbacks": []})
    assert run["name"] == "copied" and run["losses"] == {} and run["held_out"] is None
    assert "not recorded" in facts(run, ABOUT)["Held-out loss"]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0\0\0", b"step,train_loss\n", b"a,b\n1,2\n", b"step,train_loss\n\xff,\xfe\n", b"step,train_loss\n7\n",
        b"step,train_loss\n7,nan\nx,1\n8,inf\n", b'step,train_loss\n"7,1\n',
    ],
)  # fmt: skip
def test_a_damaged_file_of_metrics_gives_no_curve(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    assert recorded_losses(tmp_path / "metrics.csv") == {}


def test_what_is_whole_in_a_damaged_file_is_drawn(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"step,train_loss\n9,3.0\n\0\0\n19,2.5,4,5\n29")
    at, nats = recorded_losses(tmp_path / "metrics.csv")["train"]
    assert at.tolist() == [10, 20] and nats.tolist() == [3.0, 2.5]


@pytest.mark.parametrize("count", [1, POINTS, POINTS + 1, 12_345])
def test_a_long_curve_is_thinned_to_means(count: int) -> None:
    at = np.arange(count, dtype=float)
    few, means = thinned(at, 2 * at)
    assert len(few) <= POINTS + 1 and few[-1] == count - 1 and (means == 2 * few).all()


def test_each_symbol_has_the_loss_that_the_model_gives_it() -> None:
    model = LanguageModel(7, "gru", hidden_size=4).double().eval()
    ids = torch.tensor([1, 2, 3, 6, 0, 0, 5])
    logits = model(ids[:-1, None], None)[0][:, 0]
    found = symbol_losses(model, record(model, ids[:, None]), ids)
    expected = F.cross_entropy(logits, ids[1:], reduction="none").detach().numpy()
    assert math.isnan(found["nats"][0]) and np.abs(found["nats"][1:] - expected).max() < 1e-6  # float32
    assert found["mean"] == pytest.approx(expected.mean()) and found["right"] == np.mean(
        (logits.argmax(-1) == ids[1:]).numpy()
    )


@pytest.mark.parametrize("cell, gates", [("rnn", []), ("gru", ["r", "z"]), ("lstm", ["i", "f", "o"])])
def test_gates_of_any_cell_come_in_one_table(cell: str, gates: list[str]) -> None:
    model = LanguageModel(7, cell, hidden_size=4, num_layers=2).eval()  # type: ignore[arg-type]
    table = gate_table(record(model, torch.arange(7)[:, None]))
    assert [(row["layer"], row["gate"]) for row in table] == [(layer, gate) for layer in range(2) for gate in gates]
    for row in table:
        assert 0 < row["mean"] < 1 and 0 <= row["shut"] + row["open"] <= 1
        assert (row["half_life"] is None) == (row["gate"] != "f")
