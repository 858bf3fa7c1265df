"""W_ih x + b_ih of a layer, the part of a step that depends on no state, in the forms in which layers get it.

Each knows how to compute itself for some of the steps, as a whole or as rows (·, GH) with the number of each step's row
(none: in order), and how the gradient of that part, d (K, B, GH), is shared out.
Letters: T steps, K of them, B batch, I input size, V symbols, G gates, H hidden size.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def add_products(total: Tensor, d: Tensor, read: Tensor) -> None:
    """total += Σ_t Σ_b d readᵀ: (K, B, G), (K, B, I) → (G, I). What is added rounds as `d` does, sums as `total`."""
    d, read = d.flatten(0, 1).T, read.flatten(0, 1).to(d)
    if total.dtype == d.dtype:
        total.addmm_(d, read)
    else:
        total += d @ read


def no_sum(parameter: Tensor) -> Tensor:
    """What its gradients are to be added to, in float32 at least."""
    return torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32))


class Dense(NamedTuple):
    """Of vectors: x Wᵀ + b, from x (T, B, I), W (GH, I), b (GH)."""

    x: Tensor
    weight: Tensor
    bias: Tensor

    def parts(self) -> Tensor:
        return F.linear(self.x, self.weight, self.bias)

    def rows(self) -> tuple[Tensor, Tensor | None]:
        return self.parts().contiguous(), None

    def no_gradients(self, wanted: Sequence[bool]) -> list[Any]:
        return [torch.empty_like(self.x) if wanted[0] else None, *map(no_sum, self[1:])]

    def share_out(self, gradients: list[Any], t: slice, d: Tensor) -> None:
        d = d.to(self.weight)
        if gradients[0] is not None:
            torch.mm(d.flatten(0, 1), self.weight, out=gradients[0][t].flatten(0, 1))
        add_products(gradients[1], d, self.x[t])
        gradients[2] += d.sum((0, 1))

    def d_bias(self, gradients: list[Any]) -> Tensor:
        """Σ_t Σ_b d, once all of them are shared out."""
        return gradients[2].clone()


class Symbols(NamedTuple):
    """Of symbols: a row each of a table (V, GH), by tokens (T, B). The table holds W x + b of each symbol, once."""

    tokens: Tensor
    table: Tensor

    def parts(self) -> Tensor:
        return F.embedding(self.tokens, self.table)

    def rows(self) -> tuple[Tensor, Tensor | None]:
        if self.tokens.numel() and not 0 <= int(self.tokens.min()) <= int(self.tokens.max()) < len(self.table):
            raise IndexError(f"a symbol is not among {len(self.table):,}: tokens are 0 to {len(self.table) - 1:,}")
        return self.table.contiguous(), self.tokens.contiguous()

    def no_gradients(self, wanted: Sequence[bool]) -> list[Any]:
        return [None, no_sum(self.table)]

    def share_out(self, gradients: list[Any], t: slice, d: Tensor) -> None:
        gradients[1].index_add_(0, self.tokens[t].flatten(), d.flatten(0, 1).to(gradients[1]))

    def d_bias(self, gradients: list[Any]) -> Tensor:
        return gradients[1].sum(0)


Projection = Dense | Symbols


def in_time(projection: Projection, change: Callable[[Tensor], Tensor]) -> Projection:
    """The projection of other steps, or in another order: what is read comes first in each form."""
    read, *fixed = projection
    return type(projection)(change(read), *fixed)
