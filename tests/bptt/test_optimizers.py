"""The optimizers and clippings against torch's."""

from typing import Any

import numpy as np
import pytest
import torch

from bptt.optimizers import SGD, AdaGrad, clip_by_norm, clip_by_value
from bptt.verify.cases import Arrays

CLOSE = {"rtol": 1e-14, "atol": 0}  # three or four roundings an update, five updates


def gradients(step: int) -> Arrays:
    rng = np.random.default_rng(step)
    return {"a": rng.normal(size=(3, 4)), "b": rng.normal(size=5) * 10}


@pytest.mark.parametrize(("ours", "theirs"), [(SGD, torch.optim.SGD), (AdaGrad, torch.optim.Adagrad)])
def test_updates_are_those_of_torch(ours: Any, theirs: Any) -> None:
    parameters = gradients(99)
    leaves = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in parameters.items()}
    rule, reference = ours(0.1), theirs(leaves.values(), lr=0.1)
    for step in range(5):
        rule.update(parameters, gradients(step))
        for name, gradient in gradients(step).items():
            leaves[name].grad = torch.tensor(gradient)
        reference.step()
    for name, leaf in leaves.items():
        np.testing.assert_allclose(parameters[name], leaf.detach().numpy(), **CLOSE)


@pytest.mark.parametrize("limit", [0.5, 7.0, 1000.0])
def test_clippings_are_those_of_torch(limit: float) -> None:
    for ours, theirs in (
        (clip_by_norm, torch.nn.utils.clip_grad_norm_),
        (clip_by_value, torch.nn.utils.clip_grad_value_),
    ):
        leaves = {
            name: torch.nn.Parameter(torch.zeros(value.shape, dtype=torch.float64))
            for name, value in gradients(0).items()
        }
        for name, gradient in gradients(0).items():
            leaves[name].grad = torch.tensor(gradient)
        theirs(leaves.values(), limit)
        clipped = ours(gradients(0), limit)
        for name, leaf in leaves.items():
            np.testing.assert_allclose(clipped[name], leaf.grad.numpy(), **CLOSE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("clip", [clip_by_norm, clip_by_value])
def test_a_gradient_that_is_not_finite_does_not_pass(clip: Any, bad: float) -> None:
    with pytest.raises(ValueError, match="the gradient of a is not finite"):
        clip({"a": np.array([1.0, bad])}, 1.0)
