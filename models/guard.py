"""What is not finite stops the training before it reaches a weight, and never gets into a checkpoint."""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def check_update(model: Any, loss: Tensor, norm: Tensor) -> None:
    """Asks the machine for one number: whether the loss, and the norm of all gradients before clipping, are finite.

    Raises FloatingPointError, with the update, the parameter and the learning rate, where they are not.
    """
    if torch.isfinite(loss + norm):
        return
    norms = {name: nn.utils.get_total_norm([p.grad]) for name, p in model.named_parameters() if p.grad is not None}
    raise not_made(model, model.trainer.global_step + 1, loss.item(), norms, learning_rate(model))


def not_made(model: Any, update: int, loss: float, norms: Mapping[str, Tensor], rate: float) -> FloatingPointError:
    """What is said of an update, from the norms of its gradients."""
    weights = {name: model.get_parameter(name) for name in norms}
    name = [*not_finite(weights.items()), *not_finite(norms.items()), largest(weights)][0]
    return FloatingPointError(
        f"update {update:,} was not made: the loss is {loss:.4g}, the norm of the gradient of {name} is "
        f"{norms[name].item():.4g}, {told(rate)}"
    )


class Watch:
    """The same for updates that nobody waits for. What is not finite is found on the device, and changes no weight;
    nor does what comes after it, until somebody looks.

    Attributes, all on the device: `finite`, whether every update was; `made`, how many were; `latest`, of the last one
    that was made or the first that was not: the learning rate, the loss, and the norm of each gradient.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.updates_before = model, model.trainer.global_step
        self.names = [name for name, _ in model.named_parameters()]
        zeros = partial(torch.zeros, device=model.device)
        self.finite, self.made = zeros((), dtype=torch.bool).logical_not(), zeros((), dtype=torch.int64)
        self.latest = zeros(2 + len(self.names), dtype=torch.float64)

    def let_through(self, loss: Tensor, gradients: list[Tensor], rate: Tensor) -> Tensor:
        """The norm of all gradients. Where an update is not to be made, the gradients and the rate become 0, so that no
        optimizer moves a weight."""
        norms = torch.stack(torch._foreach_norm(gradients))
        norm = torch.linalg.vector_norm(norms)
        now = torch.cat([torch.stack([rate, loss]), norms])
        self.latest.copy_(torch.where(self.finite, now, self.latest))
        self.finite.logical_and_(torch.isfinite(loss + norm))
        self.made.add_(self.finite)
        for gradient in gradients:
            gradient.masked_fill_(~self.finite, 0)
        rate.mul_(self.finite)
        return norm

    def look(self) -> None:
        """Asks the device for one number. Raises FloatingPointError as `check_update` does."""
        if self.finite:
            return
        (rate, loss), norms = self.latest[:2].tolist(), dict(zip(self.names, self.latest[2:], strict=True))
        raise not_made(self.model, self.updates_before + int(self.made) + 1, loss, norms, rate)


def check_held_out(model: Any, loss: float) -> None:
    """Raises FloatingPointError where finite weights are so large that the held-out loss is not finite."""
    if not math.isfinite(loss):
        name = largest(dict(model.named_parameters()))
        raise FloatingPointError(
            f"after update {model.trainer.global_step:,} the held-out loss is {loss:.4g}: {name} has values as large "
            f"as {model.get_parameter(name).abs().max().item():.4g}, {told(learning_rate(model))}"
        )


def largest(weights: dict[str, Any]) -> str:
    return max(weights, key=lambda name: weights[name].abs().max().item())


def learning_rate(model: Any) -> float:
    return float(model.trainer.optimizers[0].param_groups[0]["lr"])


def told(rate: float) -> str:
    return f"the learning rate is {rate:.4g}."


def check_weights(checkpoint: dict[str, Any]) -> None:
    """Raises FloatingPointError where a checkpoint's weights are not finite."""
    for name in not_finite(checkpoint["state_dict"].items()):
        raise FloatingPointError(f"update {checkpoint['global_step']:,} left {name} with values that are not finite.")


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    return [name for name, tensor in tensors if not torch.isfinite(tensor).all()]
