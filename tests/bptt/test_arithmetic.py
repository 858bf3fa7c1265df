"""Activations against other definitions of them, and their derivatives against complex steps."""

from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
import torch

from bptt.arithmetic import ACTIVATIONS, exp, log, sigmoid, tanh
from models.cells import ACTIVATIONS as TORCH_ACTIVATIONS

POINTS = np.array([-3.0, -2.0, -1.5, -1.0, -0.25, 0.0, 0.5, 1.0, 1.25, 2.0, 5.0])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_both_rooms_know_the_same_activations_and_slopes_at_kinks_too(name: str) -> None:
    a = torch.tensor(POINTS, requires_grad=True)
    theirs = TORCH_ACTIVATIONS[name](a)
    theirs.sum().backward()
    ours = ACTIVATIONS[name](POINTS)
    exact = name not in ("sigmoid", "tanh")
    # Each library's exp and tanh is good to about an ULP, which is at most 2⁻⁵² for values up to 1.
    tolerance = 0 if exact else 4 * 2.0**-52
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=0, atol=tolerance)
    np.testing.assert_allclose(ACTIVATIONS[name].derivative(POINTS, ours), a.grad.numpy(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_derivative_is_what_a_complex_step_finds(name: str) -> None:
    smooth_points = POINTS + 0.01  # off the kinks
    step = 1e-200  # its square vanishes, so that the imaginary part is the derivative, with no cancellation
    found = ACTIVATIONS[name](smooth_points + 1j * step).imag / step
    derivative = ACTIVATIONS[name].derivative(smooth_points, ACTIVATIONS[name](smooth_points))
    np.testing.assert_allclose(derivative, found, rtol=0, atol=4 * 2.0**-52)  # of y and y² near 1


@pytest.mark.parametrize("name", ["hard_sigmoid", "hard_tanh", "relu", "identity"])
def test_fractions_stay_fractions(name: str) -> None:
    points = np.array([Fraction(p) for p in POINTS], object)
    values = ACTIVATIONS[name](points)
    slopes = ACTIVATIONS[name].derivative(points, values)
    assert all(isinstance(number, Fraction) for number in (*values, *slopes))
    assert (values.astype(float) == ACTIVATIONS[name](POINTS)).all()


def test_decimals_carry_as_many_digits_as_their_context() -> None:
    with localcontext() as context:
        context.prec = 60
        x = np.array([Decimal("0.7"), Decimal("-40")], object)
        assert max(abs(log(exp(x)) - x)) < Decimal("1e-57")
        assert max(abs(tanh(x) - (exp(2 * x) - 1) / (exp(2 * x) + 1))) < Decimal("1e-58")


def test_sigmoid_neither_overflows_nor_loses_small_values() -> None:
    values = sigmoid(np.array([-800.0, -700.0, 0.0, 40.0, 800.0]))
    assert values[0] == 0 and 0 < values[1] < 1e-300 and values[2] == 0.5 and values[3] == values[4] == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_width_of_a_float_is_kept(name: str, dtype: type) -> None:
    values = ACTIVATIONS[name](POINTS.astype(dtype))
    assert values.dtype == ACTIVATIONS[name].derivative(POINTS.astype(dtype), values).dtype == dtype
