"""Which published bugs are caught: by the exact cases here, and by the settings that others test gradients with."""

from collections.abc import Iterator
from dataclasses import replace
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
    prefixes,
    uneven,
)
from bptt.verify.mutants import Mutant, applied


@cache
def exact_cases(cell: str) -> tuple[Case, ...]:
    """Dense, stacked and long, with hard gates and smooth, layers and whole models, and each with its options."""
    small, deep, long = Sizes(T=5, B=2, I=3, H=4), Sizes(T=4, B=2, I=3, H=5, L=2), Sizes(T=12, B=2, I=3, H=4)
    power_of_two, square = Sizes(T=4, B=2, I=3, H=5), Sizes(T=3, B=2, I=4, H=4)
    both_ways = Sizes(T=3, B=3, I=3, H=4, L=2, D=2)
    return (
        piecewise_linear(cell, small, 1, density=0.5),
        piecewise_linear(cell, deep, 0),
        piecewise_linear(cell, long, 0),
        exact_points(cell, small, 0),
        piecewise_linear_model(cell, power_of_two, 0),
        exact_points_model(cell, power_of_two, 0),
        piecewise_linear(cell, both_ways, 0, ragged=True, dropout=True),
        piecewise_linear_model(cell, square, 1, tied=True, attention_span=2),
    )


COLUMNS = ("hard", "hard deep", "hard long", "smooth", "hard model", "smooth model", "uneven", "attentive")


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
    sizes: Sizes
    dtype: type
    relative: float
    absolute: float
    entries: int | None = None  # of each parameter; all, where there is no number
    same_gates: bool = False

    def draw(self, cell: str, scope: str) -> Case:
        """An ordinary case in which a bug of this scope could be seen."""
        s = replace(self.sizes, D=1 + (scope == "bidirectional"))
        if scope in ("model", "tied", "attention"):
            return ordinary_model(cell, s, scope == "tied", 4 * (scope == "attention"))
        return ordinary(cell, s, self.same_gates, scope == "lengths", scope == "dropout")


def ordinary(cell: str, s: Sizes, same_gates: bool = False, ragged: bool = False, dropout: bool = False) -> Case:
    """Weights as torch draws them, normal inputs, zero initial states; the loss is the sum of the outputs."""
    rng, gates, width = np.random.default_rng(0), len(CELLS[cell].gates), s.H**-0.5
    parameters: Arrays = {}
    for place, prefix in enumerate(prefixes(s)):
        columns = {"weight_ih": (s.inputs_of(place // s.D),), "weight_hh": (s.H,), "bias_ih": (), "bias_hh": ()}
        for name, shape in columns.items():
            one = rng.uniform(-width, width, (s.H, *shape))
            others = [one if same_gates else rng.uniform(-width, width, one.shape) for _ in range(gates - 1)]
            parameters[prefix + name] = np.concatenate([one, *others])
    states = {part: np.zeros((s.L * s.D, s.B, s.H)) for part in CELLS[cell].state._fields}
    inputs = {"x": rng.normal(size=(s.T, s.B, s.I))} | {f"initial.{part}": zero for part, zero in states.items()}
    inputs |= uneven(rng, s, ragged, dropout, s.L - 1)
    cotangents = {"d.output": np.ones((s.T, s.B, s.D * s.H))}
    cotangents |= {f"d.final.{part}": zero for part, zero in states.items()}
    network = Recurrent(cell, s.L, bidirectional=s.D == 2)
    return Case("ordinary", network, s, inputs, parameters, cotangents)


def ordinary_model(cell: str, s: Sizes, tied: bool, attention_span: int) -> Case:
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
    if tied:
        del parameters["head.weight"]
    if attention_span:
        inputs["initial.memory"] = np.zeros((0, s.B, s.H))
        for part in ("query", "key", "value"):
            parameters[f"attention.{part}.weight"] = rng.normal(size=(s.H, s.H)) * s.H**-0.5
            if part != "key":
                parameters[f"attention.{part}.bias"] = np.zeros(s.H)
    network = LanguageModel(layers.network, attention_span=attention_span)
    return Case("ordinary", network, s, inputs, parameters, layers.cotangents)


SHORT, USUAL = Sizes(T=3, B=2, I=8, H=8, L=2, V=16), Sizes(T=10, B=2, I=8, H=8, L=2, V=32)
SETTINGS = [
    Setting("0.1/0.2, T ≤ 3", SHORT, np.float32, 0.1, 0.2),
    Setting("1e-3, float32, sum", USUAL, np.float32, 1e-3, 1e-3),
    Setting("differences 1e-5/1e-3", USUAL, np.float64, 1e-3, 1e-5),
    Setting("ten entries", USUAL, np.float64, 1e-2, 0, entries=10),
    Setting("identical gates", USUAL, np.float32, 1e-3, 1e-3, same_gates=True),
]


def is_noticed(setting: Setting, mutant: Mutant, cell: str) -> bool:
    """Whether somebody who tests like this would see the bug, where he tests what it is a bug of."""
    case = setting.draw(cell, mutant.scope)

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
