"""`python -m benchmarks readme`: every figure of README is found, measured or said not to be."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import char_rnn, layers, memory, readme
from benchmarks.__main__ import main
from benchmarks.readme import MEASURED, NOT_MEASURED, cell_of, ranges

TEXT = readme.README.read_text(encoding="utf-8")


def test_every_figure_stands_where_it_is_looked_for() -> None:
    for figures in MEASURED:
        assert len(ranges(cell_of(TEXT, figures.line, figures.cell))) >= len(figures.rows), figures.line
        assert figures.source in readme.SOURCES
    for beginning in NOT_MEASURED:
        cell_of(TEXT, beginning, 0)


def test_the_benchmarks_have_the_rows_that_are_looked_for() -> None:
    sizes = {
        "layers": [{"cell": cell, "H": H} for cell, of in layers.SIZES["cpu"].items() for _, _, H in of],
        "memory": [{"H": H} for _, _, H in memory.SIZES],
        "numpy": [{"B": B} for _, B, _, _ in char_rnn.SIZES],
    }
    for figures in MEASURED:
        for row in figures.rows if figures.source in sizes else []:
            assert any(size.items() <= row.items() for size in sizes[figures.source]), row


@pytest.mark.parametrize("header", ["| config | what |", "| what | ratio |"])
def test_every_row_of_a_table_of_figures_is_measured_or_said_not_to_be(header: str) -> None:
    rows = TEXT.split(header)[1].split("\n\n")[0].splitlines()[2:]
    known = [*(figures.line for figures in MEASURED), *NOT_MEASURED]
    assert len(rows) > 7
    for row in rows:
        assert any(row.startswith(beginning) for beginning in known), row


def test_numbers_are_read_as_ranges() -> None:
    text = "**1.54–1.64** · 2 · **1.80 to 2.14**, 108,000 tokens/s, 48%"
    assert ranges(text) == [(1.54, 1.64), (2, 2), (1.8, 2.14), (108000, 108000), (48, 48)]
    assert ranges("a narrow embedding") == []
    assert cell_of("| a | b |\n| c | 1 |", "| c", 1).strip() == "1"
    with pytest.raises(ValueError, match="no line that begins with 'x'"):
        cell_of("a", "x", 0)


def fake(row: dict[str, Any]) -> Any:
    return lambda pairs: iter([row])


def test_what_was_measured_stands_beside_what_readme_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = ["| one | **1.5–2** · 3 | 10,000 |", "| two | 7 | |", "| three | 98.6% of 350 | |"]
    (tmp_path / "README.md").write_text("\n".join(lines), encoding="utf-8")
    both = [
        {"H": 1, "ratio": 1.4, "low": 1.2, "high": 1.6, "ours": 9000.0},
        {"H": 2, "ratio": 3.5, "low": 3.1, "high": 4.0},
    ]

    def broken(pairs: int) -> Iterator[Any]:
        raise RuntimeError("no\ncompiler")

    sources = {"a": lambda pairs: iter(both), "b": broken, "c": fake({"result": 0.99})}
    figures = [
        readme.Figures("| one", 1, "a", [{"H": 1}, {"H": 2}]),
        readme.Figures("| one", 2, "a", [{"H": 1}], readme.speed),
        readme.Figures("| two", 1, "b"),
        readme.Figures("| three", 1, "c", value=readme.result),
    ]
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    monkeypatch.setattr(readme, "MEASURED", figures)
    monkeypatch.setattr(readme, "SOURCES", sources)
    monkeypatch.setattr(readme, "IN_PERCENT", ("c",))
    found = list(readme.rows(2))
    assert [row.get("agrees") for row in found] == [True, False, False, None, False]
    assert [readme.lines(row) for row in found] == [
        ["one", "H 1", "1.5–2", "1.4 (1.2 to 1.6)", "agrees"],
        ["one", "H 2", "3", "3.5 (3.1 to 4)", "DIFFERS"],
        ["one", "H 1", "10,000", "9,000", "DIFFERS"],
        ["two", "", "7", "", "not measured: no compiler"],
        ["three", "", "98.6", "99", "DIFFERS"],
    ]
    monkeypatch.setattr(readme, "MEASURED", [readme.Figures("| two", 1, "a", [{"H": 1}, {"H": 2}])])
    with pytest.raises(ValueError, match="README.md has 1 figures where '. two' begins, not 2"):
        list(readme.rows(2))


def test_the_command_prints_machine_figures_and_what_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {**row, "ratio": 1.0, "low": 0.9, "high": 1.1, "ours": 2.0, "floor": 1.0, "result": 3.0}
        for figures in MEASURED
        for row in figures.rows
    ]
    monkeypatch.setattr(readme, "SOURCES", dict.fromkeys(readme.SOURCES, lambda pairs: iter(rows)))
    monkeypatch.setattr("sys.argv", ["benchmarks", "readme", "--pairs=2", f"--out={tmp_path / 'out.json'}"])
    main()
    printed, written = capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert len(written["rows"]) == sum(len(figures.rows) for figures in MEASURED)
    assert written["machine"]["processor"] in printed and "50" in printed
    for beginning, command in NOT_MEASURED.items():
        assert f"{beginning.strip('| :'):32}{command}" in printed


def test_a_training_run_is_measured_by_what_it_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = "held out         0.0097 nats = 0.0140 bits per symbol\n"
    runs = iter([SimpleNamespace(stdout=printed, stderr=""), SimpleNamespace(stdout="", stderr="a\ntrain.py: no text")])
    monkeypatch.setattr(subprocess, "run", lambda command, **options: next(runs))
    assert list(readme.SOURCES["memorise.yaml"](2)) == [{"result": 0.0097}]
    assert readme.measured_rows("memorise.yaml", 2) == "train.py: no text"
    report = "best checkpoint  x\nheld out         0.0030 nats a text\nheld out         accuracy 0.9860, macro F1 1.0\n"
    runs = iter([SimpleNamespace(stdout=report, stderr="")])
    assert list(readme.SOURCES["sentiment.yaml"](2)) == [{"result": 0.986}]


def test_the_standard_library_is_counted() -> None:
    training, held_out, vocabulary = (row["result"] for row in readme.corpus(2))
    assert training > 5_000_000 and 0.04 < held_out / training < 0.06 and vocabulary > 100
