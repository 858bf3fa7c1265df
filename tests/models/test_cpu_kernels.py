"""Kernels for CPUs at sizes where vectors, parts and threads are not filled evenly; and when they are compiled.

The tiers of `tests/equivalence` try them as every backend, at small sizes.
"""

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bptt.verify.bounds import FUNCTION_ULPS
from models import cpu_kernels, fused
from models.cells import ACTIVATIONS, CELLS, RNNCell
from models.projections import Symbols
from models.recurrent import Recurrent

pytestmark = pytest.mark.skipif(not shutil.which(cpu_kernels.COMPILER), reason="there is no C++ compiler")


@pytest.fixture
def threads() -> Iterator[None]:
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """As on the first day: nothing was compiled or told yet, and what is compiled goes elsewhere."""
    made = tmp_path / "made" / "kernels"
    monkeypatch.setenv("UNROLLED_CACHE", str(made.parent))
    monkeypatch.setattr(cpu_kernels, "hung", [])
    for cached in (cpu_kernels.compiled, cpu_kernels.can_compile):
        cached.cache_clear()
    yield made
    for cached in (cpu_kernels.compiled, cpu_kernels.can_compile):
        cached.cache_clear()


def coarse(*shape: int, share: float = 1.0) -> Tensor:
    """Some are −1 or 1, the rest 0: sums of their products are exact, in any order."""
    return torch.randint(-1, 2, shape) * (torch.rand(shape) < share).double()


def results(layers: Recurrent, dtype: torch.dtype, lengths: Tensor | None) -> dict[str, Tensor]:
    """Forward and back, on the same numbers whenever it is called."""
    torch.manual_seed(0)
    layers.to(dtype)
    H, T, B = layers.cells[0].hidden_size, 3, 11
    for name, parameter in layers.named_parameters():
        parameter.data = 2 * coarse(*parameter.shape, share=1.5 / H if "weight_hh" in name else 0.3).to(dtype)
        parameter.grad = None
    x, *state = (coarse(*shape).to(dtype).requires_grad_() for shape in [(T, B, 2), *[(1, B, H)] * len(fields(layers))])
    output, final = layers(x, tuple(state), lengths)
    given = [output, *final]
    torch.autograd.backward(given, [coarse(*part.shape, share=0.3).to(dtype) for part in given])
    named = {"x": x, **dict(zip(fields(layers), state, strict=True)), **dict(layers.named_parameters())}
    return {f"d {name}": of.grad for name, of in named.items() if of.grad is not None} | dict(enumerate(given))


def fields(layers: Recurrent) -> tuple[str, ...]:
    return layers.cells[0].state._fields


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 2, 16])
@pytest.mark.parametrize("cell", CELLS)
def test_kernels_give_the_bits_of_autograd_at_sizes_that_nothing_divides(
    cell: str, steps: int, dtype: torch.dtype, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of one step, of two, of all; shares of three threads; the last vector of a panel, and of a layer."""
    monkeypatch.setattr(fused, "STEPS_OF_A_CHUNK", steps)
    monkeypatch.setattr(fused, "VALUES_OF_A_CHUNK", 0)
    for H in (1, 15, 17, 73, 131):
        for lengths in (None, torch.arange(11) % 3 + 1):
            same_as_autograd(cell, H, dtype, lengths)


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the names are those of x86")
@pytest.mark.parametrize("machine", ["x86-64", "haswell"])
def test_narrower_vectors_give_the_same_bits(machine: str, uncompiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of 2003 and of 2013, which every machine of today has, too."""
    flags = [flag.replace("native", machine) for flag in cpu_kernels.FLAGS]
    monkeypatch.setattr(cpu_kernels, "FLAGS", flags)
    for cell in CELLS:
        same_as_autograd(cell, 37, torch.float32, None)


def same_as_autograd(cell: str, H: int, dtype: torch.dtype, lengths: Tensor | None) -> None:
    layers = Recurrent(cell, 2, H, 1, "hard_tanh", "hard_sigmoid", backend="autograd")
    truth = results(layers, torch.float64, lengths)
    layers.backend = "compiled"
    found = results(layers, dtype, lengths)
    assert truth.keys() == found.keys() and len(truth) >= 8
    for name in truth:
        assert (found[name] == truth[name]).all(), (H, lengths, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_smooth_activations_are_right_to_what_bounds_grant_them(name: str, dtype: torch.dtype) -> None:
    stretches = [(1e-3, 1 << 16), (0.4, 1 << 18), (12.0, 1 << 18), (86.0, 1 << 16)]
    a = torch.cat([torch.linspace(-end, end, count, dtype=dtype) for end, count in stretches])
    exactly = a.numpy().astype(np.longdouble)
    true = np.tanh(exactly) if name == "tanh" else 1 / (1 + np.exp(-exactly))
    unit = FUNCTION_ULPS * np.finfo(a.numpy().dtype).eps * np.abs(true)
    assert (np.abs(activated(name, a).numpy() - true) <= unit).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_exact_at_corners_and_far_out(name: str, dtype: torch.dtype) -> None:
    numbers = [0, 1e-40, 1e-30, 1, 2, 3, 100, 1000, 1e30, float("inf")]
    a = torch.tensor([*numbers, *(-number for number in numbers[:6]), -1000, -1e30, -float("inf"), float("nan")]).to(
        dtype
    )
    found, true = activated(name, a), ACTIVATIONS[name](a)
    corners = (a.abs() < 1e-30) | (a.abs() >= 1000) if name in ("tanh", "sigmoid") else ~a.isnan()
    assert (found == true)[corners].all() and found[-1].isnan()


def activated(name: str, a: Tensor) -> Tensor:
    """f(a) of a kernel: a step of a simple layer that has no weights."""
    chunk = cpu_kernels.CompiledChunk(RNNCell, ACTIVATIONS["sigmoid"], ACTIVATIONS[name], a.dtype)
    table, weight = a.view(-1, 4), torch.zeros(4, 4, dtype=a.dtype)
    steps = Symbols(torch.arange(len(table))[None], table)
    _, (h,) = chunk.forward(steps, chunk.weight_forward(weight), weight[0], [torch.zeros_like(table)], None)
    return h[1].flatten()


def test_symbols_that_do_not_exist_are_refused() -> None:
    (cell,), state = Recurrent("rnn", 1, 4).layers()[0], (torch.zeros(2, 4),)
    for token in (-1, 3):
        with pytest.raises(IndexError, match="a symbol is not among 3: tokens are 0 to 2"):
            fused.unroll(
                cell, Symbols(torch.tensor([[0, token]]), torch.zeros(3, 4)), cell.state(*state), compiled=True
            )


def test_input_may_lie_in_memory_as_it_likes() -> None:
    """As x of batches first, turned around; vectors and symbols."""
    layers, x = Recurrent("lstm", 3, 5, backend="compiled"), torch.randn(7, 4, 3)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert (layers(turned)[0] == layers(x)[0]).all()
    (cell,), table, tokens = layers.layers()[0], torch.randn(6, 20), torch.randint(6, (7, 4))
    expected, _ = fused.unroll(cell, Symbols(tokens, table), cell.initial_state(4), compiled=True)
    tokens, table = tokens.T.contiguous().T, table.T.contiguous().T
    assert (fused.unroll(cell, Symbols(tokens, table), cell.initial_state(4), compiled=True)[0] == expected).all()


def test_results_do_not_depend_on_how_many_threads_there_are(threads: None) -> None:
    layers, x = Recurrent("lstm", 3, 20, backend="compiled"), torch.randn(4, 7, 3)
    with_three, _ = layers(x)
    torch.set_num_threads(1)
    assert (layers(x)[0] == with_three).all()


def ask() -> cpu_kernels.CompiledChunk | None:
    """As a new process would: for the kernels of a simple layer."""
    cpu_kernels.compiled.cache_clear()
    (cell,) = Recurrent("rnn", 1, 1).layers()[0]
    return cpu_kernels.chunk_of(cell, torch.zeros(1, 1))


def libraries(folder: Path) -> dict[str, int]:
    """When each was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.so")}


@pytest.mark.slow
def test_kernels_are_compiled_once_and_kept(uncompiled: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = Path(shutil.copy(cpu_kernels.SOURCE, tmp_path))
    monkeypatch.setattr(cpu_kernels, "SOURCE", source)
    assert ask()
    made = libraries(uncompiled)
    assert len(made) == 1 and ask() and libraries(uncompiled) == made
    monkeypatch.setattr(cpu_kernels, "FLAGS", [*cpu_kernels.FLAGS, "-O1"])
    assert ask() and len(libraries(uncompiled)) == 2, "another way to compile"
    source.write_text(source.read_text(encoding="utf-8") + "// changed", encoding="utf-8")
    assert ask() and len(libraries(uncompiled)) == 3, "another source"


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "bit", "no digest", "other digest", "a folder", "writable by all", "a link"]
)
def test_damaged_kernels_are_compiled_again(damage: str, uncompiled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands for the compiler's work here: bytes that no process may load unless they are whole."""
    loaded: list[Path] = []
    monkeypatch.setattr(cpu_kernels.ctypes, "CDLL", lambda path: loaded.append(Path(path)))
    compiled: list[Any] = []
    work = bytes(range(256)) * 10

    def compile(command: list[str], seconds: float) -> bytes:
        if "-o" in command:
            compiled.append(command)
            Path(command[-1]).write_bytes(work)
        return b"machine"

    monkeypatch.setattr(cpu_kernels, "output_of", compile)
    cpu_kernels.library({"CELL": "RNN"})
    cpu_kernels.library({"CELL": "RNN"})
    (path,) = uncompiled.glob("*.so")
    assert len(compiled) == 1 and loaded == [path, path]
    digest = path.with_suffix(".sha256")
    changed = bytearray(work)
    changed[1000] ^= 4
    if damage in ("empty", "cut", "bit"):
        path.write_bytes({"empty": b"", "cut": work[: len(work) // 2], "bit": bytes(changed)}[damage])
    elif damage == "no digest":
        digest.unlink()
    elif damage == "other digest":
        digest.write_text("0" * 64)
    elif damage == "a folder":
        digest.unlink()
        digest.mkdir()
    elif damage == "writable by all":
        path.chmod(0o666)
    else:
        path.rename(uncompiled / "other")
        path.symlink_to(uncompiled / "other")
    cpu_kernels.library({"CELL": "RNN"})
    assert len(compiled) == 2
    if damage != "a folder":  # which is in the way
        cpu_kernels.library({"CELL": "RNN"})
        assert len(compiled) == 2 and loaded[-1] == path and path.read_bytes() == work and not path.is_symlink()


@pytest.mark.slow
def test_where_nothing_can_be_kept_kernels_are_compiled_each_time(uncompiled: Path) -> None:
    uncompiled.parent.mkdir()
    uncompiled.write_text("a file where the folder would be")
    assert ask()


def test_a_compiler_that_hangs_is_left_after_a_while(
    uncompiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It and what it has started are ended; it is not asked again."""
    script = tmp_path / "compiler"
    script.write_text("#!/bin/sh\nsleep 1000 &\nwait\n")
    script.chmod(0o700)
    monkeypatch.setattr(cpu_kernels, "COMPILER", str(script))
    monkeypatch.setattr(cpu_kernels, "PROBE_SECONDS", 0.5)
    with pytest.warns(
        UserWarning, match="without the C\\+\\+ compiler, which failed: .* did not end within 0.5 seconds"
    ):
        assert ask() is None
    monkeypatch.setattr(cpu_kernels, "output_of", None)
    assert ask() is None


def test_what_has_no_kernels_goes_without() -> None:
    (cell,) = Recurrent("rnn", 1, 1).layers()[0]
    for elsewhere in (torch.zeros(1, 1, dtype=torch.bfloat16), torch.zeros(1, 1, device="meta")):
        assert cpu_kernels.chunk_of(cell, elsewhere) is None


def test_layers_with_kernels_are_exported_without_them() -> None:
    layers, x = Recurrent("lstm", 3, 5, backend="compiled"), torch.randn(4, 2, 3)
    exported, _ = torch.export.export(layers, (x,)).module()(x)
    torch.testing.assert_close(exported, layers(x)[0], rtol=0, atol=2**-20)  # outputs within 1, some roundings a step


def test_without_a_compiler_layers_go_on_and_it_is_told_once(
    uncompiled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    layers, x = Recurrent("gru", 3, 5, num_layers=2), torch.randn(4, 2, 3)
    found, _ = layers(x)
    assert capsys.readouterr().err.count("no C++ compiler is here") == 1
    layers.backend = "fused"
    assert (found == layers(x)[0]).all()
    with pytest.raises(ValueError, match=r"backend 'compiled' needs a C\+\+ compiler: install g\+\+, or choose fused"):
        Recurrent("gru", 3, 5, backend="compiled")


@pytest.mark.parametrize(("compiler", "said"), [("g++", ".*future"), ("false", "false ended with 1")])
def test_where_the_compiler_fails_layers_go_on_without_it(
    compiler: str, said: str, uncompiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_kernels, "COMPILER", compiler)
    monkeypatch.setattr(cpu_kernels, "FLAGS", ["-std=from the future"])
    layers, x = Recurrent("gru", 3, 5), torch.randn(4, 2, 3)
    with pytest.warns(UserWarning, match=r"recurrent layers go on without the C\+\+ compiler, which failed: " + said):
        found, _ = layers(x)
    layers.backend = "fused"
    assert (found == layers(x)[0]).all()
