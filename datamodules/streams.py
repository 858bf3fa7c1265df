"""A long text cut into contiguous streams, read side by side, window after window."""

import copy
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.tokenizers import Ids

PADDING = -1
AT_ONCE = 1 << 24  # symbols that are copied to a device


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

    Attributes: `starts`, of the streams in the sequence, and `device`, where windows are cut, None for NumPy. Positions
    are counted in windows, so that they are those of every process which reads a shard.
    """

    device: torch.device | None = None

    def __init__(self, ids: Ids, batch_size: int, window: int, whole: bool = False) -> None:
        if whole and len(ids) < 2:
            raise ValueError(f"the held-out part has {len(ids)} symbols, and needs 2: raise --data.val_fraction")
        targets = len(ids) - 1
        if not whole and targets < batch_size * window:
            raise ValueError(
                f"the training part has {len(ids):,} symbols, but {batch_size} streams of windows of {window} need "
                f"{batch_size * window + 1:,}: " + what_fits(targets, batch_size, window)
            )
        self.ids: Any = ids
        self.window, self.whole = window, whole
        self.stream_length = -(-targets // batch_size) if whole else targets // batch_size
        self.starts: Any = np.arange(batch_size) * self.stream_length  # (B,)
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

    @property
    def dataset(self) -> range:
        """As long as the largest batch size: there Lightning's BatchSizeFinder stops."""
        return range((len(self.ids) - 1) // self.window)

    @property
    def resident_bytes(self) -> int:
        """What `on` takes of a device's memory."""
        return len(self.ids) * resident_dtype(self.ids).itemsize

    def on(self, device: torch.device) -> "Streams":
        """The same windows, cut on a device that gets the sequence once: no update waits for a copy."""
        moved = copy.copy(self)
        moved.ids, moved.starts = resident(self.ids, device), torch.from_numpy(self.starts).to(device)
        moved.device = device
        return moved

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
        steps = np.arange(begin, end + 1) if self.device is None else torch.arange(begin, end + 1, device=self.device)
        index = steps[:, None] + self.starts  # (T + 1, B)
        found = self.ids[index.clip(max=len(self.ids) - 1)]
        tokens = torch.from_numpy(found.astype(np.int64)) if self.device is None else found.long()
        if self.whole:
            tokens.masked_fill_(torch.as_tensor(index >= len(self.ids)), PADDING)
        return Window(tokens, fresh=position == 0)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


def resident_dtype(ids: Ids) -> np.dtype[Any]:
    """Of a sequence on a device: torch does not read by index in wider unsigned types on every device."""
    return np.dtype(np.uint8 if ids.itemsize == 1 else np.int32)


def resident(ids: Ids, device: torch.device) -> Tensor:
    """A sequence on a device, copied piece by piece."""
    dtype = resident_dtype(ids)
    moved = torch.from_numpy(np.empty(0, dtype)).new_empty(len(ids), device=device)
    for begin in range(0, len(ids), AT_ONCE):
        piece = slice(begin, begin + AT_ONCE)
        moved[piece] = torch.from_numpy(np.array(ids[piece], dtype))
    return moved


def what_fits(targets: int, batch_size: int, window: int) -> str:
    if targets >= batch_size:
        return f"--data.window {targets // batch_size} would fit"
    return f"--data.batch_size 1 --data.window {targets} would fit" if targets > 0 else "give a longer text"
