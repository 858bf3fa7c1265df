"""Messages between the checker and the process that runs a candidate.

A message is a JSON object and arrays by name. On the pipe it stands as its length, an authentication code (HMAC-SHA256
of its number and its content, under a key that only the two ends have) and its content. Arrays are plain .npy, without
pickle, so that reading a message runs nothing.
"""

import hmac
import io
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from bptt.arithmetic import Array

KEY_BYTES, CODE_BYTES, LENGTH_BYTES = 32, 32, 8
LARGEST = 1 << 28  # bytes of one message; those of the checker's own cases are a thousand times smaller


class Unreadable(Exception):
    """What came is no message of the other end."""


class Message(NamedTuple):
    content: dict[str, Any]
    arrays: dict[str, Array]


class Sender:
    """Writes messages to a binary stream, each with its code."""

    def __init__(self, write: Callable[[bytes], Any], key: bytes) -> None:
        self.write, self.key, self.number = write, key, 0

    def send(self, content: dict[str, Any], arrays: dict[str, Array] | None = None) -> None:
        body = packed(Message(content, arrays or {}))
        self.write(len(body).to_bytes(LENGTH_BYTES, "big") + code_of(self.key, self.number, body) + body)
        self.number += 1


def received(read: Callable[[int], bytes], key: bytes) -> Iterator[Message]:
    """The messages of a stream, until it ends. `read(n)` gives at most n bytes, and none at the end.

    Raises Unreadable for what the holder of the key did not write, or not in this order, and for what is too large.
    """
    number = 0
    while head := exactly(read, LENGTH_BYTES + CODE_BYTES):
        length = int.from_bytes(head[:LENGTH_BYTES], "big")
        if length > LARGEST:
            raise Unreadable(f"a message of {length} bytes is too large")
        body = exactly(read, length)
        if not hmac.compare_digest(code_of(key, number, body), head[LENGTH_BYTES:]):
            raise Unreadable("a message is not authentic")
        yield unpacked(body)
        number += 1


def code_of(key: bytes, number: int, body: bytes) -> bytes:
    return hmac.digest(key, number.to_bytes(8, "big") + body, "sha256")


def exactly(read: Callable[[int], bytes], count: int) -> bytes:
    """So many bytes, or none where the stream is at its end. Raises Unreadable where it ends in between."""
    parts: list[bytes] = []
    missing = count
    while missing and (part := read(min(missing, 1 << 20))):
        parts.append(part)
        missing -= len(part)
    if missing and parts:
        raise Unreadable("a message is cut off")
    return b"".join(parts)


def packed(message: Message) -> bytes:
    stream = io.BytesIO()
    head = json.dumps({"content": message.content, "names": list(message.arrays)}).encode("ascii")
    stream.write(len(head).to_bytes(LENGTH_BYTES, "big") + head)
    for array in message.arrays.values():
        np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)
    return stream.getvalue()


def unpacked(body: bytes) -> Message:
    stream = io.BytesIO(body)
    try:
        head = json.loads(stream.read(int.from_bytes(stream.read(LENGTH_BYTES), "big")))
        arrays = {str(name): np.lib.format.read_array(stream, allow_pickle=False) for name in head["names"]}
        return Message(dict(head["content"]), arrays)
    except (ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise Unreadable(f"a message is malformed: {error}") from None
