"""Text to integers and back: one number a character, or one a byte."""

import codecs
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.integer[Any]]
UnknownSymbols = Literal["refuse", "skip", "replace"]


class Tokenizer(Protocol):
    """Numbers are 0 … vocab_size − 1. `state()` holds primitives alone; `load_tokenizer` makes the tokenizer of it."""

    vocab_size: int

    def encode(self, text: str, unknown: UnknownSymbols = "refuse") -> Ids: ...
    def decode(self, ids: Iterable[int]) -> Iterator[str]: ...
    def state(self) -> dict[str, Any]: ...


class CharacterTokenizer:
    """One number for each character of the training text, in code point order; 0 stands for every other character.

    Raises ValueError from `encode` where the text has characters without a number and `unknown` is "refuse".
    """

    UNKNOWN = "\ufffd"

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self.vocab_size = 1 + len(characters)
        self._numbers = np.zeros(0x110000, np.uint32)  # by code point
        self._numbers[code_points(characters)] = np.arange(1, self.vocab_size)

    @classmethod
    def of(cls, training_text: str) -> "CharacterTokenizer":
        return cls("".join(sorted(set(training_text) - {cls.UNKNOWN})))

    def encode(self, text: str, unknown: UnknownSymbols = "refuse") -> Ids:
        ids = self._numbers[code_points(text)].astype(np.min_scalar_type(self.vocab_size - 1))
        if unknown == "replace":
            return ids
        if unknown == "refuse" and not ids.all():
            strangers = sorted({character for character, number in zip(text, ids, strict=True) if number == 0})
            raise ValueError(f"the vocabulary has no {', '.join(map(repr, strangers))}: --unknown skip or replace")
        return ids[ids != 0]

    def decode(self, ids: Iterable[int]) -> Iterator[str]:
        symbols = self.UNKNOWN + self.characters
        return (symbols[number] for number in ids)

    def state(self) -> dict[str, Any]:
        return {"level": "character", "characters": self.characters}


class ByteTokenizer:
    """The bytes of the text in UTF-8. There is nothing that it cannot encode."""

    vocab_size = 256

    def encode(self, text: str, unknown: UnknownSymbols = "refuse") -> Ids:
        return np.frombuffer(text.encode("utf-8"), np.uint8)

    def decode(self, ids: Iterable[int]) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for number in ids:
            yield decoder.decode(bytes([number]))
        yield decoder.decode(b"", final=True)

    def state(self) -> dict[str, Any]:
        return {"level": "byte"}


def load_tokenizer(state: dict[str, Any]) -> Tokenizer:
    return ByteTokenizer() if state["level"] == "byte" else CharacterTokenizer(state["characters"])


def code_points(text: str) -> Ids:
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
