"""Which published bugs are caught: by the exact cases here, and by the settings that others test gradients with."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from bptt.arithmetic import Array
from bptt.cells import CELLS
from bptt.layers import Recurrent
from bptt.networks import LanguageModel
from bptt.verify.cases import (
    Arrays,
    Case,
    Sizes,
    by_hand,
    exact_points,
    exact_points_model,
    in_model,
    piecewise_linear,
    piecewise_linear_model,
)
from bptt.verify.mutants import Mutant, applied


@cache
def exact_cases(cell: str) -> tuple[Case, ...]:
    """Dense, stacked and long, with hard gates and smooth, layers and whole models."""
    small, deep, long = Sizes(T=5, B=2, I=3, H=4), Sizes(T=4, B=2, I=3, H=5, L=2), Sizes(T=12, B=2, I=3, H=4)
    power_of_two = Sizes(T=4, B=2, I=3, H=5)
    return (
        piecewise_linear(cell, small, 1, density=0.5),
        piecewise_linear(cell, deep, 0),
        piecewise_linear(cell, long, 0),
        exact_points(cell, small, 0),
        piecewise_linear_model(cell, power_of_two, 0),
        exact_points_model(cell, power_of_two, 0),
    )


COLUMNS = ("hard", "hard deep", "hard long", "smooth", "hard model", "smooth model")


def wrong_results(case: Case, mutant: Mutant) -> list[str]:
    """The results of a case that the bug changes by at least one bit."""
    with applied(mutant):
        results = by_hand(case, np.copy)
    return [name for name, truth in case.truth.items() if not np.array_equal(results[name], truth)]


class Setting(NamedTuple):
    """How somebody tests gradients: on which case, in which precision, what counts as equal, on how many entries.

    The reference is the true gradient. Where people take central differences from a smooth point instead, these differ
    from it by 1e-9, which no tolerance below can see.
    """

    name: str
    draw: Callable[[str], Case]
    dtype: type
    relative: float
    absolute: float
    entries: int | None = None  # of each parameter; all, where there is no number


def ordinary(cell: str, s: Sizes, same_gates: bool = False) -> Case:
    """Weights as torch draws them, normal inputs, zero initial states; the loss is the sum of the outputs."""
    rng, gates, width = np.random.default_rng(0), len(CELLS[cell].gates), s.H**-0.5
    parameters: Arrays = {}
    for layer in range(s.L):
        columns = {"weight_ih": (s.H if layer else s.I,), "weight_hh": (s.H,), "bias_ih": (), "bias_hh": ()}
        for name, shape in columns.items():
            one = rng.uniform(-width, width, (s.H, *shape))
            others = [one if same_gates else rng.uniform(-width, width, one.shape) for _ in range(gates - 1)]
            parameters[f"cells.{layer}.{name}"] = np.concatenate([one, *others])
    states = {part: np.zeros((s.L, s.B, s.H)) for part in CELLS[cell].state._fields}
    inputs = {"x": rng.normal(size=(s.T, s.B, s.I))} | {f"initial.{part}": zero for part, zero in states.items()}
    cotangents = {"d.output": np.ones((s.T, s.B, s.H))} | {f"d.final.{part}": zero for part, zero in states.items()}
    return Case("ordinary", Recurrent(cell, s.L), s, inputs, parameters, cotangents)


def ordinary_model(cell: str, s: Sizes) -> Case:
    """The same in a whole model: cross entropy of one short sequence of distinct symbols."""
    layers, rng = ordinary(cell, s), np.random.default_rng(1)
    assert isinstance(layers.network, Recurrent)
    tokens = rng.permutation(s.V)[: s.T * s.B].reshape(s.T, s.B)
    parameters = in_model(layers.parameters) | {
        "embedding.weight": rng.normal(size=(s.V, s.I)),
        "head.weight": rng.normal(size=(s.V, s.H)) * s.H**-0.5,
        "head.bias": np.zeros(s.V),
    }
    inputs = layers.inputs | {"tokens": tokens, "targets": rng.permutation(tokens.ravel()).reshape(tokens.shape)}
    return Case("ordinary", LanguageModel(layers.network), s, inputs, parameters, layers.cotangents)


SHORT, USUAL = Sizes(T=3, B=2, I=8, H=8, L=2, V=16), Sizes(T=10, B=2, I=8, H=8, L=2, V=32)
SETTINGS = [
    Setting("0.1/0.2, T ≤ 3", lambda cell: ordinary(cell, SHORT), np.float32, 0.1, 0.2),
    Setting("1e-3, float32, sum", lambda cell: ordinary(cell, USUAL), np.float32, 1e-3, 1e-3),
    Setting("differences 1e-5/1e-3", lambda cell: ordinary(cell, USUAL), np.float64, 1e-3, 1e-5),
    Setting("ten entries", lambda cell: ordinary(cell, USUAL), np.float64, 1e-2, 0, entries=10),
    Setting("identical gates", lambda cell: ordinary(cell, USUAL, same_gates=True), np.float32, 1e-3, 1e-3),
]


def is_noticed(setting: Setting, mutant: Mutant, cell: str) -> bool:
    """Whether somebody who tests like this would see the bug; a bug of whole models is looked for in one."""
    case = ordinary_model(cell, SHORT if "T ≤ 3" in setting.name else USUAL) if mutant.model else setting.draw(cell)

    def convert(array: Array) -> Array:
        return array.astype(setting.dtype)

    true = by_hand(case, convert)
    with applied(mutant):
        false = by_hand(case, convert)
    rng = np.random.default_rng(2)
    for name in case.parameters:
        a, b = true[f"d.{name}"].ravel(), false[f"d.{name}"].ravel()
        picked = slice(None) if setting.entries is None else rng.integers(0, a.size, setting.entries)
        if not np.allclose(b[picked], a[picked], rtol=setting.relative, atol=setting.absolute):
            return True
    return False


def cells_of(mutant: Mutant) -> Iterator[str]:
    yield from [mutant.cell] if mutant.cell else CELLS
