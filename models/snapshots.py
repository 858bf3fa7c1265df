"""Snapshots of tensors that are changed in place and of the random number generators: to go back to an earlier state,
and to compare two ways of computing the same update."""

from collections.abc import Mapping

import torch
from torch import Tensor

# A heuristic, not a derived bound: the largest accepted relative difference, in the 2-norm of a tensor's change, of two
# runs of the same update whose sums are made in another order, as atomic additions do. That perturbs a float32 sum of
# n = 2¹⁵ terms by at most 2⁻⁹ of the sum of their magnitudes; one rounding to bfloat16 perturbs an entry by 2⁻⁸; and
# Adam turns entries that consist of rounding errors into full steps, which are few. A wrong replay (a stale input,
# another dropout mask, a missing step) changes tensors by about 1.
BOUND = 2**-4
ROUNDINGS = (
    4  # of each entry: where a change is smaller than the spacing of floating-point numbers, it is rounded twice
)


class Snapshot:
    """Copies of tensors, by name, and the states of the random number generators of the CPU and of a device."""

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.device = device
        self.values = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.random = {"the random state of the CPU": torch.get_rng_state()}
        if device.type == "cuda":
            self.random["the random state of the GPU"] = torch.cuda.get_rng_state(device)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Copies the values back, and sets the generators back. A tensor that is not in the snapshot becomes 0: it is
        optimizer state that was created later, and torch's optimizers create theirs as zeros."""
        for name, tensor in tensors.items():
            if name in self.values:
                tensor.copy_(self.values[name])
            else:
                tensor.zero_()
        on_cpu, *on_gpu = self.random.values()
        torch.set_rng_state(on_cpu)
        for state in on_gpu:
            torch.cuda.set_rng_state(state, self.device)  # in place: graphs keep their generator


def difference(ours: Snapshot, theirs: Snapshot, before: Snapshot, exact: bool) -> str:
    """What differs between two states that should be the same, for a message; empty where nothing does.

    With `exact`, every bit counts. Otherwise floating-point tensors may differ by `BOUND` relative to the change since
    `before`, or relative to their values where `before` does not have them. NaNs at the same entries are equal.
    """
    for name, state in ours.random.items():
        if not torch.equal(state, theirs.random[name]):
            return name
    if ours.values.keys() != theirs.values.keys():
        return ", ".join(sorted(ours.values.keys() ^ theirs.values.keys()))
    for name, value in ours.values.items():
        if text := difference_of(value, theirs.values[name], before.values.get(name), exact):
            return f"{name} ({text})"
    return ""


def difference_of(ours: Tensor, theirs: Tensor, before: Tensor | None, exact: bool) -> str:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return f"{tuple(ours.shape)} of {ours.dtype}, not {tuple(theirs.shape)} of {theirs.dtype}"
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    if same.all():
        return ""
    if exact or not ours.is_floating_point():
        return f"{int((~same).sum()):,} of {same.numel():,} entries"
    error = torch.where(same, 0, ours.double() - theirs.double()).norm()
    change = (theirs.double() - (0 if before is None else before.double())).norm()
    rounding = ROUNDINGS * torch.finfo(ours.dtype).eps * theirs.double().norm()
    if error.isfinite() and error <= BOUND * change + rounding:
        return ""
    return f"relative difference {(error / change).item():.1e}, above {BOUND:.1e}"
