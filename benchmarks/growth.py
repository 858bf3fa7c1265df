"""LSTM layers on tokens, forward and back: how the time per token grows with their size, ours and torch's, float32."""

import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from benchmarks.layers import Pair
from benchmarks.pairs import compare

PAIRS = 3
USUAL = {"T": 32, "B": 32, "H": 128, "L": 1}
AXES = {
    "H": (32, 64, 128, 256, 512),
    "B": (1, 4, 16, 64, 256),
    "T": (8, 32, 128, 512),
    "L": (1, 2, 3, 4),
}
NAMES = {"H": "hidden size H", "B": "batch B", "T": "steps T", "L": "layers L"}


def rows(pairs: int) -> Iterator[dict[str, Any]]:
    """One size grows, the others are as usual."""
    for axis, values in AXES.items():
        for value in values:
            sizes = USUAL | {axis: value}
            ours, theirs = Pair("lstm", sizes["T"], sizes["B"], sizes["H"], sizes["L"]).runs("tokens")
            found = compare(ours, theirs, pairs).scaled(1e6 / (sizes["T"] * sizes["B"]))
            yield {"over": axis, **sizes, "against": "nn.LSTM", "unit": "µs per token", **asdict(found)}


def plot(found: list[dict[str, Any]], path: str) -> None:
    from matplotlib.figure import Figure  # a second, which no other measurement needs to wait

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells of its cache
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    for axes, (axis, name) in zip(figure.subplots(2, 2, sharey=True).flat, NAMES.items(), strict=True):
        of_axis = [row for row in found if row["over"] == axis]
        sizes = [row[axis] for row in of_axis]
        for side, label in (("theirs", "torch.nn"), ("ours", "ours")):
            axes.plot(sizes, [row[side] for row in of_axis], marker="o", label=label)
        axes.set(xlabel=name, ylabel="µs per token", yscale="log")
        axes.set_xscale("linear" if axis == "L" else "log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.axes[0].legend(loc="upper left")
    usual = ", ".join(f"{name} = {size}" for name, size in USUAL.items())
    figure.suptitle(f"LSTM on tokens, forward and back: one size grows, of {usual}")
    figure.savefig(path, dpi=150)
