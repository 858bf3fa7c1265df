"""Text to integers and back: one number a character, a byte, a word, or a frequent piece of a word.

A loss is per symbol, whatever a symbol is: that of words is to be compared with that of words of the same vocabulary,
and is published as perplexity, exp(nats per word). What the vocabulary lacks counts as the one word `<unk>`.
"""

import codecs
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import tokenizers as hf
from tokenizers import models, pre_tokenizers, trainers

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # or it warns in every process that is forked afterwards

Ids = npt.NDArray[np.integer[Any]]
UnknownSymbols = Literal["refuse", "skip", "replace"]
Level = Literal["character", "byte", "word", "bpe"]

# Nothing is lost: a word or a run of signs takes the one space before it along, other white space stays by itself. No
# piece goes on after a newline, nor before the first of some spaces, so that a text may be split there.
LETTERS = r"[\p{L}\p{M}]+"
PIECES = rf" ?{LETTERS}(?:['’]{LETTERS})*| ?\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+| +(?!\S)|\s"
BETWEEN_PIECES = re.compile(r"(?<=\n)|(?<! )(?= )")


class Tokenizer(Protocol):
    """Numbers are 0 … vocab_size − 1. `state()` holds primitives alone; `load_tokenizer` makes the tokenizer of it.

    `pieces()[number]` is what a number stands for, in UTF-8, and maybe a part of a character; where `whole_words`, each
    word has one number.
    """

    vocab_size: int
    whole_words: bool

    def encode(self, text: str, unknown: UnknownSymbols = "refuse") -> Ids: ...
    def decode(self, ids: Iterable[int]) -> Iterator[str]: ...
    def pieces(self) -> list[bytes]: ...
    def state(self) -> dict[str, Any]: ...


class CharacterTokenizer:
    """One number for each character of the training text, in code point order; 0 stands for every other character.

    Raises ValueError from `encode` where the text has characters without a number and `unknown` is "refuse".
    """

    UNKNOWN = "\ufffd"
    whole_words = False

    def __init__(self, characters: str) -> None:
        self.characters = characters
        self.vocab_size = 1 + len(characters)
        self._numbers = np.zeros(0x110000, np.min_scalar_type(len(characters)))  # by code point
        self._numbers[code_points(characters)] = np.arange(1, self.vocab_size)

    @classmethod
    def of(cls, training_text: Iterable[str]) -> "CharacterTokenizer":
        return cls("".join(sorted({character for part in training_text for character in part} - {cls.UNKNOWN})))

    def encode(self, text: str, unknown: UnknownSymbols = "refuse") -> Ids:
        ids = self._numbers[code_points(text)]
        if unknown == "replace":
            return ids
        if unknown == "refuse" and not ids.all():
            refuse({character for character, number in zip(text, ids, strict=True) if number == 0})
        return ids[ids != 0]

    def decode(self, ids: Iterable[int]) -> Iterator[str]:
        symbols = self.UNKNOWN + self.characters
        return (symbols[number] for number in ids)

    def pieces(self) -> list[bytes]:
        return [symbol.encode() for symbol in self.UNKNOWN + self.characters]

    def state(self) -> dict[str, Any]:
        return {"level": "character", "characters": self.characters}


class ByteTokenizer:
    """The bytes of the text in UTF-8. There is nothing that it cannot encode.

    Bytes that are not UTF-8 are lone surrogates in a text, as Python's error handler `surrogateescape` has it, so that
    the text can be written as the bytes that it was decoded from.
    """

    vocab_size = 256
    whole_words = False

    def encode(self, text: str, unknown: UnknownSymbols = "refuse") -> Ids:
        return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)

    def decode(self, ids: Iterable[int]) -> Iterator[str]:
        return streamed(self.pieces(), ids, "surrogateescape")

    def pieces(self) -> list[bytes]:
        return [bytes([number]) for number in range(256)]

    def state(self) -> dict[str, Any]:
        return {"level": "byte"}


class WordTokenizer:
    """One number for each of the training text's most frequent words, runs of signs, digits and white spaces; 0 stands
    for every other. A word takes the space before it along: " word" and "word" are two, and `decode` gives the text.

    Raises ValueError from `encode` where the text has words without a number and `unknown` is "refuse".
    """

    UNKNOWN = "<unk>"
    whole_words = True

    def __init__(self, json: str) -> None:
        self._tokenizer = hf.Tokenizer.from_str(json)
        self.vocab_size = self._tokenizer.get_vocab_size()

    @classmethod
    def of(cls, training_text: Iterable[str], vocabulary_size: int) -> "WordTokenizer":
        counting = hf.Tokenizer(models.WordLevel(unk_token=cls.UNKNOWN))
        counting.pre_tokenizer = pieces_of_text()
        trainer = trainers.WordLevelTrainer(
            vocab_size=vocabulary_size, special_tokens=[cls.UNKNOWN], show_progress=False
        )
        counting.train_from_iterator(parts(training_text), trainer)
        # Once more, without what is special of the unknown: a text may have these five signs, and means them.
        tokenizer = hf.Tokenizer(counting.model)
        tokenizer.pre_tokenizer = pieces_of_text()
        return cls(tokenizer.to_str())

    def encode(self, text: str, unknown: UnknownSymbols = "refuse") -> Ids:
        ids = numbers(self._tokenizer, text)
        if unknown == "replace":
            return ids
        if unknown == "refuse" and not ids.all():
            found = self._tokenizer.encode(text)
            places = zip(found.ids, found.offsets, strict=True)
            refuse({text[begin:end] for number, (begin, end) in places if number == 0})
        return ids[ids != 0]

    def decode(self, ids: Iterable[int]) -> Iterator[str]:
        return streamed(self.pieces(), ids)

    def pieces(self) -> list[bytes]:
        return [token.encode() for token in tokens(self._tokenizer)]

    def state(self) -> dict[str, Any]:
        return {"level": "word", "json": self._tokenizer.to_str()}


class BPETokenizer:
    """Byte pair encoding (Sennrich et al., 2016) over the bytes of words: every byte, and the pairs that the training
    text has most often, joined in turn. There is nothing that it cannot encode, and `decode` gives the text.
    """

    whole_words = False

    def __init__(self, json: str) -> None:
        self._tokenizer = hf.Tokenizer.from_str(json)
        self.vocab_size = self._tokenizer.get_vocab_size()

    @classmethod
    def of(cls, training_text: Iterable[str], vocabulary_size: int) -> "BPETokenizer":
        tokenizer = hf.Tokenizer(models.BPE())
        as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pieces_of_text(), as_bytes])
        trainer = trainers.BpeTrainer(
            vocab_size=vocabulary_size, initial_alphabet=sorted(BYTE_OF_SIGN), show_progress=False
        )
        tokenizer.train_from_iterator(parts(training_text), trainer)
        return cls(tokenizer.to_str())

    def encode(self, text: str, unknown: UnknownSymbols = "refuse") -> Ids:
        return numbers(self._tokenizer, text)

    def decode(self, ids: Iterable[int]) -> Iterator[str]:
        return streamed(self.pieces(), ids)

    def pieces(self) -> list[bytes]:
        return [bytes(BYTE_OF_SIGN[sign] for sign in token) for token in tokens(self._tokenizer)]

    def state(self) -> dict[str, Any]:
        return {"level": "bpe", "json": self._tokenizer.to_str()}


def make_tokenizer(level: Level, training_text: Iterable[str], vocabulary_size: int) -> Tokenizer:
    """The tokenizer of a training text, or of its chunks; only at the levels word and bpe can the vocabulary be cut."""
    if level == "word":
        return WordTokenizer.of(training_text, vocabulary_size)
    if level == "bpe":
        return BPETokenizer.of(training_text, vocabulary_size)
    return ByteTokenizer() if level == "byte" else CharacterTokenizer.of(training_text)


def load_tokenizer(state: dict[str, Any]) -> Tokenizer:
    kinds = {"character": CharacterTokenizer, "byte": ByteTokenizer, "word": WordTokenizer, "bpe": BPETokenizer}
    return kinds[state["level"]](*(value for name, value in state.items() if name != "level"))


def refuse(strangers: set[str]) -> None:
    names = ", ".join(map(repr, sorted(strangers)))
    raise ValueError(f"the vocabulary has no {names}: --unknown skip or replace")


def streamed(pieces: list[bytes], ids: Iterable[int], errors: str = "replace") -> Iterator[str]:
    """Text as soon as its characters are complete. `errors` is an error handler of Python's codecs."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    for number in ids:
        yield decoder.decode(pieces[number])
    yield decoder.decode(b"", final=True)


def pieces_of_text() -> Any:
    return pre_tokenizers.Split(hf.Regex(PIECES), behavior="isolated")


def parts(text: Iterable[str], length: int = 1 << 15, at_most: int = 1 << 16) -> Iterator[str]:
    """A text, or its chunks, in parts between which no piece would go on, so that little of it is in work at a time.

    Where there is no such place, it is cut nevertheless: a word of a million letters would take hours.
    """
    rest = ""
    for chunk in [text] if isinstance(text, str) else text:
        rest, begin = rest + chunk, 0
        while len(rest) - begin >= at_most:
            place = BETWEEN_PIECES.search(rest, begin + length, begin + at_most)
            end = place.start() if place else begin + at_most
            yield rest[begin:end]
            begin = end
        rest = rest[begin:]
    if rest:
        yield rest


def numbers(tokenizer: hf.Tokenizer, text: str) -> Ids:
    text.encode("utf-8")  # raises ValueError for half a surrogate pair, which is no text
    dtype = np.min_scalar_type(tokenizer.get_vocab_size() - 1)
    found = [np.array(tokenizer.encode_batch_fast([part])[0].ids, dtype) for part in parts(text)]
    return np.concatenate([np.zeros(0, dtype), *found])


def tokens(tokenizer: hf.Tokenizer) -> list[str]:
    """By number."""
    numbered = tokenizer.get_vocab()
    return sorted(numbered, key=numbered.__getitem__)


def byte_of_sign() -> dict[str, int]:
    """How byte pair encodings write bytes: printable ones as themselves, the others as the signs from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


BYTE_OF_SIGN = byte_of_sign()


def code_points(text: str) -> Ids:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)
