"""The steps of `models/steps.py` on a CPU, in C++: `cpu_kernels.cpp`, compiled for the machine when first needed.

A compiler takes two seconds for a cell with its activations and a number format. What it makes is kept beside what
Python makes of its modules, in `__pycache__`. Letters: K steps, B batch, H hidden size, G gates.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import byref, c_int, c_int64, c_void_p
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor

from models.cells import ACTIVATIONS, Cell
from models.projections import Projection

Function = Callable[[Tensor], Tensor]

SOURCE = Path(__file__).with_suffix(".cpp")
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared"]
FORMATS = {torch.float32: "float", torch.float64: "double"}
FUNCTIONS: dict[Any, str] = {f: name.title().replace("_", "") for name, f in ACTIVATIONS.items()}  # as C++ names them


class Call(ctypes.Structure):
    """As `cpu_kernels.cpp` has it. Tensors are given as where they lie, by `pointer`."""

    _fields_ = [
        *((size, c_int64) for size in ("K", "B", "H", "threads")),
        *((name, c_void_p) for name in ("x", "tokens", "panels", "bias", "is_real", "kept")),
        ("states", c_void_p * 2),
        ("d_output", c_void_p),
        ("d_states", c_void_p * 2),
        *((name, c_void_p) for name in ("d_x", "d_h")),
    ]


def pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class CompiledChunk:
    """A few steps of a layer, as `models.fused.Chunk` has them. Raises OSError where the compiler fails."""

    def __init__(self, cell: type[Cell], gate: Function, act: Function, dtype: torch.dtype) -> None:
        names = {"CELL": cell.__name__.removesuffix("Cell"), "GATE": FUNCTIONS[gate], "ACT": FUNCTIONS[act]}
        self.library = library(names | {"REAL": FORMATS[dtype]})
        self.width, self.groups, self.across, self.keeps, self.apart = (
            c_int.in_dll(self.library, name).value for name in ("width", "groups", "across", "keeps", "apart")
        )

    def weight_forward(self, weight: Tensor) -> Tensor:
        """W_hh (GH, H) in panels of all gates of some units: (panels, H, groups, G, width)."""
        H = weight.shape[1]
        gates = F.pad(weight.reshape(-1, H, H), (0, 0, 0, -H % (self.groups * self.width)))
        return gates.view(len(gates), -1, self.groups, self.width, H).permute(1, 4, 2, 0, 3).contiguous()

    def weight_backward(self, weight: Tensor) -> Tensor:
        """W_hh (GH, H) in panels of some columns: (panels, GH, across · width)."""
        columns = self.across * self.width
        wide = F.pad(weight, (0, -weight.shape[1] % columns))
        return wide.reshape(len(weight), -1, columns).transpose(0, 1).contiguous()

    def forward(
        self, projection: Projection, weight: Tensor, bias: Tensor, before: Sequence[Tensor], real: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """What the steps keep, and the states (K + 1, B, H) each, from `before` to the last."""
        (x, tokens), (K, B), H = projection.rows(), projection[0].shape[:2], weight.shape[1]
        kept, states = x.new_empty(K, B, self.keeps, H), [x.new_empty(K + 1, B, H) for _ in before]
        for state, part in zip(states, before, strict=True):
            state[0] = part
        read = {"x": x, "tokens": tokens, "panels": weight, "bias": bias.contiguous(), "is_real": real}
        self.call(self.library.forward, (K, B, H), read | {"kept": kept}, states=states)
        return [kept], states

    def backward(
        self, kept: Sequence[Tensor], states: Sequence[Tensor], d_output: Tensor, d_last: Sequence[Tensor],
        weight: Tensor, real: Tensor | None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
        """∂L/∂(W_ih x + b_ih) and ∂L/∂(W_hh h + b_hh) of every step (K, B, GH), and ∂L/∂(state before the first)."""
        d_states, d_h = [part.clone() for part in d_last], d_output.new_empty(*d_output.shape[:2], weight.shape[1])
        d_x = torch.empty_like(d_h) if self.apart else d_h
        read = {"panels": weight, "is_real": real, "kept": kept[0], "d_output": d_output}
        self.call(
            self.library.backward, d_output.shape, read | {"d_x": d_x, "d_h": d_h}, states=states, d_states=d_states
        )
        return d_x, d_h, d_states

    def call(
        self, function: Any, sizes: Sequence[int], tensors: dict[str, Tensor | None], **states: Sequence[Tensor]
    ) -> None:
        threads = max(1, min(torch.get_num_threads(), sizes[1]))
        each = {name: (c_void_p * 2)(*map(pointer, of)) for name, of in states.items()}
        function(byref(Call(*sizes, threads, **{name: pointer(tensor) for name, tensor in tensors.items()}, **each)))


def chunk_of(cell: Cell, weight: Tensor) -> CompiledChunk | None:
    """None where there is no compiler, it fails, or the weight is elsewhere, or in another format than kernels are; and
    for `torch.export`, which is after operations of torch."""
    known = weight.device.type == "cpu" and weight.dtype in FORMATS
    if not known or torch.compiler.is_exporting() or not can_compile():
        return None
    kind: Any = type(cell)
    return compiled(kind, cell.gate_activation, cell.activation, weight.dtype)


@cache
def compiled(*what: Any) -> CompiledChunk | None:
    """Told once where the compiler fails."""
    try:
        return CompiledChunk(*what)
    except OSError as error:
        rank_zero_warn(f"recurrent layers go on without the C++ compiler, which failed: {error}")
        return None


def library(names: dict[str, str]) -> ctypes.CDLL:
    """The kernels of one cell, compiled unless they are already. Raises OSError where that fails."""
    command = [COMPILER, *FLAGS, *(f"-D{name}={value}" for name, value in names.items()), str(SOURCE)]
    machine = output_of([COMPILER, "-march=native", "-dM", "-E", "-x", "c++", os.devnull])
    key = hashlib.sha256(SOURCE.read_bytes() + repr(command).encode() + machine).hexdigest()[:16]
    path = Path(cache_from_source(str(SOURCE))).with_suffix(f".{key}.so")
    if path.exists():
        return ctypes.CDLL(str(path))
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        output_of([*command, "-o", str(made)])
        with suppress(OSError):  # where that folder may not be written to, the next process compiles again
            path.parent.mkdir(exist_ok=True)
            os.replace(shutil.copy(made, path.with_suffix(f".{os.getpid()}")), path)
        return ctypes.CDLL(str(path if path.exists() else made))


def output_of(command: list[str]) -> bytes:
    """Raises OSError, in one line, where the command fails."""
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip() or f"{command[0]} ended with {done.returncode}"
        raise OSError(said.splitlines()[0])
    return done.stdout


@cache
def can_compile() -> bool:
    """Whether there is a C++ compiler. Told once where there is none."""
    found = shutil.which(COMPILER) is not None
    if not found:
        told = "no C++ compiler is here: recurrent layers would be about twice as fast with g++"
        rank_zero_only(print)(told, file=sys.stderr)
    return found
