"""The Triton kernels: the bits of the truth where that is exact, else what autograd computes.

Without a GPU they run in Triton's interpreter, one program after the other, and so but a single one can meet at a
counter, except where a test gives each a process of its own. Tiles are small, so that small layers have many.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.autograd.forward_ad import dual_level, make_dual

import twins
from models.cells import ACTIVATIONS, CELLS, Cell
from models.recurrent import unroll as under_autograd
from tests.equivalence.exact_cases import DOUBLE, SINGLE, Recipe, case_of, layer_cases, model_cases
from tests.equivalence.test_exact import differing
from tests.models.triton_interpreted import DEVICE, kernels

pytestmark = pytest.mark.slow  # an interpreter

TILE = 4 if DEVICE == "cpu" else 16  # which GPUs need
WAYS = ("alone", "launch", "counter")
EXACT = [  # sampled with steps that meet every cell, kind of case and way
    (bits, recipe, WAYS[number % 3])
    for bits, step in ((DOUBLE, 13), (SINGLE, 29))
    for number, recipe in enumerate([*list(layer_cases(bits))[::step], *list(model_cases(bits))[::29]])
]
SIZES = [(4, 17, 20), (1, 2, 5), (4, 1, 1)]  # T, B, H: no multiple of a tile in any, and each of them 1 in some


def shared(way: str, tile: int = TILE) -> Callable[..., Any]:
    """A plan for programs that meet in this way."""
    whole = way == "alone" or way == "counter" and DEVICE == "cpu"

    def plan(B: int, H: int, G: int, size: int, *limits: int) -> Any:
        columns = max(tile, 1 << (H - 1).bit_length()) if whole else tile
        return kernels.Plan(tile, columns, tile, way == "alone", way, 4)

    return plan


@pytest.fixture(autouse=True)
def on_the_device() -> Iterator[None]:
    with torch.device(DEVICE):
        yield


@pytest.mark.parametrize(("bits", "recipe", "way"), EXACT, ids=str)
def test_the_kernels_give_the_bits_of_the_truth(
    bits: int, recipe: Recipe, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "plan", shared(way))
    case, dtype = case_of(recipe), torch.float64 if bits == DOUBLE else torch.float32
    assert not differing(twins.by_autograd(case, dtype, "triton"), case.truth)


class Given(NamedTuple):
    cell: Cell
    x_parts: Tensor
    state: Any
    real: Tensor | None
    cotangents: list[Tensor]  # of all that comes back

    def to(self, dtype: torch.dtype) -> "Given":
        """The same numbers, as leaves of their own."""
        leaf = [part.detach().to(dtype).requires_grad_() for part in (self.x_parts, *self.state)]
        cell = deepcopy(self.cell).to(dtype)
        return Given(cell, leaf[0], self.cell.state(*leaf[1:]), self.real, [d.to(dtype) for d in self.cotangents])


def drawn(name: str, T: int, B: int, H: int, ragged: bool = False, **activations: str) -> Given:
    torch.manual_seed(T * B * H)
    cell = CELLS[name](1, H, **activations)
    numbers = [torch.randn(T, B, len(cell.gates) * H), *(torch.randn(B, H) for _ in cell.state._fields)]
    real = (torch.arange(T)[:, None] < torch.randint(1, T + 1, (B,)))[..., None] if ragged else None
    cotangents = [torch.randn(T, B, H), *(torch.randn(B, H) for _ in cell.state._fields)]
    return Given(cell, numbers[0], cell.state(*numbers[1:]), real, cotangents).to(torch.float32)


def results(unroll: Callable[..., Any], given: Given) -> dict[str, Tensor]:
    """Everything that is computed, there and back."""
    output, final = unroll(given.cell, given.x_parts, given.state, given.real)
    output = torch.stack(output) if isinstance(output, list) else output
    leaves = {"x_parts": given.x_parts, "weight": given.cell.weight_hh, "bias": given.cell.bias_hh}
    leaves |= given.state._asdict()
    gradients = torch.autograd.grad([output, *final], list(leaves.values()), given.cotangents)
    return {"output": output, **final._asdict()} | dict(zip([f"d.{name}" for name in leaves], gradients, strict=True))


def compare(ours: dict[str, Tensor], theirs: dict[str, Tensor], roundings: float, eps: float) -> None:
    """Each is off by no more than so many roundings, one after the other, of the largest entry."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        apart = (value.double() - theirs[name].double()).abs().max()
        assert apart <= roundings * eps / 2 * theirs[name].abs().max(), name  # and so is no NaN


def roundings(given: Given) -> int:
    """The longest way through a layer and back: each step has the terms of two products and about thirty operations on
    single numbers, and a weight's gradient sums over all steps and members."""
    T, B, _ = given.x_parts.shape
    return 2 * T * (sum(given.cell.weight_hh.shape) + 30) + T * B


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("ragged", "dtype"), [(False, torch.float32), (True, torch.float64)], ids=["full", "ragged"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_random_layers_come_out_as_under_autograd(
    cell: str, sizes: tuple[int, int, int], ragged: bool, dtype: torch.dtype, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "plan", shared(way, tile=16))
    given = drawn(cell, *sizes, ragged)
    truth = results(under_autograd, given.to(torch.float64))
    compare(results(kernels.unroll, given.to(dtype)), truth, roundings(given), torch.finfo(dtype).eps)


@pytest.mark.parametrize("cell", CELLS)
def test_with_the_plan_as_it_is_layers_come_out_as_under_autograd(cell: str) -> None:
    """With 80 units, float32 takes programs that share the columns; bfloat16 would not."""
    given = drawn(cell, 3, 2, 80, True)
    compare(results(kernels.unroll, given), results(under_autograd, given), 2 * roundings(given), 2.0**-23)


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_every_activation_is_the_cells_own(function: str) -> None:
    for cell, options in (("rnn", {}), ("gru", {"gate_activation": function}), ("lstm", {"gate_activation": function})):
        given = drawn(cell, 3, 2, 5, activation=function, **options).to(torch.float64)
        compare(results(kernels.unroll, given), results(under_autograd, given), 2 * roundings(given), 2.0**-52)


def test_tanh_and_sigmoid_are_exact_at_0_and_far_out_and_nowhere_nan() -> None:
    """An RNN and a GRU that read nothing but their input: h' = tanh(x), and h' = σ(−x) · 0 + σ(x) · 1."""
    x = torch.tensor([0.0, 1e-300, 1e-3, 0.3, 1, 20, 40, 800, 1e300, torch.inf], dtype=torch.float64)
    x = torch.cat([x, -x])[:, None].requires_grad_()
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    for kind, parts, before, expected in (
        ("rnn", x, zero, torch.tanh(x)),
        ("gru", torch.cat([zero, x, zero], dim=1), one, torch.sigmoid(x)),
    ):
        cell = CELLS[kind](1, 1).double()
        torch.nn.init.zeros_(cell.weight_hh)
        torch.nn.init.zeros_(cell.bias_hh)
        _, (h,) = kernels.unroll(cell, parts[None], cell.state(before))
        exact = (x == 0) | (x.abs() > 30)
        assert (h == expected)[exact & ((x > 0) | (x < -700) | (kind == "rnn"))].all()
        # e = exp(−|a|) has an error of an ULP or two, of at most 1; so have sum, difference and quotient
        assert (h - expected).abs().max() <= 4 * 2.0**-52
        (d_x,) = torch.autograd.grad(h.sum(), x)  # y (1 − y) or 1 − y², whose y is off by 4 ULPs: slopes of 1 and 2
        assert torch.allclose(d_x, torch.autograd.grad(expected.sum(), x)[0], rtol=0, atol=8 * 2.0**-52)


@pytest.mark.parametrize("cell", CELLS)
def test_gaps_in_memory_change_no_bit_and_what_is_given_stays(cell: str) -> None:
    given = drawn(cell, 3, 2, 5, True)
    leaves = [given.x_parts, *given.state, given.cell.weight_hh]
    before = [value.detach().clone() for value in (*leaves, *given.cotangents)]
    expected = results(kernels.unroll, given)
    with torch.no_grad():
        given.cell.weight_hh.set_(twins.spread(given.cell.weight_hh))
    assert given.real is not None
    apart = Given(
        given.cell,
        twins.spread(given.x_parts.detach()).requires_grad_(),
        given.cell.state(*(twins.spread(part.detach()).requires_grad_() for part in given.state)),
        given.real.repeat(1, 1, 2)[..., :1],
        [twins.spread(given.cotangents[0]), *(d.T.contiguous().T for d in given.cotangents[1:])],
    )
    for name, value in results(kernels.unroll, apart).items():
        assert torch.equal(value, expected[name]), name
    assert all(map(torch.equal, before, (*leaves, *given.cotangents)))


@pytest.mark.parametrize("cell", CELLS)
def test_back_a_second_time_gives_the_same_bits(cell: str) -> None:
    given = drawn(cell, 3, 2, 5)
    output, final = kernels.unroll(given.cell, given.x_parts, given.state)
    first, second = (
        torch.autograd.grad([output, *final], [given.x_parts, *given.state], given.cotangents, retain_graph=True)
        for _ in range(2)
    )
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("cell", CELLS)
def test_under_autocast_products_are_of_halves_and_sums_are_not(cell: str) -> None:
    """In the interpreter float16 stands for bfloat16, which it does not have."""
    half = torch.float16 if DEVICE == "cpu" else torch.bfloat16
    given = drawn(cell, 5, 3, 20)

    def in_halves(*arguments: Any) -> tuple[Tensor, Any]:
        with torch.autocast(DEVICE, half):
            output, final = kernels.unroll(*arguments)
        assert output.dtype == half and final.h.dtype == torch.float32
        return output.float(), final

    ours, theirs = results(in_halves, given), results(under_autograd, given)
    assert {value.dtype for value in ours.values()} == {torch.float32}
    # What is rounded to half: the input, weights, and for each of 5 steps h, the gates that are saved, and ∂L/∂a; sums
    # are not, as 5 · 40 terms of them would show
    compare(ours, theirs, 4 * 5, torch.finfo(half).eps)


def test_the_cells_memory_is_kept_in_float32() -> None:
    """Open gates add 2⁻¹² to a memory of 1, three times: of which 11 bits would keep nothing."""
    cell, steps = CELLS["lstm"](1, 1, "identity"), torch.tensor([40, 40, 2.0**-12, 0], dtype=torch.float16)
    torch.nn.init.zeros_(cell.weight_hh)
    torch.nn.init.zeros_(cell.bias_hh)
    _, final = kernels.unroll(cell, steps.expand(3, 1, 4), cell.state(torch.zeros(1, 1), torch.ones(1, 1)))
    assert final.c == 1 + 3 * 2.0**-12


class AtOnce:
    """Stands for the kernel, and runs each program of a grid in a process of its own, in memory that all share."""

    def __init__(self, walk: Any) -> None:
        self.walk = walk

    def __getitem__(self, grid: tuple[int, int]) -> Callable[..., None]:
        return partial(self.launch, grid)

    def launch(self, grid: tuple[int, int], *arguments: Any, **options: Any) -> None:
        for argument in arguments:
            for tensor in argument if isinstance(argument, tuple) else [argument]:
                if isinstance(tensor, Tensor) and not tensor.requires_grad:
                    tensor.share_memory_()
        of = get_context("fork")
        programs = [of.Process(target=self.program, args=(grid, at, *arguments)) for at in product(*map(range, grid))]
        for program in programs:
            program.start()
        for program in programs:
            program.join(60)
        assert [program.exitcode for program in programs] == [0] * len(programs)

    def program(self, grid: tuple[int, int], at: tuple[int, int], *arguments: Any) -> None:
        from triton.runtime.interpreter import interpreter_builder

        interpreter_builder.set_grid_dim = lambda *_: setattr(interpreter_builder, "grid_dim", (*grid, 1))
        interpreter_builder.set_grid_idx = lambda *_: setattr(interpreter_builder, "grid_idx", (*at, 0))
        self.walk[1, 1](*arguments)


@pytest.mark.skipif(DEVICE != "cpu", reason="programs run at once on a GPU as it is")
@pytest.mark.filterwarnings("ignore:.*use of fork")
@pytest.mark.parametrize("cell", CELLS)
def test_programs_that_run_at_once_wait_for_each_other_at_the_counter(
    cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = drawn(cell, 3, 3, 3).to(torch.float64)
    expected = results(under_autograd, given)
    monkeypatch.setattr(kernels, "plan", lambda *_: kernels.Plan(2, 2, 4, False, "counter", 4))
    monkeypatch.setattr(kernels, "walk", AtOnce(kernels.walk))
    compare(results(kernels.unroll, given), expected, roundings(given), 2.0**-52)


def test_the_compiler_for_gpus_takes_every_kernel(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.models.triton_compiled"],
        cwd=Path(__file__).parents[2],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) == 3 * 4


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [(50, 64, 128), (50, 100, 300), (20, 200, 1024), (5, 512, 2048)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_on_a_gpu_layers_of_real_sizes_come_out_as_under_autograd_in_float64(
    cell: str, sizes: tuple[int, int, int], dtype: torch.dtype
) -> None:
    given = drawn(cell, *sizes, ragged=True)
    computed = results(kernels.unroll, given.to(dtype))
    # what is rounded to the format: input, weights and, at each step, h, the saved gates and ∂L/∂a
    few = roundings(given) if dtype == torch.float32 else 4 * sizes[0]
    compare(computed, results(under_autograd, given.to(torch.float64)), few, torch.finfo(dtype).eps)


def test_the_plan_holds_weights_while_it_can_and_meets_only_where_all_are_at_once() -> None:
    assert kernels.plan(B=64, H=128, G=4, size=2, at_once=132)[1:5] == (128, 128, True, "alone")
    assert kernels.plan(B=64, H=64, G=4, size=4, at_once=132).meet == "alone"
    for B, H, size, expected in (
        (64, 1024, 2, (64, 16, 128, True, "counter")),
        (64, 2048, 2, (64, 16, 64, False, "counter")),
        (512, 2048, 2, (64, 32, 64, False, "launch")),
        (16, 65, 4, (16, 16, 64, True, "counter")),
    ):
        assert kernels.plan(B, H, 4, size, at_once=132)[:5] == expected
    for B in (1, 40, 300):
        for H in (5, 129, 700, 3000):
            p = kernels.plan(B, H, 4, 2, at_once=132)
            assert p.meet != "counter" or kernels.blocks(B, p.rows) * kernels.blocks(H, p.columns) <= 132
            assert p.meet != "alone" or p.columns >= H and p.depth >= H


@pytest.mark.parametrize("shared", [64 * 1024, 99 * 1024, 163 * 1024])
def test_the_plan_holds_no_more_than_shared_memory_can(shared: int) -> None:
    """Of cards other than an H100, where a kernel that asks for more is not launched."""
    for B, H, size in ((64, 128, 2), (64, 64, 4), (64, 256, 2), (128, 1024, 2), (64, 512, 4)):
        p, whole = (kernels.plan(B, H, 4, size, 132, *given) for given in ([shared], []))
        assert not p.held or (4 * H * p.columns + p.rows * p.depth) * size <= shared
        assert p == whole or whole.held and p.meet == "counter"
    assert kernels.plan(64, 256, 4, 2, 132, shared).held


def test_float32_is_multiplied_as_torch_does_on_gpus_whoever_has_said_so() -> None:
    """`torch.get_float32_matmul_precision` raises after both ways."""
    before = torch.get_float32_matmul_precision()
    try:
        for legacy, expected in (("high", "tf32"), ("medium", "tf32"), ("highest", "ieee")):
            torch.set_float32_matmul_precision(legacy)
            assert kernels.input_precision() == expected
        for precision in ("tf32", "ieee"):
            torch.backends.cuda.matmul.fp32_precision = precision
            assert kernels.input_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own forward-mode rules use it
def test_what_cannot_be_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    given = drawn("gru", 2, 2, 3)
    with pytest.raises(RuntimeError, match="no second derivatives: use backend='autograd'"):
        torch.autograd.grad(kernels.unroll(*given[:4])[0].sum(), given.x_parts, create_graph=True)
    with pytest.raises(RuntimeError, match="no forward-mode derivatives: use backend='autograd'"):
        torch.func.jvp(lambda x: kernels.unroll(given.cell, x, given.state)[0], (given.x_parts,), (given.x_parts,))
    with pytest.raises(RuntimeError, match="no forward-mode derivatives: use backend='autograd'"), dual_level():
        kernels.unroll(given.cell, make_dual(given.x_parts.detach(), given.x_parts.detach()), given.state)
    monkeypatch.setattr(kernels, "INTERPRETED", False)
    with pytest.raises(ValueError, match="needs a GPU, and x is on the cpu: use backend='fused'"):
        kernels.unroll(given.cell.cpu(), given.x_parts.cpu(), given.state)
