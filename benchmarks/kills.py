"""Runs that are killed at random moments, without a warning, and go on: does each end as one that never was?"""

import csv
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

import train
from models.checkpoints import read_checkpoint

ALPHABET = "0123456789 \n"
CONFIG = {
    "seed_everything": 1,
    "save_every": 1,  # so that many kills come while a checkpoint is being written
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 3,
        "limit_train_batches": 40,
        "val_check_interval": 0.5,
        "log_every_n_steps": 3,
        "gradient_clip_val": 1.0,
        "enable_progress_bar": False,
    },
    "model": {"cell": "gru", "num_layers": 2, "embedding_size": 8, "hidden_size": 16, "dropout": 0.2},
    "data": {"path": "text.txt", "batch_size": 4, "window": 8, "val_streams": 4},
}
OF_THE_CLOCK = {"tokens_per_second", "peak_memory_mb"}
OF_THE_PROCESS = {"callbacks", "loops", "config"}  # seconds, paths, counters of Lightning's


class Run(NamedTuple):
    """One that was killed until it came to its end."""

    kills: int
    in_writing: int  # of these, while a checkpoint was being written
    unreadable: int  # checkpoints
    differences: list[str]  # from the run that never was killed


def runs(kills: int, folder: Path, seed: int = 0) -> Iterator[Run]:
    """As many as have so many kills together."""
    dice = random.Random(seed)
    whole = prepared(folder / "whole", seed)
    attempt(whole, 0)  # torch is imported once, for all
    began = time.perf_counter()
    attempt(whole, None)
    seconds, wanted = time.perf_counter() - began, left(whole)
    while kills > 0:
        run = interrupted(prepared(folder / "killed", seed), dice, seconds, kills, wanted)
        kills -= run.kills
        if run.kills:
            yield run


def interrupted(folder: Path, dice: random.Random, seconds: float, most: int, wanted: dict[str, Any]) -> Run:
    kills = in_writing = unreadable = 0
    while not attempt(folder, dice.uniform(0, seconds) if kills < most else None):
        kills += 1
        in_writing += any(folder.glob("runs/**/*.ckpt*.part"))
        unreadable += sum(not readable(path) for path in folder.glob("runs/**/*.ckpt"))
    found = left(folder)
    return Run(kills, in_writing, unreadable, [name for name in wanted if not equal(wanted[name], found[name])])


def prepared(folder: Path, seed: int) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    text = "".join(random.Random(seed).choices(ALPHABET, k=4000))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return folder


def attempt(folder: Path, seconds: float | None) -> bool:
    """Whether train.py came to its end, from the last checkpoint or from the beginning, before it was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # a new process need not import torch
    process = context.Process(target=go_on, args=(str(folder),))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    if process.exitcode not in (0, -9):
        raise RuntimeError((folder / "printed.txt").read_text(encoding="utf-8"))
    return process.exitcode == 0


def go_on(folder: str) -> None:
    os.chdir(folder)
    printed = os.open("printed.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    last = Path("runs/tiny/version_0/checkpoints/last.ckpt")
    if not last.exists():
        shutil.rmtree("runs", ignore_errors=True)
    sys.argv = ["train.py", *(["--ckpt_path", str(last)] if last.exists() else ["--config", "tiny.yaml"])]
    torch.set_num_threads(1)
    train.main()


def left(folder: Path) -> dict[str, Any]:
    """What a run leaves: checkpoints and metrics, but for what depends on the clock."""
    (run,) = folder.glob("runs/*/version_*")
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in OF_THE_CLOCK} for row in csv.DictReader(file)]
    parts: dict[str, Any] = {"metrics.csv": [row for row in rows if set(row.values()) - {""} - {row["step"]}]}
    for name in ("best.ckpt", "last.ckpt"):
        content = read_checkpoint(str(run / "checkpoints" / name))
        parts |= {f"{part} in {name}": content[part] for part in content.keys() - OF_THE_PROCESS}
    return parts


def readable(path: Path) -> bool:
    try:
        read_checkpoint(str(path))
    except ValueError:
        return False
    return True


def equal(one: Any, other: Any) -> bool:
    """To the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(equal(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)
