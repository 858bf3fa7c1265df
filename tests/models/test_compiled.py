"""The fused layers through the compiler: the same proofs, of machine code that is made here; and when it is made."""

import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.exc import TorchDynamoException

from bptt.verify.cases import Case, Sizes, by_hand, exact_points, piecewise_linear
from bptt.verify.sequences import sequence_bounds
from bptt.verify.smooth_cases import random_layers
from models import fused
from models.cells import CELLS
from models.recurrent import Recurrent
from models.steps import tanh_of_exp
from tests.equivalence.exact_cases import DOUBLE, SINGLE
from tests.equivalence.test_bounds import FORMATS, rounded
from tests.equivalence.test_exact import differing
from twins import by_autograd

compiles = pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As users have it, but in chunks of two steps, which are sooner compiled."""
    monkeypatch.delenv("TORCH_COMPILE_DISABLE")
    monkeypatch.setattr(fused, "STEPS_OF_A_CHUNK", 2)
    for cached in (fused.chunk_of, fused.can_compile):
        cached.cache_clear()
    torch.compiler.reset()
    with torch._dynamo.config.patch(disable=False):
        yield
    for cached in (fused.chunk_of, fused.can_compile):
        cached.cache_clear()


@compiles
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("draw", "bits", "options"),
    [(exact_points, SINGLE, {}), (piecewise_linear, DOUBLE, {"ragged": True, "density": 0.3})],
    ids=["smooth", "hard and ragged"],
)
def test_compiled_layers_give_the_bits_of_the_truth(
    cell: str, draw: Any, bits: int, options: dict[str, Any], compiler: None
) -> None:
    case = draw(cell, Sizes(T=5, B=3, I=3, H=4), 0, bits, **options)  # two chunks, and a step that is left
    dtype = torch.float32 if bits == SINGLE else torch.float64
    assert not differing(by_autograd(case, dtype, "compiled"), case.truth)


@compiles
@pytest.mark.parametrize("cell", CELLS)
def test_compiled_layers_are_within_the_bounds_of_float32(cell: str, compiler: None) -> None:
    """With more units than a vector register holds, and some left over."""
    drawn = random_layers(cell, Sizes(T=4, B=2, I=2, H=19), seed=0)
    groups = ("inputs", "parameters", "cotangents")
    case = Case(**{**vars(drawn), **{group: rounded(getattr(drawn, group), torch.float32, 0.5) for group in groups}})
    ours, theirs = by_hand(case, np.copy), by_autograd(case, torch.float32, "compiled")
    bounds = sequence_bounds(case, FORMATS["float32"])
    for result in theirs:
        assert (np.abs(ours[result] - theirs[result]) <= bounds[result]).all(), result


def test_tanh_is_right_to_two_units_in_the_last_place() -> None:
    """Every float32 of some stretches, and values from everywhere."""
    far = [0.0, 1e-40, 1e-30, 20.0, 100.0, float("inf")]
    x = torch.cat([torch.linspace(-12, 12, 1_000_001), torch.linspace(0.6, 0.65, 1_000_001), torch.tensor(far)])
    true = torch.tanh(x.double())
    unit = torch.nextafter(true.float().abs(), torch.tensor(2.0)).double() - true.float().abs().double()
    found = tanh_of_exp(x).double()
    assert ((found - true).abs() <= 2 * unit).all()
    assert (found[-6:] == true[-6:].float()).all() and (tanh_of_exp(-x) == -tanh_of_exp(x)).all()
    assert tanh_of_exp(torch.tensor(float("nan"))).isnan()


@compiles
def test_what_pays_is_compiled_and_it_is_told_once(compiler: None, capsys: pytest.CaptureFixture[str]) -> None:
    weight = torch.zeros(4, 64)
    assert fused.pays(weight, 8, 64, None) and fused.pays(weight, 2, 64, None)
    assert capsys.readouterr().err.count("compiling recurrent layers") == 1
    assert not fused.pays(weight, 8, 63, None), "few values"
    assert not fused.pays(weight, 1, 64, None), "less than a chunk"
    assert not fused.pays(weight.double(), 8, 64, None), "a format for proofs"
    assert not fused.pays(weight, 8, 64, torch.ones(8, 64, 1, dtype=torch.bool)), "uneven sequences"
    with torch.autocast("cpu"):
        assert not fused.pays(weight, 8, 64, None)


@pytest.mark.parametrize("why", ["asked", "missing"])
def test_without_a_compiler_nothing_is_compiled(
    why: str, compiler: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if why == "asked":
        monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not fused.pays(torch.zeros(4, 64), 8, 64, None)
    assert ("no C++ compiler" in capsys.readouterr().err) == (why == "missing")


@compiles
def test_there_may_be_more_shapes_than_the_compiler_expects(compiler: None) -> None:
    """Of itself it gives up after eight; that would be a warning, and warnings are errors here."""
    layers = Recurrent("rnn", 1, 1, backend="compiled")
    for B in range(1, 11):
        assert layers(torch.ones(2, B, 1))[0].shape == (2, B, 1)


def test_where_the_compiler_fails_layers_go_on_without_it(compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: broken)
    x, layers = torch.randn(4, 2, 3), Recurrent("gru", 3, 5, backend="compiled")
    with pytest.warns(
        UserWarning, match="recurrent layers go on without the compiler, which failed: no space left on device$"
    ):
        found, _ = layers(x)
    layers.backend = "autograd"
    torch.testing.assert_close(found, layers(x)[0], rtol=0, atol=2**-20)  # outputs within 1, of four roundings a step


def broken(*inputs: Any) -> None:
    raise TorchDynamoException("no space left on device\n and a long story")
