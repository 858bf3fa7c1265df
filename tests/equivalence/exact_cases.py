"""The cases of the exact tiers: every cell, dense and long, stacked, both precisions, and sizes that include one."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from bptt.verify.cases import Case, Sizes, exact_points, exact_points_model, piecewise_linear, piecewise_linear_model

CELLS = ("rnn", "gru", "lstm")
DOUBLE, SINGLE = 53, 24  # bits of the significand
SIZES = [
    Sizes(T=2, B=3, I=4, H=5),
    Sizes(T=12, B=2, I=3, H=4),
    Sizes(T=20, B=2, I=1, H=3),
    Sizes(T=4, B=2, I=3, H=5, L=2),
    Sizes(T=3, B=1, I=2, H=4, L=3),
    Sizes(T=1, B=2, I=3, H=4),
    Sizes(T=5, B=1, I=3, H=2),
    Sizes(T=2, B=3, I=2, H=1),
]
BOTH_WAYS = [Sizes(T=3, B=3, I=3, H=4, D=2), Sizes(T=3, B=3, I=2, H=3, L=2, D=2), Sizes(T=2, B=1, I=1, H=1, D=2)]
UNEVEN = [Sizes(T=6, B=4, I=3, H=4), Sizes(T=3, B=3, I=3, H=4, L=2), *BOTH_WAYS]
SQUARE = [Sizes(T=4, B=2, I=4, H=4), Sizes(T=2, B=2, I=4, H=4, L=2)]  # E = H, a power of four
MODEL_SIZES = [Sizes(T=4, B=2, I=3, H=5), Sizes(T=8, B=1, I=2, H=3), Sizes(T=2, B=4, I=3, H=5, L=2)]  # T · B = 8


class Recipe(NamedTuple):
    """How to draw a case; drawing it takes a moment, and is left to the test that needs it."""

    draw: Callable[..., Case]
    cell: str
    sizes: Sizes
    bits: int
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        options = [str(value) for _, value in self.options]
        return "-".join([self.draw.__name__, self.cell, str(self.sizes), *options])


@cache
def case_of(recipe: Recipe) -> Case:
    return recipe.draw(recipe.cell, recipe.sizes, 0, recipe.bits, **dict(recipe.options))


def layer_cases(bits: int) -> Iterator[Recipe]:
    """In float32 recurrent weights are sparser, or 24 bits would not do."""
    for cell in CELLS:
        for sizes in SIZES:
            yield Recipe(piecewise_linear, cell, sizes, bits, (("density", 0.4 if bits == DOUBLE else 0.2),))
            yield Recipe(exact_points, cell, sizes, bits)
        for sizes in UNEVEN:
            density = (("density", 0.3 if bits == DOUBLE else 0.15),)
            for options in ((), (("ragged", True),), (("ragged", True), ("dropout", True))):
                yield Recipe(piecewise_linear, cell, sizes, bits, density + options)
                yield Recipe(exact_points, cell, sizes, bits, options)
    for sizes in SIZES[:4]:  # linear pieces keep the significand short however long the sequence
        for activation in ("relu", "identity"):
            yield Recipe(piecewise_linear, "rnn", sizes, bits, (("activation", activation), ("density", 0.5)))


def model_cases(bits: int) -> Iterator[Recipe]:
    for cell in CELLS:
        for sizes in MODEL_SIZES:
            for loss in ("every", "last"):
                density = 0.3 if bits == DOUBLE else 0.2
                yield Recipe(piecewise_linear_model, cell, sizes, bits, (("loss", loss), ("density", density)))
                yield Recipe(exact_points_model, cell, sizes, bits, (("loss", loss),))
        yield Recipe(exact_points_model, cell, MODEL_SIZES[0], bits, (("one_hot", True),))
        for sizes in SQUARE:
            attentive: list[dict[str, Any]] = [{"attention_span": 2}, {"attention_span": 4, "tied": True}]
            for options in ({"tied": True}, {"dropout": True}, *attentive):
                with_density = {"density": 0.3 if bits == DOUBLE else 0.15, **options}
                yield Recipe(piecewise_linear_model, cell, sizes, bits, tuple(with_density.items()))
