"""A long text cut into contiguous streams, read side by side, window after window."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.tokenizers import Ids

PADDING = -1


class Window(NamedTuple):
    """The next T steps of every stream: the targets of `tokens[:-1]` are `tokens[1:]`."""

    tokens: Tensor  # (T + 1, B), int64; PADDING beyond the end
    fresh: bool  # the streams begin here: whatever state is carried must be zero

    @property
    def symbols(self) -> int:
        """To be predicted."""
        return self.tokens[1:].numel()


class Streams:
    """B contiguous streams of one sequence, in windows of T steps; the last symbol of one window opens the next.

    The last window may be short. For training (`whole=False`) the streams are equally long, so that up to B − 1 symbols
    at the end are left out, and each iteration goes on where the last one stopped, so that a shortened epoch still sees
    the whole text in the end. With `whole=True` each iteration starts at the beginning, and every symbol but the first
    is a target exactly once: the last streams may be padded.

    Raises ValueError where the sequence is too short for a single window.

    Attributes: `starts`, of the streams in the sequence. Positions are counted in windows, so that they are those of
    every process which reads a shard.
    """

    def __init__(self, ids: Ids, batch_size: int, window: int, whole: bool = False) -> None:
        if whole and len(ids) < 2:
            raise ValueError(f"the held-out part has {len(ids)} symbols, and needs 2: raise --data.val_fraction")
        targets = len(ids) - 1
        if not whole and targets < batch_size * window:
            raise ValueError(
                f"the training part has {len(ids):,} symbols, but {batch_size} streams of windows of {window} need "
                f"{batch_size * window + 1:,}: " + what_fits(targets, batch_size, window)
            )
        self.ids, self.window, self.whole = ids, window, whole
        self.stream_length = -(-targets // batch_size) if whole else targets // batch_size
        self.starts = np.arange(batch_size) * self.stream_length  # (B,)
        self.position = 0

    def shard(self, rank: int, processes: int) -> "Streams":
        """The streams that one of several processes reads, of the same cut: side by side, in the order of their ranks,
        they are all of them. What is read whole, where its streams cannot be shared out evenly, each reads by itself.

        Raises ValueError where streams to train on cannot be shared out evenly.
        """
        if processes == 1:
            return self
        batch_size = len(self.starts)
        if batch_size % processes and not self.whole:
            fitting = max(batch_size // processes, 1) * processes
            raise ValueError(
                f"--data.batch_size is {batch_size}, which {processes} processes cannot share evenly: "
                f"--data.batch_size {fitting} would do"
            )
        shared = copy.copy(self)
        if batch_size % processes == 0:
            size = batch_size // processes
            shared.starts = self.starts[rank * size : (rank + 1) * size]
        return shared

    def __len__(self) -> int:
        """Windows in one pass."""
        return -(-self.stream_length // self.window)

    def __iter__(self) -> Iterator[Window]:
        if self.whole:
            self.position = 0
        for _ in range(len(self)):
            now = self.position
            self.position = (now + 1) % len(self)
            yield self.at(now)

    def at(self, position: int) -> Window:
        begin = position * self.window
        end = min(begin + self.window, self.stream_length)
        index = np.arange(begin, end + 1)[:, np.newaxis] + self.starts  # (T + 1, B)
        tokens = self.ids[np.minimum(index, len(self.ids) - 1)].astype(np.int64)
        tokens[index >= len(self.ids)] = PADDING
        return Window(torch.from_numpy(tokens), fresh=position == 0)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def what_fits(targets: int, batch_size: int, window: int) -> str:
    if targets >= batch_size:
        return f"--data.window {targets // batch_size} would fit"
    return f"--data.batch_size 1 --data.window {targets} would fit" if targets > 0 else "give a longer text"
