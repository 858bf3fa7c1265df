"""W_ih x + b_ih in parts of the time: what each shares out of a gradient is what autograd gives of the whole."""

import pytest
import torch

from models.projections import Dense, Projection, Symbols, in_time

T, B, I, V, G = 5, 2, 3, 4, 6


def whole_numbers(*sizes: int) -> torch.Tensor:
    """Small ones, of which every sum is exact."""
    return torch.randint(-4, 5, sizes, generator=torch.Generator().manual_seed(0)).float().requires_grad_()


@pytest.mark.parametrize(
    "projection",
    [
        Dense(whole_numbers(T, B, I), whole_numbers(G, I), whole_numbers(G)),
        Symbols(torch.arange(T * B).view(T, B) % V, whole_numbers(V, G)),
    ],
    ids=["dense", "symbols"],
)
def test_gradients_of_parts_of_the_time_are_to_the_bit_that_of_the_whole(projection: Projection) -> None:
    d, leaves = whole_numbers(T, B, G).detach(), [of for of in projection if of.requires_grad]
    expected = torch.autograd.grad(projection.parts(), leaves, d)
    fixed = type(projection)(*(of.detach() for of in projection))
    found = fixed.no_gradients([of.requires_grad for of in projection])
    for t in (slice(3, T), slice(0, 3)):
        assert (in_time(fixed, lambda steps, t=t: steps[t]).parts() == projection.parts()[t]).all()
        fixed.share_out(found, t, d[t])
    assert all((ours == theirs).all() for ours, theirs in zip(found[-len(leaves) :], expected, strict=True))


def test_an_input_that_wants_no_gradient_gets_none() -> None:
    dense = Dense(whole_numbers(T, B, I).detach(), whole_numbers(G, I).detach(), whole_numbers(G).detach())
    found = dense.no_gradients([False, True, True])
    dense.share_out(found, slice(0, T), whole_numbers(T, B, G).detach())
    assert found[0] is None and found[1].any()


def test_sums_over_the_time_are_float32_where_products_are_of_bfloat16() -> None:
    """300 ones: in bfloat16, 256 + 1 is 256."""
    x, weight, bias = (torch.ones(sizes, dtype=torch.bfloat16) for sizes in ((300, 1, 1), (1, 1), (1,)))
    dense = Dense(x, weight, bias)
    found = dense.no_gradients([True, True, True])
    for t in range(300):
        dense.share_out(found, slice(t, t + 1), torch.ones(1, 1, 1))
    assert [of.item() for of in found[1:]] == [300, 300] and found[0].dtype == torch.bfloat16
    symbols = Symbols(torch.zeros(300, 1, dtype=torch.int64), weight)
    found = symbols.no_gradients([False, True])
    for t in range(300):
        symbols.share_out(found, slice(t, t + 1), torch.ones(1, 1, 1))
    assert found[1].item() == 300
