"""Runs that are killed in every phase and at random moments, without a warning, and continued: does each leave the same
files as a run that never was? And two that are started at the same moment?"""

import importlib
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

import train
from models.checkpoints import read_checkpoint
from models.metrics_file import read_rows

WORDS = "so it goes on and round about until nobody remembers where the song began".split()
LIMIT = 300  # seconds, after which a process that hangs is ended
PHASES = {  # where a process kills itself: before or after a call of a method or a function, by its name
    "before last.ckpt gets its name": ("models.callbacks.put_in_place", "before"),
    "after a validation": ("models.callbacks.Samples.tell", "after"),
    "after best.ckpt is written": ("models.callbacks.BestCheckpoint.on_validation_end", "after"),
    "after a row of flow.npz": ("models.insight.flow.GradientFlow.take", "after"),
    "after the last row of flow.npz": ("models.insight.flow.GradientFlow.on_train_end", "after"),
    "before the final last.ckpt": ("models.callbacks.LastCheckpoint.on_train_end", "before"),
    "after the final last.ckpt": ("models.callbacks.LastCheckpoint.on_train_end", "after"),
    "before the plot of suggestions": ("models.callbacks.plot", "before"),
    "after the plot of suggestions": ("models.callbacks.plot", "after"),
    "before loggers are closed": ("models.metrics_file.Metrics.finalize", "before"),
    "before the summary": ("models.callbacks.Teller.conclude", "before"),
    "after the summary": ("models.callbacks.Teller.conclude", "after"),
}
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
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload([__name__])  # a new process need not import torch
OF_THE_CLOCK = {"tokens_per_second", "peak_memory_mb"}
NOT_COMPARED = {"callbacks", "loops", "config"}  # of a checkpoint: seconds, paths, counters of Lightning's
OF_THE_PROCESS = re.compile(r"events\.out\.tfevents\..*")  # their names have the time and the process in them
OF_THE_COMMAND = re.compile(r"(ckpt_path|config):|- .*\.yaml$")  # of config.yaml: how the run was started or continued


class Run(NamedTuple):
    """One that was killed until it came to its end."""

    phases: list[str]  # where it was killed
    in_writing: int  # of these, while a checkpoint was being written
    unreadable: int  # checkpoints
    differences: list[str]  # from the run that never was killed

    @property
    def kills(self) -> int:
        return len(self.phases)


def runs(kills: int, folder: Path, seed: int = 0) -> Iterator[Run]:
    """As many as have so many kills together: first one in each phase, then at random moments."""
    dice = random.Random(seed)
    whole = prepared(folder / "whole", seed)
    attempt(whole, seconds=0)  # torch is imported once, for all
    began = time.perf_counter()
    attempt(whole)
    seconds, wanted = time.perf_counter() - began, left(whole)
    for phase in [*PHASES][:kills]:
        yield interrupted(prepared(folder / "killed", seed), [{"phase": phase}], wanted)
    kills -= len(PHASES)
    while kills > 0:
        moments = [{"seconds": dice.uniform(0, seconds)} for _ in range(kills)]
        run = interrupted(prepared(folder / "killed", seed), moments, wanted)
        kills -= run.kills
        if run.kills:
            yield run


def interrupted(folder: Path, moments: list[dict[str, Any]], wanted: dict[str, Any]) -> Run:
    """A run that is killed at these moments, as far as it does not end before."""
    phases, in_writing, unreadable = [], 0, 0
    for moment in moments:
        if attempt(folder, **moment):
            break
        phases.append(moment.get("phase", "random"))
        in_writing += any(folder.glob("runs/**/*.ckpt*.part"))
        unreadable += sum(not readable(path) for path in folder.glob("runs/**/*.ckpt"))
    else:
        attempt(folder)
    return Run(phases, in_writing, unreadable, differences(wanted, left(folder)))


def differences_of_two_at_once(folder: Path, seed: int = 0) -> list[str]:
    """Of two runs that are started at the same moment, from one that is alone; and of one that two processes want to
    continue at the same moment, of which one must be refused."""
    attempt(whole := prepared(folder / "whole", seed))
    wanted, together = left(whole), prepared(folder / "together", seed)
    two_at_once(together)
    found = [f"version_{n}: {name}" for n in (0, 1) for name in differences(wanted, left(together, n))]
    attempt(continued := prepared(folder / "continued", seed), phase="before the final last.ckpt")
    codes = two_at_once(continued)
    found += differences(wanted, left(continued))
    return found + [f"exit codes {codes}"] * (codes != [0, 2])


def two_at_once(folder: Path) -> list[int]:
    barrier = CONTEXT.Barrier(2)
    processes = [CONTEXT.Process(target=go_on, args=(str(folder), f"printed{n}.txt", "", barrier)) for n in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
    return sorted(int(process.exitcode or 0) for process in processes)


def differences(wanted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    names = sorted(wanted.keys() | found.keys())
    return [name for name in names if not equal(wanted.get(name), found.get(name))]


def prepared(folder: Path, seed: int) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    text = " ".join(random.Random(seed).choices(WORDS, k=1200))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return folder


def attempt(folder: Path, phase: str = "", seconds: float = LIMIT) -> bool:
    """Whether train.py came to its end, from the last checkpoint or from the beginning, before it was killed."""
    process = CONTEXT.Process(target=go_on, args=(str(folder), "printed.txt", phase))
    process.start()
    process.join(seconds)
    process.kill()
    process.join()
    if process.exitcode not in (0, -9):
        raise RuntimeError((folder / "printed.txt").read_text(encoding="utf-8"))
    return process.exitcode == 0


def go_on(folder: str, output: str, phase: str, barrier: Any = None) -> None:
    os.chdir(folder)
    printed = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    last = Path("runs/tiny/version_0/checkpoints/last.ckpt")
    if barrier:
        barrier.wait(LIMIT)
    elif not last.exists():
        shutil.rmtree("runs", ignore_errors=True)
    again = ["--ckpt_path", str(last), "--trainer.accelerator", "cpu", "--data.path", "text.txt"]
    sys.argv = ["train.py", *(again if last.exists() else ["--config", "tiny.yaml"])]
    torch.set_num_threads(1)
    if phase:
        kill_in(phase)
    train.main()


def kill_in(phase: str) -> None:
    """Makes a function of this process end it, before or after what it does."""
    path, when = PHASES[phase]
    place, name = path.rsplit(".", 1)
    try:
        owner: Any = importlib.import_module(place)
    except ModuleNotFoundError:  # the method of a class
        module, kind = place.rsplit(".", 1)
        owner = getattr(importlib.import_module(module), kind)
    function = getattr(owner, name)

    def killed(*arguments: Any, **options: Any) -> None:
        if when == "after":
            function(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(owner, name, killed)


def left(folder: Path, version: int = 0) -> dict[str, Any]:
    """What a run leaves, by name: every file, but for what depends on the clock and on the process."""
    (run,) = folder.glob(f"runs/*/version_{version}")
    parts: dict[str, Any] = {
        "files": sorted({OF_THE_PROCESS.sub("", str(path.relative_to(run))) for path in run.rglob("*")})
    }
    for path in run.rglob("*.*"):
        name = str(path.relative_to(run))
        if path.suffix == ".ckpt":
            content = read_checkpoint(str(path))
            parts |= {f"{part} in {name}": content[part] for part in content.keys() - NOT_COMPARED}
        elif path.suffix == ".npz":
            parts[name] = {of: torch.from_numpy(array) for of, array in np.load(path).items()}
        elif path.suffix == ".yaml":
            parts[name] = [
                line for line in path.read_text(encoding="utf-8").splitlines() if not OF_THE_COMMAND.match(line)
            ]
        elif path.name == "metrics.csv":
            parts[name] = without_clock(read_rows(path)[1])
        elif not OF_THE_PROCESS.match(name):
            parts[name] = path.read_bytes()
    return parts


def without_clock(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The values of metrics.csv, but for those of the clock."""
    results = [{k: v for k, v in row.items() if v and k not in OF_THE_CLOCK} for row in rows]
    return [row for row in results if set(row) - {"step", "epoch"}]


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
