"""What is not finite stops the training before it reaches a weight, and never gets into a checkpoint."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def check_update(model: Any, loss: Tensor, norm: Tensor) -> None:
    """Asks the machine for one number: whether the loss, and the norm of all gradients before clipping, are finite.

    Raises FloatingPointError, with the update, the parameter and the learning rate, where they are not.
    """
    if torch.isfinite(loss + norm):
        return
    weights = {name: p for name, p in model.named_parameters() if p.grad is not None}
    norms = {name: nn.utils.get_total_norm([p.grad]) for name, p in weights.items()}
    name = [*not_finite(weights.items()), *not_finite(norms.items()), largest(weights)][0]
    raise FloatingPointError(
        f"update {model.trainer.global_step + 1:,} was not made: the loss is {loss.item():.4g}, the norm of the "
        f"gradient of {name} is {norms[name].item():.4g}, {learning_rate(model)}"
    )


def check_held_out(model: Any, loss: float) -> None:
    """Raises FloatingPointError where finite weights are so large that the held-out loss is not finite."""
    if not math.isfinite(loss):
        name = largest(dict(model.named_parameters()))
        raise FloatingPointError(
            f"after update {model.trainer.global_step:,} the held-out loss is {loss:.4g}: {name} has values as large "
            f"as {model.get_parameter(name).abs().max().item():.4g}, {learning_rate(model)}"
        )


def largest(weights: dict[str, Any]) -> str:
    return max(weights, key=lambda name: weights[name].abs().max().item())


def learning_rate(model: Any) -> str:
    return f"the learning rate is {model.trainer.optimizers[0].param_groups[0]['lr']:.4g}."


def check_weights(checkpoint: dict[str, Any]) -> None:
    """Raises FloatingPointError where a checkpoint's weights are not finite."""
    for name in not_finite(checkpoint["state_dict"].items()):
        raise FloatingPointError(f"update {checkpoint['global_step']:,} left {name} with values that are not finite.")


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    return [name for name, tensor in tensors if not torch.isfinite(tensor).all()]
