"""python -m benchmarks layers [--pairs 15] [--out FILE.json]
python -m benchmarks kills [--count 50]
"""

import json
import platform
import tempfile
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import kills, layers

COLUMNS = ("cell", "input", "T, B, H", "torch.nn, ms", "ours, ms", "ratio (quartiles)", "floor, ms", "share of floor")


def main() -> None:
    parser = ArgumentParser(
        description="layers: ours against torch's, in turn; above 1, ours are faster. kills: do killed runs recover?"
    )
    parser.add_argument("what", choices=["layers", "kills"])
    parser.add_argument("--pairs", type=int, default=15, help="how often each is timed")
    parser.add_argument("--out", type=str, help="a JSON file for the figures, with machine and versions")
    parser.add_argument("--count", type=int, default=50, help="how often to kill")
    options = parser.parse_args()
    if options.what == "kills":
        killed(options.count)
        return
    found = list(track(layers.rows(options.pairs), description="measuring", total=None, transient=True))
    Console(width=120).print(table_of(found))
    if options.out:
        about = {"machine": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__}
        content = json.dumps(about | {"precision": "float32", "rows": found}, indent=1)
        Path(options.out).write_text(content + "\n", encoding="utf-8")


def killed(count: int) -> None:
    """Counts the kills whose run came to the end that it would have come to anyway."""
    with tempfile.TemporaryDirectory() as folder:
        found = list(track(kills.runs(count, Path(folder)), description="killing", total=None, transient=True))
    good = sum(run.kills for run in found if not run.differences)
    print(
        f"{good} of {count} kills, in {len(found)} runs, ended with the same bits as a run without; "
        f"{sum(run.in_writing for run in found)} came while a checkpoint was being written; "
        f"{sum(run.unreadable for run in found)} checkpoints were unreadable"
    )
    for run in found:
        print(*(f"differs: {name}\n" for name in run.differences), sep="", end="")


def table_of(found: list[dict[str, Any]]) -> Table:
    table = Table(*COLUMNS)
    for row in found:
        theirs, ours, floor = (f"{1e3 * row[name]:.1f}" for name in ("theirs", "ours", "floor"))
        ratio = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        size, share = f"{row['T']}, {row['B']}, {row['H']}", f"{row['floor'] / row['ours']:.0%}"
        table.add_row(row["cell"], row["input"], size, theirs, ours, ratio, floor, share)
    return table


if __name__ == "__main__":
    main()
