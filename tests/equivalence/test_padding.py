"""What lies beyond a sequence's length bears on nothing, to the bit; and each sequence is read as it would be alone."""

import numpy as np
import pytest
import torch

from bptt.attention import attention_pooling
from bptt.verify.cases import Arrays, Case, Sizes, by_hand, piecewise_linear
from bptt.verify.smooth_cases import random_layers
from models.attention import AttentionPooling
from models.recurrent import Recurrent
from tests.equivalence.exact_cases import CELLS
from twins import by_autograd

SIZES = Sizes(T=5, B=4, I=3, H=4, L=2, D=2)
SMALL = Sizes(T=3, B=3, I=3, H=4, L=2, D=2)


def padded_with(case: Case, value: float, more: int = 0) -> Case:
    """The case with such a value in all padding, of x and of what comes back to the output, and more of it."""

    def fill(array: np.ndarray) -> np.ndarray:
        longer = np.concatenate([array, np.zeros((more, *array.shape[1:]))])
        padding = np.arange(len(longer))[:, np.newaxis] >= case.inputs["lengths"]
        return np.where(padding[..., np.newaxis], value, longer)

    inputs, cotangents = dict(case.inputs), dict(case.cotangents)
    inputs["x"], cotangents["d.output"] = fill(inputs["x"]), fill(cotangents["d.output"])
    return Case(**{**vars(case), "inputs": inputs, "cotangents": cotangents})


def same_bits(a: Arrays, b: Arrays) -> None:
    assert a.keys() == b.keys()
    for name in a:
        T = min(len(a[name]), len(b[name]))
        assert (a[name][:T] == b[name][:T]).all(), name
        assert not a[name][T:].any() and not b[name][T:].any(), name


@pytest.mark.parametrize("value", [7.0, np.inf, np.nan])
@pytest.mark.parametrize("cell", CELLS)
def test_padding_may_hold_anything(cell: str, value: float, backend: str) -> None:
    case = random_layers(cell, SIZES, ragged=True)
    other = padded_with(case, value)
    same_bits(by_hand(case, np.copy), by_hand(other, np.copy))
    same_bits(by_autograd(case, torch.float64, backend), by_autograd(other, torch.float64, backend))


@pytest.mark.parametrize("cell", CELLS)
def test_padding_may_be_as_long_as_it_likes(cell: str, backend: str) -> None:
    """Where nothing rounds; elsewhere a longer product of matrices may be summed in another order."""
    case = piecewise_linear(cell, SMALL, 0, ragged=True, density=0.3)
    longer = padded_with(case, 0.0, more=4)
    same_bits(case.truth, by_hand(longer, np.copy))
    same_bits(case.truth, by_autograd(longer, torch.float64, backend))


@pytest.mark.parametrize("cell", CELLS)
def test_each_sequence_is_read_as_it_would_be_alone(cell: str, backend: str) -> None:
    case = random_layers(cell, SIZES, ragged=True)
    layers = Recurrent(cell, 3, 4, 2, bidirectional=True, backend=backend).double()
    x, lengths = torch.tensor(case.inputs["x"]), torch.tensor(case.inputs["lengths"])
    together, final = layers(x, lengths=lengths)
    for member, length in enumerate(lengths.tolist()):
        alone, own = layers(x[:length, member : member + 1])
        # values below 1, products of four terms: a few ULPs of 1.1e-16 a step, over two layers of five
        assert torch.allclose(together[:length, member], alone[:, 0], rtol=0, atol=1e-14)
        for part, expected in zip(final, own, strict=True):
            assert torch.allclose(part[:, member], expected[:, 0], rtol=0, atol=1e-14)


@pytest.mark.parametrize("score", ["additive", "dot"])
def test_pooling_gives_padding_no_weight(score: str) -> None:
    h, lengths = torch.randn(5, 3, 4, dtype=torch.float64), torch.tensor([5, 1, 3])
    padding = torch.arange(5)[:, None] >= lengths
    pooling = AttentionPooling(4, score).double()
    p = {name: value.detach().numpy() for name, value in pooling.named_parameters()}
    for value in (0.0, torch.nan):
        filled = torch.where(padding[..., None], value, h)
        pooled, weights = pooling(filled, lengths)
        by_hand, weights_by_hand, _ = attention_pooling(filled.numpy(), p, lengths.numpy())
        assert (weights[padding] == 0).all() and (weights_by_hand[padding] == 0).all()
        for results in ((pooled.detach().numpy(), weights.detach().numpy()), (by_hand, weights_by_hand)):
            # values near 1, sums of five: 1e-14 is some fifty ULPs
            np.testing.assert_allclose(results[1].sum(0), 1, rtol=0, atol=1e-14)
            np.testing.assert_allclose(results[0], (results[1][..., np.newaxis] * h.numpy()).sum(0), rtol=0, atol=1e-14)


@pytest.mark.parametrize("lengths", [[2, 0, 1], [2, 4, 1], [2, 1], [2.0, 1.0, 3.0]])
def test_lengths_that_cannot_be_are_refused(lengths: list[float]) -> None:
    with pytest.raises(ValueError, match="give 3 whole numbers between 1 and 3"):
        Recurrent("lstm", 2, 2)(torch.zeros(3, 3, 2), lengths=torch.tensor(lengths))
