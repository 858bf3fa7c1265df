"""Rows of results in a file of JSON lines, written one by one: a process that crashes, hangs or is stopped loses a row,
and a later process goes on with the next."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
STOPPED = "the process ended or was stopped in this row"
UNFINISHED, RESTART = 30, 31  # exit codes: the time is up; the GPU answers no more, and a new process has to go on


def read(path: Path) -> dict[str, Row]:
    """Rows by name, in their order. One that was begun and has no result says so as its `error`."""
    rows: dict[str, Row] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:  # the last line may have been cut
            continue
        rows[row["row"]] = row
    return rows


def append(path: Path, row: Row) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, ensure_ascii=False) + "\n")


def begin(path: Path, name: str) -> None:
    append(path, {"row": name, "error": STOPPED})


def measure(path: Path, todo: Mapping[str, Callable[[], Row]], deadline: float) -> None:
    """Calls what has no row yet and appends what it returns, or the error that it raises.

    Raises SystemExit with `UNFINISHED` where a row would begin after the deadline (of `time.monotonic`), and with
    `RESTART` where an error has left the GPU unusable.
    """
    known = read(path)
    for name, function in todo.items():
        if name in known:
            continue
        if time.monotonic() > deadline:
            raise SystemExit(UNFINISHED)
        begin(path, name)
        began = time.monotonic()
        try:
            row = function()
        except Exception as error:
            row = {"error": one_line(error)}
        append(path, {"row": name, **row, "seconds": round(time.monotonic() - began, 3)})
        if "error" in row and not gpu_answers():
            raise SystemExit(RESTART)


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"


def gpu_answers() -> bool:
    """Whether CUDA still works in this process, where it was used at all: after an illegal access it does not."""
    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
