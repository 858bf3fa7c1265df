"""The steps of `models/steps.py` on a CPU, in C++: `cpu_kernels.cpp`, compiled for the machine when first needed.

A compiler takes two seconds for a cell with its activations and a dtype. The library that it makes is kept in the
user's cache folder, with its SHA-256 digest in a file beside it: a library without the right digest is compiled again,
because loading a damaged one ends the process. Letters: K steps, B batch, H hidden size, G gates.
"""

import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import byref, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_lightning.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor

from complete_files import complete_file
from models.cells import ACTIVATIONS, Cell
from models.projections import Projection
from user_cache import is_private_file, private_folder

Function = Callable[[Tensor], Tensor]

SOURCE = Path(__file__).with_suffix(".cpp")
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fopenmp", "-fPIC", "-shared"]
PROBE_SECONDS, COMPILE_SECONDS = 30, 120  # after which a compiler is taken to hang
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
    """A failure of the compiler is reported once, and one that hangs is not started again."""
    if hung:
        return None
    try:
        return CompiledChunk(*what)
    except OSError as error:
        rank_zero_warn(f"recurrent layers go on without the C++ compiler, which failed: {error}")
        return None


hung: list[str] = []  # compilers that did not end in time


def library(names: dict[str, str]) -> ctypes.CDLL:
    """The kernels of one cell, compiled unless they are already. Raises OSError where that fails."""
    command = [COMPILER, *FLAGS, *(f"-D{name}={value}" for name, value in names.items()), str(SOURCE)]
    machine = output_of([COMPILER, "-march=native", "-dM", "-E", "-x", "c++", os.devnull], PROBE_SECONDS)
    key = hashlib.sha256(SOURCE.read_bytes() + repr(command).encode() + machine).hexdigest()[:16]
    folder = kept_libraries()
    path = folder / f"{SOURCE.stem}.{key}.so" if folder else None
    if path and is_whole(path):
        with suppress(OSError):  # of another machine's C library, say: it is compiled again
            return ctypes.CDLL(str(path))
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary) / f"{SOURCE.stem}.so"
        output_of([*command, "-o", str(made)], COMPILE_SECONDS)
        if path:
            with suppress(OSError):  # a full disk: the next process compiles again
                keep(made.read_bytes(), path)
        return ctypes.CDLL(str(path if path and is_whole(path) else made))


def kept_libraries() -> Path | None:
    """The folder of compiled kernels; None where there can be none, so that each process compiles them."""
    try:
        return private_folder("kernels")
    except OSError:
        return None


def keep(content: bytes, path: Path) -> None:
    digest = hashlib.sha256(content).hexdigest().encode()
    for name, data in ((path, content), (digest_file(path), digest)):
        with complete_file(name, 0o600) as file:
            file.write(data)


def is_whole(path: Path) -> bool:
    """Whether a kept library is the user's, and the one that was written."""
    if not (is_private_file(path) and is_private_file(digest_file(path))):
        return False
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest().encode() == digest_file(path).read_bytes()
    except OSError:
        return False


def digest_file(path: Path) -> Path:
    return path.with_suffix(".sha256")


def output_of(command: list[str], seconds: float) -> bytes:
    """What a command prints. Raises OSError, in one line, where it fails or does not end in time.

    Output goes to files: a process that the command leaves behind could keep a pipe open for ever.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
        )
        try:
            process.wait(seconds)
        except BaseException as error:  # Ctrl-C, too, must leave no compiler behind
            end(process)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            hung.append(command[0])
            raise OSError(f"{command[0]} did not end within {seconds:g} seconds") from None
        for file in (output, errors):
            file.seek(0)
        if process.returncode:
            message = errors.read().decode(errors="replace").strip() or f"{command[0]} ended with {process.returncode}"
            raise OSError(message.splitlines()[0])
        return output.read()


def end(process: "subprocess.Popen[bytes]") -> None:
    """Ends a process and those that it has started."""
    if hasattr(os, "killpg"):
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


@cache
def can_compile() -> bool:
    """Whether there is a C++ compiler. Told once where there is none."""
    found = shutil.which(COMPILER) is not None
    if not found:
        told = "no C++ compiler is here: recurrent layers would be about twice as fast with g++"
        rank_zero_only(print)(told, file=sys.stderr)
    return found
