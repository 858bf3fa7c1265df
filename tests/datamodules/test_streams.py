"""Contiguous streams: nothing twice, nothing left out, nothing read ahead."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datamodules import streams as module
from datamodules.streams import PADDING, Streams
from datamodules.text import TextDataModule

shapes = st.tuples(st.integers(2, 300), st.integers(1, 9), st.integers(1, 20))


@given(shapes)
def test_the_held_out_part_is_read_whole_each_target_exactly_once(shape: tuple[int, int, int]) -> None:
    length, batch_size, window = shape
    streams = Streams(np.arange(length), batch_size, window, whole=True)
    targets = torch.cat([each.tokens[1:] for each in streams]).T  # (B, steps)
    inputs = torch.cat([each.tokens[:-1] for each in streams]).T
    assert sorted(targets[targets != PADDING].tolist()) == list(range(1, length))
    assert (targets - inputs)[targets != PADDING].eq(1).all(), "every target follows its input in the text"


@given(shapes)
def test_training_windows_follow_each_other_in_the_text(shape: tuple[int, int, int]) -> None:
    length, batch_size, window = shape
    if length - 1 < batch_size * window:
        with pytest.raises(ValueError, match="would fit|longer text"):
            Streams(np.arange(length), batch_size, window)
        return
    streams = Streams(np.arange(length), batch_size, window)
    windows = [each.tokens for each in streams]
    assert len(windows) == len(streams)
    steps = (length - 1) // batch_size
    assert [len(tokens) - 1 for tokens in windows] == [window] * (steps // window) + [steps % window] * (
        steps % window > 0
    )
    for tokens in windows:
        assert tokens.shape[1] == batch_size
        assert (tokens.diff(dim=0) == 1).all()
    targets = torch.cat([tokens[1:] for tokens in windows])
    assert sorted(targets.flatten().tolist()) == list(range(1, batch_size * steps + 1)), "each is a target, and once"
    for before, after in zip(windows, windows[1:], strict=False):
        assert (before[-1] == after[0]).all(), (
            "the last symbol of one window opens the next: none read twice, none ahead"
        )


def test_the_way_out_that_an_error_offers_does_work() -> None:
    with pytest.raises(ValueError, match="--data.window 4 would fit"):
        Streams(np.arange(14), 3, 5)
    assert len(Streams(np.arange(14), 3, 4)) == 1
    with pytest.raises(ValueError, match="--data.batch_size 1 --data.window 1 would fit"):
        Streams(np.arange(2), 3, 5)
    assert len(Streams(np.arange(2), 1, 1)) == 1


def test_only_the_first_window_of_a_pass_is_fresh_also_when_epochs_are_cut_short() -> None:
    streams = Streams(np.arange(41), 2, 5)  # 4 windows
    seen = [each for _ in range(2) for _, each in zip(range(3), streams, strict=False)]
    assert [each.fresh for each in seen] == [True, False, False, False, True, False]


def test_a_position_that_was_saved_is_gone_on_from() -> None:
    streams, resumed = Streams(np.arange(41), 2, 5), Streams(np.arange(41), 2, 5)
    iterator = iter(streams)
    next(iterator)
    resumed.load_state_dict(streams.state_dict())
    assert (next(iter(resumed)).tokens == next(iterator).tokens).all()


def test_the_held_out_part_is_read_from_its_beginning_also_after_a_reading_was_cut_short() -> None:
    streams = Streams(np.arange(41), 2, 5, whole=True)
    next(iter(streams))
    assert [each.fresh for each in streams] == [True, False, False, False]


@given(shapes, st.integers(1, 4), st.booleans())
def test_what_several_processes_read_is_the_same_cut_without_overlap_or_gap(
    shape: tuple[int, int, int], processes: int, whole: bool
) -> None:
    length, batch_size, window = shape
    batch_size *= processes
    if not whole and length - 1 < batch_size * window:
        return
    together = Streams(np.arange(length), batch_size, window, whole)
    shards = [Streams(np.arange(length), batch_size, window, whole).shard(k, processes) for k in range(processes)]
    for window_of_all, *windows in zip(together, *shards, strict=True):
        assert all(part.fresh == window_of_all.fresh for part in windows)
        assert torch.equal(torch.cat([part.tokens for part in windows], dim=1), window_of_all.tokens)


def test_what_cannot_be_shared_evenly_is_refused_for_training_and_else_read_by_each() -> None:
    with pytest.raises(ValueError, match="--data.batch_size is 5, which 2 processes .*: --data.batch_size 4 would do"):
        Streams(np.arange(41), 5, 2).shard(0, 2)
    with pytest.raises(ValueError, match="--data.batch_size 3 would do"):
        Streams(np.arange(41), 2, 2).shard(0, 3)
    with pytest.raises(ValueError, match="--data.batch_size is 8, which 3 processes cannot share evenly"):
        TextDataModule(corpus="memorise", batch_size=8, window=5).check(None, 3)
    held_out = Streams(np.arange(41), 5, 2, whole=True)
    for window, same in zip(held_out.shard(1, 2), held_out, strict=True):
        assert torch.equal(window.tokens, same.tokens)


def test_a_position_saved_by_two_processes_is_that_of_one() -> None:
    half, whole = Streams(np.arange(41), 2, 5).shard(1, 2), Streams(np.arange(41), 2, 5)
    next(iter(half))
    whole.load_state_dict(half.state_dict())
    assert torch.equal(next(iter(whole)).tokens[:, 1:], next(iter(half)).tokens)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("rank", "processes"), [(0, 1), (1, 2), (1, 3)])
def test_windows_that_a_device_cuts_are_the_same(
    device: str, dtype: Any, whole: bool, rank: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short ones, padded ones, those of a process, and those after a position that was saved."""
    monkeypatch.setattr(module, "AT_ONCE", 100)
    ids = np.random.default_rng(0).integers(0, min(np.iinfo(dtype).max, 2**31 - 1), 1001, endpoint=True).astype(dtype)
    ids.flags.writeable = False  # as a file that is mapped
    streams = Streams(ids, 6, 13, whole).shard(rank, processes)
    there = streams.on(torch.device(device))
    assert there.resident_bytes == streams.resident_bytes == 1001 * (1 if dtype == np.uint8 else 4)
    for ours, theirs in zip(there, streams, strict=True):
        assert ours.tokens.device.type == device and ours.tokens.dtype == torch.int64 and ours.fresh == theirs.fresh
        assert torch.equal(ours.tokens.cpu(), theirs.tokens) and ours.symbols == theirs.symbols
    if not whole:
        streams.load_state_dict({"position": 5})
        there.load_state_dict(streams.state_dict())
        assert torch.equal(next(iter(there)).tokens.cpu(), next(iter(streams)).tokens)
        assert there.state_dict() == streams.state_dict() == {"position": 6}


@pytest.mark.gpu
def test_a_gpu_that_cuts_windows_waits_for_nothing() -> None:
    streams = Streams(np.arange(1000), 6, 13).on(torch.device("cuda"))
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(streams)) == 13
    finally:
        torch.cuda.set_sync_debug_mode("default")
