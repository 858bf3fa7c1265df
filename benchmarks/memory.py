"""The most memory that an LSTM layer on tokens takes for a step forward and back, against nn.Embedding and `nn.LSTM`,
in float32: by how much it rises above what was there before, weights and input among it, in a process of its own.

On a CPU that is the resident memory of the process, as Linux counts it, after a step has compiled what there is to
compile; on a GPU what torch has allocated.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.layers import Pair
from benchmarks.pairs import in_turn

PAIRS = 3
SIZES = [(64, 64, 256), (64, 64, 512)]  # T, B, H
SIDES = ("ours", "theirs")
AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # glibc gives what is larger back as soon as it is freed


def rows(pairs: int, device: str) -> Iterator[dict[str, Any]]:
    for T, B, H in SIZES:
        ours, theirs = (partial(in_a_process, side, T, B, H, device) for side in SIDES)
        what = {"cell": "lstm", "T": T, "B": B, "H": H, "against": "nn.LSTM", "unit": "MB"}
        yield {**what, **asdict(in_turn(ours, theirs, pairs).scaled(1e-6)), "goal": 1.0}


def in_a_process(side: str, T: int, B: int, H: int, device: str) -> int:
    """Bytes. Raises RuntimeError with what the process says where it fails."""
    command = [sys.executable, "-m", __name__, *map(str, (side, T, B, H, device))]
    folder, environment = Path(__file__).parents[1], os.environ | AT_ONCE
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(run.stderr)
    return int(run.stdout.splitlines()[-1])


def rise(run: Callable[[], object], device: str) -> int:
    """Bytes, from before a second run to its peak."""
    run()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak is from now on
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """Bytes of the process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def main() -> None:
    side, device = sys.argv[1], sys.argv[5]
    T, B, H = map(int, sys.argv[2:5])
    pair = Pair("lstm", T, B, H, device=device)
    run = pair.runs("tokens")[SIDES.index(side)]

    def step() -> None:
        run()
        pair.forget()

    print(rise(step, device))


if __name__ == "__main__":
    main()
