"""Ranks, and what is made of them. Everything is NumPy."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def ranks(values: Array) -> Array:
    """From 1 to n along the first axis; equal values share the mean of their ranks."""
    columns = values.reshape(len(values), -1)
    found = np.empty(columns.shape)
    for column, rank in zip(columns.T, found.T, strict=True):
        ordered = np.sort(column)
        rank[:] = (np.searchsorted(ordered, column, "left") + np.searchsorted(ordered, column, "right") + 1) / 2
    return found.reshape(values.shape)


def spearman(a: Array, b: Array) -> float:
    """The correlation of ranks (n,); 0 where all values of one are equal."""
    a, b = (of - of.mean() for of in (ranks(a), ranks(b)))
    spread = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / spread) if spread else 0.0


def area_under_curve(values: Array, flags: Array) -> Array:
    """The probability that, of a step that is flagged and one that is not, the first has the larger value: (n, U)
    values and (n,) flags to (U,), the area under the ROC curve (Hanley and McNeil, 1982).

    AUC = (Σ_flagged rank − n₁ · (n₁ + 1) / 2) / (n₁ · n₀)

    where n₁ steps are flagged, and n₀ are not.
    """
    flagged = int(flags.sum())
    return (ranks(values)[flags].sum(0) - flagged * (flagged + 1) / 2) / (flagged * (len(flags) - flagged))
