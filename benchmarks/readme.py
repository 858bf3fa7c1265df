"""Figures of README.md, measured again and printed beside what stands there. A figure is found by how its line begins
and by the cell of the table that it stands in, and README may give it as a range.

A measured figure has its quartiles where it was measured several times; that it agrees means that the two ranges
overlap. Absolute speeds depend on the machine and on what else runs there. What would take longer than a minute or two
is listed with the command that measures it.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import char_rnn, generation, layers, memory, training
from datamodules.text import TextDataModule

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAIRS = 3
NUMBER = r"\d[\d,]*(?:\.\d+)?"
Range = tuple[float, float]
Measured = tuple[float, float, float]  # the figure, and its lower and upper quartile
Row = dict[str, Any]


@dataclass(frozen=True)
class Figures:
    """Those in one place of README, and which rows of which benchmark measure them, in the order of README."""

    line: str  # how it begins
    cell: int  # of the table, counted from 0
    source: str  # a name in `SOURCES`
    rows: list[Row] = field(default_factory=lambda: [{}])  # what a row must have
    value: Callable[[Row], Measured] = lambda row: (row["ratio"], row["low"], row["high"])


def speed(row: Row) -> Measured:
    return row["ours"], row["ours"], row["ours"]


def share_of_floor(row: Row) -> Measured:
    share = 100 * row["floor"] / row["ours"]
    return share, share, share


def result(row: Row) -> Measured:
    return row["result"], row["result"], row["result"]


PARTS = ("training", "held out", "vocabulary")  # of a text
TOKENS = [{"cell": "lstm", "input": "tokens", "H": H} for H in (128, 256, 512)]
MEASURED = [
    Figures("python-stdlib: ", 0, "corpus", [{"part": part} for part in PARTS], result),
    Figures("| `memorise.yaml`", 2, "memorise.yaml", value=result),
    Figures("| `sentiment.yaml`", 2, "sentiment.yaml", value=result),
    Figures("| LSTM on tokens", 1, "layers", TOKENS),
    Figures("| LSTM on tokens", 2, "layers", TOKENS, share_of_floor),
    Figures("| LSTM on vectors", 1, "layers", [row | {"input": "dense"} for row in TOKENS]),
    Figures(
        "| GRU on tokens", 1, "layers",
        [{"cell": cell, "input": given, "H": 256} for cell in ("gru", "rnn") for given in ("tokens", "dense")],
    ),
    Figures("| `configs/lstm.yaml`, against", 1, "training", [{"against": "the same with nn.LSTM"}]),
    Figures("| `configs/lstm.yaml`, against", 2, "training", [{"against": "the same with nn.LSTM"}], speed),
    Figures("| the same, against a loop", 1, "training", [{"against": "a loop without Lightning"}]),
    Figures("| text drawn from one stream", 1, "generation"),
    Figures("| text drawn from one stream", 2, "generation", value=speed),
    Figures("| memory of a training step", 1, "memory", [{"H": 256}, {"H": 512}]),
    Figures("| NumPy by hand", 1, "numpy", [{"B": 1}, {"B": 16}]),
]  # fmt: skip
NOT_MEASURED = {  # how a line begins, and what measures its figures
    **{
        f"| `{name}.yaml`": f"python train.py --config configs/{name}.yaml"
        for name in ("lstm", "gru", "attention", "deep", "many-to-one", "word")
    },
    **{
        f"| `{name}.yaml`": f"python train.py --config configs/{name}.yaml, which needs a corpus"
        for name in ("tinyshakespeare", "tinyshakespeare-long", "sst2", "large")
    },
    "letters typed  words": "python train.py --config configs/lstm.yaml, at its end",
    "brackets balanced": "python predict.py score",
    "| tested with | bugs let pass": "python check.py mutants",
    "| cell | format | NumPy": "python check.py precision",
}


def corpus(pairs: int) -> Iterator[Row]:
    """Symbols of the standard library of this Python, and how many are different."""
    data = TextDataModule(val_fraction=0.05)
    sizes = len(data.train_streams.ids), len(data.val_streams.ids), data.vocab_size
    yield from ({"part": part, "result": float(size)} for part, size in zip(PARTS, sizes, strict=True))


def trained(config: str, pattern: str) -> Callable[[int], Iterator[Row]]:
    """What a training run prints: the number in a pattern."""

    def rows(pairs: int) -> Iterator[Row]:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(ROOT / "train.py"), f"--config={ROOT / 'configs' / config}"]
            command += [f"--trainer.default_root_dir={folder}", "--trainer.enable_progress_bar=false"]
            run = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, encoding="utf-8")
        if not (found := re.search(pattern, run.stdout)):
            raise RuntimeError((run.stderr.strip().splitlines() or ["it printed no result"])[-1])
        yield {"result": float(found[1])}

    return rows


SOURCES: dict[str, Callable[[int], Iterator[Row]]] = {
    "corpus": corpus,
    "memorise.yaml": trained("memorise.yaml", rf"held out +({NUMBER}) nats"),
    "sentiment.yaml": trained("sentiment.yaml", rf"best checkpoint[\s\S]*accuracy ({NUMBER})"),
    "layers": lambda pairs: layers.rows(pairs, "cpu"),
    "training": lambda pairs: training.rows(pairs, "cpu"),
    "generation": generation.rows,
    "memory": lambda pairs: memory.rows(pairs, "cpu"),
    "numpy": char_rnn.rows,
}
IN_PERCENT = ("sentiment.yaml",)  # README has so what is a share here


def rows(pairs: int) -> Iterator[Row]:
    """A row for each figure that is measured: what README says, what was measured, and whether they agree."""
    text = README.read_text(encoding="utf-8")
    measured: dict[str, list[Row] | str] = {}
    for figures in MEASURED:
        if figures.source not in measured:
            measured[figures.source] = measured_rows(figures.source, pairs)
        yield from side_by_side(figures, text, measured[figures.source])


def measured_rows(source: str, pairs: int) -> list[Row] | str:
    """Of a source, or why there are none."""
    try:
        return list(SOURCES[source](pairs))
    except (RuntimeError, OSError, ValueError) as error:
        return " ".join(str(error).split())[:200] or type(error).__name__


def side_by_side(figures: Figures, text: str, measured: list[Row] | str) -> Iterator[Row]:
    """Raises ValueError where README has fewer figures there than are measured."""
    written = ranges(cell_of(text, figures.line, figures.cell))
    if len(written) < len(figures.rows):
        raise ValueError(f"README.md has {len(written)} figures where {figures.line!r} begins, not {len(figures.rows)}")
    factor = 100 if figures.source in IN_PERCENT else 1
    for wanted, (low, high) in zip(figures.rows, written, strict=False):
        what = ", ".join(f"{name} {value}" for name, value in wanted.items())
        row: Row = {"figure": figures.line.strip("| :"), "of": what, "source": figures.source, "readme": [low, high]}
        if isinstance(measured, str):
            yield row | {"error": measured}
            continue
        of_it = next(one for one in measured if wanted.items() <= one.items())
        value, lower, upper = (factor * number for number in figures.value(of_it))
        yield row | {"measured": value, "low": lower, "high": upper, "agrees": lower <= high and low <= upper}


def cell_of(text: str, beginning: str, cell: int) -> str:
    """Of the first line that begins so; a line that is no row of a table is a single cell.

    Raises ValueError where there is no such line.
    """
    for line in text.splitlines():
        if line.startswith(beginning):
            return line.strip("|").split(" | ")[cell] if line.startswith("|") else line
    raise ValueError(f"README.md has no line that begins with {beginning!r}")


def ranges(text: str) -> list[Range]:
    """The numbers in a text, each as a range: 1.5, 1.5–2 and 1.5 to 2."""
    found = re.findall(rf"({NUMBER})(?:(?:–| to )({NUMBER}))?", text.replace("*", ""))
    numbers = [[float(number.replace(",", "")) for number in pair if number] for pair in found]
    return [(pair[0], pair[-1]) for pair in numbers]


def lines(row: Row) -> list[str]:
    """The cells of a row, for people."""
    written = "–".join(dict.fromkeys(short(number) for number in row["readme"]))
    if "error" in row:
        return [row["figure"], row["of"], written, "", f"not measured: {row['error']}"]
    measured = short(row["measured"])
    if row["low"] != row["high"]:
        measured += f" ({short(row['low'])} to {short(row['high'])})"
    return [row["figure"], row["of"], written, measured, "agrees" if row["agrees"] else "DIFFERS"]


def short(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.4g}" if number < 0.1 else f"{number:.3g}"
