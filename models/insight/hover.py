"""What a page says of the points of a figure: where they lie in the drawing, and their values."""

import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from models.insight.statistics import Array


def series(label: str, x: Any, y: Any, value: Any = None) -> dict[str, Any]:
    """Points (n,) of one label. `value` is what is said of each, where that is not y."""
    return {"label": label, "x": np.asarray(x), "y": np.asarray(y)} | ({} if value is None else {"value": value})


def readout(figure: Figure, axes: Axes, points: list[dict[str, Any]], x: str, y: str, each: str = "") -> dict[str, Any]:
    """Of axes whose limits are settled: the box that they fill, in units of the SVG, from its upper left corner; the
    limits, and whether a scale is logarithmic; the points, and what x and y are called. `each` is what a single point
    is, where its number means something."""
    width, height = figure.get_size_inches() * 72
    position = axes.get_position()
    return {
        "box": [position.x0 * width, (1 - position.y1) * height, position.x1 * width, (1 - position.y0) * height],
        "x": [*map(float, axes.get_xlim()), axes.get_xscale() == "log"],
        "y": [*map(float, axes.get_ylim()), axes.get_yscale() == "log"],
        "names": [in_words(x), in_words(y)],
        "each": each,
        "series": points,
    }


def in_words(label: str) -> str:
    """The label of an axis without the mathematical typesetting of matplotlib."""
    if "$" not in label:
        return label or "value"
    if "," in label:
        return "norm"
    return re.sub(r"[${}]", "", label.replace(r"\partial ", "∂").replace(r"\|", "‖"))


def shares(histograms: Array) -> Array:
    """Of each histogram (K, n), by how many entries it counts; 0 where there are none."""
    return histograms / np.maximum(1, histograms.sum(axis=-1, keepdims=True))
