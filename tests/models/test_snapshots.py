"""Snapshots go back to what was there, and tell what differs."""

import pytest
import torch

from models.snapshots import BOUND, Snapshot, difference, difference_of

CPU = torch.device("cpu")


def test_tensors_and_random_numbers_are_as_they_were() -> None:
    weight = torch.nn.Parameter(torch.randn(3))
    counts, values = torch.tensor([4, 5]), weight.detach().clone()
    before = Snapshot({"weight": weight, "counts": counts}, CPU)
    drawn = torch.rand(4)
    with torch.no_grad():
        weight.mul_(torch.nan)
    counts.add_(1)
    later = torch.ones(2)
    before.restore({"weight": weight, "counts": counts, "later": later})
    assert torch.equal(weight, values) and counts.tolist() == [4, 5] and later.tolist() == [0, 0]
    assert torch.equal(torch.rand(4), drawn)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("share", "accepted"), [(0.5, True), (2.0, False)])
def test_a_difference_is_measured_by_the_change(dtype: torch.dtype, share: float, accepted: bool) -> None:
    """Not by the values, which are far larger."""
    before = torch.full((100,), 1024.0, dtype=dtype)
    theirs = before + 16
    ours = theirs + 16 * BOUND * share
    assert (difference_of(ours, theirs, before, exact=False) == "") == accepted
    assert difference_of(ours, theirs, None, exact=False) == "", "without a state before, by the values"
    assert difference_of(ours, theirs, before, exact=True) == "100 of 100 entries"


@pytest.mark.parametrize("exact", [True, False])
def test_counts_flags_shapes_and_what_is_not_finite_must_agree(exact: bool) -> None:
    nan, inf = torch.tensor([torch.nan, 1.0]), torch.tensor([torch.inf, 1.0])
    assert difference_of(nan, nan.clone(), None, exact) == difference_of(inf, inf.clone(), inf, exact) == ""
    for ours, theirs in (
        (nan, torch.ones(2)),
        (torch.ones(2), nan),
        (inf, torch.ones(2)),
        (torch.ones(2), inf),
        (torch.tensor(1000), torch.tensor(1001)),
        (torch.tensor(True), torch.tensor(False)),
        (torch.ones(2), torch.ones(3)),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)),
    ):
        assert difference_of(ours, theirs, torch.zeros_like(theirs), exact), (ours, theirs)


def test_a_change_smaller_than_the_spacing_of_numbers_may_be_rounded_otherwise() -> None:
    before = torch.ones(1000)
    theirs, ours = before.clone(), before.clone()
    ours[0] += 2**-23
    assert difference_of(ours, theirs, before, exact=False) == ""


def test_the_first_difference_is_named() -> None:
    first, second = Snapshot({"a": torch.zeros(2), "b": torch.ones(1)}, CPU), Snapshot({"a": torch.zeros(2)}, CPU)
    assert difference(first, first, first, exact=True) == ""
    assert difference(first, second, second, exact=True) == "b"
    torch.rand(1)
    third = Snapshot({"a": torch.zeros(2), "b": torch.zeros(1)}, CPU)
    assert difference(third, first, first, exact=False) == "the random state of the CPU"
    third.random = first.random
    assert difference(third, first, first, exact=False).startswith("b (relative difference")
