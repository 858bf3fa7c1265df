"""Benchmarks measure what they say, of two sides that compute the same; how fast anything is, no test asks."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from benchmarks import char_rnn, generation, growth, layers, memory, pairs, training
from benchmarks.__main__ import MEASUREMENTS, main
from benchmarks.peers import with_torch_layers
from datamodules.text import TextDataModule
from models.language_model import LanguageModel
from models.recurrent import Recurrent, ours_name
from models.sampling import generate

ROUNDING = {"rtol": 1e-4, "atol": 1e-5}  # of float32: some dozen roundings of 6e-8 in sums whose terms are near 1
UPDATED = {"rtol": 1e-3, "atol": 1e-4}  # and after 4 updates of 0.01 each, which Adam makes of small gradients, too


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Everything that is measured, so small that the test does not take long."""
    (tmp_path / "text.txt").write_text("so it goes on and on, " * 40, encoding="utf-8")
    config = {
        "trainer": {"max_epochs": 5, "limit_train_batches": 2000, "gradient_clip_val": 0.1, "log_every_n_steps": 2},
        "model": {"cell": "lstm", "embedding_size": 5, "hidden_size": 6, "learning_rate": 0.01},
        "data": {"path": str(tmp_path / "text.txt"), "batch_size": 3, "window": 4},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.setattr(training, "CONFIG", tmp_path / "small.yaml")
    monkeypatch.setattr(training, "WARM_UP", 1)
    monkeypatch.setattr(training, "UPDATES", 3)
    monkeypatch.setattr(layers, "SIZES", {"cpu": {"lstm": [(3, 2, 4)], "gru": [(3, 2, 4)]}})
    monkeypatch.setattr(layers, "flops_per_second", lambda *sizes: 1e9)
    monkeypatch.setattr(growth, "USUAL", {"T": 2, "B": 2, "H": 3, "L": 1})
    monkeypatch.setattr(growth, "AXES", {axis: (1, 2) for axis in "HBTL"})
    monkeypatch.setattr(generation, "LENGTH", 3)
    monkeypatch.setattr(memory, "SIZES", [(2, 2, 3)])
    monkeypatch.setattr(memory, "in_a_process", lambda side, T, B, H, device: {"ours": 5e6, "theirs": 10e6}[side])
    monkeypatch.setattr(char_rnn, "SIZES", [(3, 2, 4, 5)])
    return config


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("given", ["tokens", "dense"])
def test_both_layers_compute_the_same(cell: str, given: str) -> None:
    pair = layers.Pair(cell, T=3, B=2, H=4, L=2)
    results = []
    for run, side, module in zip(pair.runs(given), pair.sides[given], (pair.ours, pair.theirs), strict=True):
        run()
        read = pair.embedding.weight if given == "tokens" else pair.x
        results.append((side(), read.grad, {name: p.grad for name, p in module.named_parameters()}))
    (h, d_read, d), (their_h, their_d_read, their_d) = results
    torch.testing.assert_close(h, their_h, **ROUNDING)
    torch.testing.assert_close(d_read, their_d_read, **ROUNDING)
    torch.testing.assert_close(d, {ours_name(name): gradient for name, gradient in their_d.items()}, **ROUNDING)


def test_a_run_starts_without_gradients() -> None:
    """Else memory would hold twice what a step needs, and the second run add to the first."""
    pair = layers.Pair("lstm", T=3, B=2, H=4)
    ours, _ = pair.runs("tokens")
    ours()
    first = pair.embedding.weight.grad
    ours()
    assert pair.embedding.weight.grad is not first and torch.equal(pair.embedding.weight.grad, first)


def test_the_floor_counts_two_flops_for_each_factor_forward_and_twice_back() -> None:
    T, B, H = 3, 2, 4
    one_way = 2 * T * B * 4 * H * H  # of W_hh h, four gates
    assert layers.flops("lstm", "dense", T, B, H) == 3 * 2 * one_way
    assert layers.flops("lstm", "tokens", T, B, H) == 3 * (one_way + 2 * layers.V * 4 * H * H)


def test_the_floor_is_the_faster_of_two_kinds_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {(8, 8, 8): 1e-6, (2, 4, 12): 1e-7}
    monkeypatch.setattr(layers, "seconds_of_a_product", lambda n, k, m, device: seconds[n, k, m])
    assert layers.flops_per_second(2, 4, 3, "cpu", large=8) == pytest.approx(2 * 2 * 4 * 12 / 1e-7)  # rounding of 1e-16


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_model_with_torch_layers_computes_the_same(cell: str) -> None:
    model = LanguageModel(7, cell, embedding_size=5, hidden_size=6, num_layers=2)
    peer = with_torch_layers(model)
    tokens = torch.randint(7, (2, 4, 3))
    state = their_state = None
    for window in tokens:  # the second goes on from the first
        logits, state = model(window, state)
        theirs, their_state = peer(window, their_state)
        torch.testing.assert_close(logits, theirs, **ROUNDING)


def test_a_stretch_of_training_leaves_the_same_weights_however_it_is_run(small: dict[str, Any], tmp_path: Path) -> None:
    data = TextDataModule(**small["data"])
    torch.manual_seed(0)
    first = LanguageModel(data.vocab_size, **small["model"])
    weights = {}
    for way in ("ours", "theirs", "loop"):
        data, model = TextDataModule(**small["data"]), LanguageModel(data.vocab_size, **small["model"])
        model.load_state_dict(first.state_dict())
        model = with_torch_layers(model) if way == "theirs" else model
        if way == "loop":
            seconds = training.by_a_loop(model, data, small["trainer"]["gradient_clip_val"], "cpu")
        else:
            seconds = training.by_lightning(model, data, small["trainer"] | {"accelerator": "cpu"}, tmp_path / "run/0")
        assert seconds > 0
        if way == "theirs":
            model.recurrent = Recurrent.from_torch(model.recurrent)
        weights[way] = model.state_dict()
    assert all(torch.equal(weights["ours"][name], by_loop) for name, by_loop in weights["loop"].items())
    torch.testing.assert_close(weights["theirs"], weights["ours"], **UPDATED)
    assert not torch.allclose(weights["ours"]["head.weight"], first.head.weight, **UPDATED)  # it did learn


def test_both_ways_of_generation_write_the_same() -> None:
    """Of a model so sure that no dice matter, whose symbols depend on more than the one before."""
    torch.manual_seed(1)
    model, prompt = LanguageModel(30, embedding_size=5, hidden_size=20).eval(), torch.tensor([3, 1])
    with torch.no_grad():
        model.head.weight.normal_(std=1e4)
    text = generation.by_a_loop(with_torch_layers(model), prompt, 20)
    assert text == list(generate(model, prompt, 20))
    assert len({*zip(text, text[1:], strict=False)}) > len({*text}) > 3


@pytest.mark.parametrize("B", [1, 3])
def test_the_loop_over_columns_computes_the_same_gradients(B: int) -> None:
    p = char_rnn.parameters(H=4, V=5)
    tokens, targets = np.random.default_rng(0).integers(5, size=(2, 6, B))
    loss, d, _ = char_rnn.MODEL.loss_and_gradients(p, tokens, targets)
    their_loss, theirs = char_rnn.by_columns(p, tokens, targets)
    assert abs(loss - their_loss) < 1e-14  # float64: some dozen roundings of 1e-16 in sums near 1
    assert theirs.keys() == d.parameters.keys()
    for name, gradient in d.parameters.items():
        np.testing.assert_allclose(theirs[name], gradient, rtol=0, atol=1e-14, err_msg=name)  # as the loss is


def test_growth_is_told_in_microseconds_per_token(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        growth, "compare", lambda *runs: pairs.Comparison(ours=12e-6, theirs=24e-6, ratio=2, low=2, high=2)
    )
    by_steps = [row for row in growth.rows(2) if row["over"] == "T"]
    assert [row["ours"] for row in by_steps] == pytest.approx([12 / 2, 12 / 4])  # of 1 step and 2, of 2 streams each


needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="there is no /proc/self/clear_refs")
IN_A_NEW_PROCESS = """
import torch
from benchmarks import memory
torch.ones(5 * 10**7)  # a higher peak, before
print(memory.rise(lambda: torch.ones(10**7), "cpu"))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="this system does not report memory as Linux does"
)
def test_the_rise_is_what_a_run_takes_and_gives_back() -> None:
    """In a process of its own, as other tests leave memory that would be used again."""
    command, root = [sys.executable, "-c", IN_A_NEW_PROCESS], Path(__file__).parent.parent
    environment = {**os.environ, **memory.AT_ONCE}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(4e7, rel=0.05)  # counted in pages, and Python takes some for itself


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="this system does not report memory as Linux does"
)
def test_memory_is_measured_in_a_process_of_its_own() -> None:
    found = memory.in_a_process("ours", 8, 8, 64, "cpu")
    states = 4 * 8 * 8 * 64  # bytes of what a state (T, B, H) holds: at least the gates are kept
    assert 4 * states < found < 10**8


def test_a_process_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RuntimeError):
        memory.in_a_process("ours", 8, 8, 64, "cpu")


def test_the_ratio_is_theirs_over_ours_with_quartiles_of_pairs() -> None:
    ours, theirs = iter([1.0, 2.0, 1.0, 2.0, 1.0]), iter([1.0, 4.0, 3.0, 8.0, 5.0])
    found = pairs.in_turn(lambda: next(ours), lambda: next(theirs), 5)
    assert found == pairs.Comparison(ours=1, theirs=4, ratio=3, low=2, high=4)
    assert found.scaled(10) == pairs.Comparison(ours=10, theirs=40, ratio=3, low=2, high=4)
    assert found.rates(8) == pairs.Comparison(ours=8, theirs=2, ratio=3, low=2, high=4)


def test_the_slower_side_takes_longer_and_threads_stay_as_they_were() -> None:
    torch.set_num_threads(2)
    fast, slow = torch.randn(8, 8), torch.randn(400, 400)
    found = pairs.compare(lambda: fast @ fast, lambda: slow @ slow @ slow, pairs=5)
    assert found.ratio > 1 and torch.get_num_threads() == 2
    torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("name", "count"), [("layers", 4), ("growth", 8), ("training", 2), ("generation", 1), ("memory", 1), ("numpy", 1)]
)
def test_the_table_and_the_file(
    name: str,
    count: int,
    small: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {"out": tmp_path / "out.json", "plot": tmp_path / "out.png"}
    given = [f"--{file}={path}" for file, path in files.items() if file == "out" or name == "growth"]
    monkeypatch.setattr("sys.argv", ["benchmarks", name, "--pairs=2", *given])
    main()
    written = json.loads(files["out"].read_text(encoding="utf-8"))
    assert len(written["rows"]) == count and written["torch"] == version("torch") and written["machine"]["processor"]
    assert all({"against", "unit", "ours", "theirs", "ratio", "low", "high"} <= row.keys() for row in written["rows"])
    printed = capsys.readouterr().out
    assert MEASUREMENTS[name].__doc__ in printed and f"{written['rows'][0]['ratio']:.2f} (" in printed
    assert files["plot"].exists() == (name == "growth")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["layers", "--pairs=1"], "--pairs is 1: quartiles need at least 2"),
        (["training", "--device=cuda"], "--device is cuda: there is no GPU here; leave it out"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    given: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["benchmarks", *given])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == f"python -m benchmarks: {said}\n"


@pytest.mark.slow
def test_a_corpus_is_generated_encoded_killed_and_encoded_by_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "sys.argv", ["benchmarks", "corpora", "--bytes=2e7", "--level=byte", f"--folder={tmp_path / 'corpora'}"]
    )
    main()
    printed = capsys.readouterr().out
    assert "MB/s" in printed and printed.count("the same numbers") == 3 and "OTHER" not in printed
