"""Benchmarks measure what they say; how fast anything is, no test asks."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import layers
from benchmarks.__main__ import main
from benchmarks.pairs import compare


def test_both_sides_of_a_pair_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each side's run is caught on its way to the clock; after it, both leave the same gradient at the same leaves."""
    monkeypatch.setattr(layers, "SIZES", {cell: [(3, 2, 4)] for cell in ("lstm", "gru", "rnn")})
    monkeypatch.setattr(layers, "flops_per_second", lambda: 1e9)
    sides = []

    def caught(run, d, leaves):
        def both():
            for leaf in leaves:
                leaf.grad = None
            output = run()
            output.backward(d)
            return output.detach(), [leaf.grad for leaf in leaves if leaf.grad is not None]

        sides.append(both)
        return both

    monkeypatch.setattr(layers, "forward_and_back", caught)
    rows = list(layers.rows(pairs=3))
    assert [row["cell"] for row in rows] == ["lstm", "lstm", "gru", "gru", "rnn", "rnn"]
    assert [row["input"] for row in rows] == ["tokens", "dense"] * 3
    for ours, theirs in zip(sides[::2], sides[1::2], strict=True):
        (a, of_a), (b, of_b) = ours(), theirs()
        torch.testing.assert_close(a, b)
        assert sorted(g.shape for g in of_a) == sorted(g.shape for g in of_b)
        torch.testing.assert_close(sum(g.abs().sum() for g in of_a), sum(g.abs().sum() for g in of_b))


def test_the_ratio_is_theirs_over_ours() -> None:
    fast, slow = torch.randn(8, 8), torch.randn(400, 400)
    found = compare(lambda: fast @ fast, lambda: slow @ slow @ slow, pairs=5)
    assert found.ratio > 1 and found.low <= found.ratio <= found.high


def test_the_table_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(layers, "SIZES", {"lstm": [(3, 2, 4)]})
    monkeypatch.setattr("sys.argv", ["benchmarks", "layers", "--pairs", "2", "--out", str(tmp_path / "layers.json")])
    main()
    written = json.loads((tmp_path / "layers.json").read_text(encoding="utf-8"))
    assert len(written["rows"]) == 2 and written["precision"] == "float32"
    assert "tokens" in capsys.readouterr().out
