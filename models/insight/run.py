"""What is known of the run that a checkpoint comes from: its name, how far it was trained, and its losses.

The losses are those of `metrics.csv`, which training writes into the folder of the run, beside `checkpoints`.
"""

import csv
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from models.insight.statistics import Array

POINTS = 400  # of a curve, at most: a figure is narrower than that
LOSSES = {"train": "train_loss", "held out": "val_loss"}  # columns of metrics.csv


def run_of(path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What a page says of a checkpoint and of its run; None for what was not recorded.

    `losses` has, for "train" and "held out", the updates (N,) and the loss at each of them (N,), in nats.
    """
    folder = path.absolute().parent.parent
    in_run = path.absolute().parent.name == "checkpoints"
    losses = recorded_losses(folder / "metrics.csv") if in_run else {}
    update = whole(checkpoint.get("global_step"))
    return {
        "name": printable(f"{folder.parent.name}/{folder.name}" if in_run else path.stem),
        "checkpoint": printable(str(path)),
        "written": datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M"),
        "epoch": None if (epoch := whole(checkpoint.get("epoch"))) is None else epoch + 1,
        "update": update,
        "held_out": held_out_loss(losses.get("held out"), update, checkpoint),
        "losses": {name: {"updates": at, "nats": nats} for name, (at, nats) in losses.items()},
    }


def whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def printable(name: str) -> str:
    """A file's name may hold bytes that are no text."""
    return name.encode("utf-8", "backslashreplace").decode()


def held_out_loss(curve: tuple[Array, Array] | None, update: int | None, checkpoint: dict[str, Any]) -> float | None:
    """In nats: of the last validation that the checkpoint had seen, by metrics.csv or else by its callbacks."""
    if curve is not None:
        seen = curve[1] if update is None else curve[1][curve[0] <= update]
        if len(seen):
            return float(seen[-1])
    callbacks = checkpoint.get("callbacks")
    for state in callbacks.values() if isinstance(callbacks, dict) else ():
        if isinstance(state, dict) and state.get("monitor") == "val_loss":
            try:
                return float(state["current_score"])
            except (KeyError, TypeError, ValueError):
                continue
    return None


def recorded_losses(path: Path) -> dict[str, tuple[Array, Array]]:
    """Updates (N,) and losses (N,) of a metrics.csv, for each of `LOSSES` that it has. What cannot be read is left out:
    a page is drawn without it."""
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in LOSSES}
    for row in rows(path):
        for name, column in LOSSES.items():
            try:
                at, nats = int(row["step"]) + 1, float(row[column])  # Lightning counts updates from 0
            except (KeyError, TypeError, ValueError):
                continue
            if math.isfinite(nats):
                found[name].append((at, nats))
    curves = {name: tuple(np.array(points).T) for name, points in found.items() if points}
    return {name: (at, nats) for name, (at, nats) in curves.items()}


def rows(path: Path) -> Iterator[dict[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").replace("\0", "").splitlines()
        yield from csv.DictReader(lines)
    except (OSError, csv.Error):
        return


def thinned(at: Array, values: Array) -> tuple[Array, Array]:
    """As few points as a figure can show: the means of neighbours. The last point stays as it is."""
    size = -(-len(at) // POINTS)
    if size <= 1:
        return at, values
    starts = np.arange(0, len(at), size)
    counts = np.diff(np.append(starts, len(at)))
    middle, mean = (np.add.reduceat(of, starts) / counts for of in (at, values))
    return np.append(middle, at[-1]), np.append(mean, values[-1])


def facts(run: dict[str, Any], about: dict[str, Any], unit: str = "symbol") -> dict[str, str]:
    """What the head of a page says of a model, by name. The loss is a mean over so many `unit`."""
    epoch, update, nats = run["epoch"], run["update"], run["held_out"]
    progress = "not recorded" if update is None else f"update {update:,}"
    if epoch is not None and update is not None:
        progress += f", epoch {epoch:,}"
    held_out = f"not recorded: neither in the checkpoint nor in a metrics.csv of its run, in nats per {unit}"
    if nats is not None:
        bits = f" = {nats / math.log(2):.4f} bits" if unit == "symbol" else ""
        held_out = f"{nats:.4f} nats{bits} per {unit}"
    return {
        "Run": run["name"],
        "Checkpoint": run["checkpoint"],
        "File written": run["written"],
        "Trained until": progress,
        "Held-out loss": held_out,
        "Architecture": architecture(about),
    }


def architecture(about: dict[str, Any]) -> str:
    parts = [
        f"{about['cell'].upper()}, {about['layers']} × {about['hidden_size']} units",
        f"embedding of {about['embedding_size']}" if about["embedding_size"] else "one-hot input",
    ]
    if about.get("attention_span"):
        parts.append(f"attention over {about['attention_span']} states")
    if about.get("bidirectional"):
        parts.append("reading in both directions")
    if about.get("tied"):
        parts.append("head tied to the embedding")
    if about.get("dropout"):
        parts.append(f"dropout {about['dropout']:g}")
    return ", ".join([*parts, f"{about['parameters']:,} parameters", f"vocabulary of {about['vocab_size']:,}"])
