"""Any text as a LightningDataModule: read, split, encoded, and served as windows of contiguous streams."""

from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pytorch_lightning as pl

from datamodules.corpora import CORPORA, decode_text, read_file
from datamodules.streams import Streams
from datamodules.tokenizers import Ids, Level, Tokenizer, make_tokenizer

SMALLEST_VOCABULARY = {"word": 2, "bpe": 256}
EXCERPT = 100_000  # characters


class TextDataModule(pl.LightningDataModule):
    """Text for a language model. The first part trains, the last part is held out.

    Args:
        path: a text file; it takes precedence over the corpus.
        corpus: a text known by name: python-stdlib is the source of the running interpreter's standard library,
            python-docstrings the English in it, memorise a text of 559 characters.
        level: what one symbol is: a character, a byte, a word, or a frequent piece of a word (byte pair encoding).
        encoding: of the file; not used at level byte.
        batch_size: B, contiguous streams that are read side by side.
        window: T, steps between two updates, through which gradients flow back.
        val_fraction: the held-out part of the text, from its end; 0 trains on all of it and holds out the same text.
        val_streams: streams in which the held-out part is read. 1 reads it from its first to its last symbol with one
            state; more are faster, and each starts without context.
        vocabulary_size: at most so many different symbols, at the levels word and bpe.

    The vocabulary is made of the training part alone: what only the held-out part has is an unknown symbol there.
    Raises ValueError or OSError, saying what to do, where the text cannot be read or is too short.
    """

    def __init__(
        self,
        path: str | None = None,
        corpus: Literal["python-stdlib", "python-docstrings", "memorise"] = "python-stdlib",
        level: Level = "character",
        encoding: str = "utf-8",
        batch_size: int = 32,
        window: int = 64,
        val_fraction: float = 0.1,
        val_streams: int = 1,
        vocabulary_size: int = 10_000,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self._excerpt = ""
        if level not in get_args(Level):
            raise ValueError(f"--data.level is {level!r}: choose one of {', '.join(get_args(Level))}")
        smallest = SMALLEST_VOCABULARY.get(level, 0)
        if vocabulary_size < smallest:
            raise ValueError(
                f"--data.vocabulary_size is {vocabulary_size}: at level {level} it must be at least {smallest}"
            )
        for name, value in (("batch_size", batch_size), ("window", window), ("val_streams", val_streams)):
            if value < 1:
                raise ValueError(f"--data.{name} is {value}: it must be at least 1")
        if not 0 <= val_fraction < 1:
            raise ValueError(f"--data.val_fraction is {val_fraction}: it must be at least 0, and less than 1")

    @cached_property
    def _encoded(self) -> tuple[Tokenizer, Ids, Ids]:
        options = self.hparams
        name = options["path"] or options["corpus"]
        content = read_file(name) if options["path"] else CORPORA[options["corpus"]]()
        if options["level"] == "byte":
            symbols = np.frombuffer(content, np.uint8)
            training, held_out = self._split(symbols)
            self._excerpt = held_out[:EXCERPT].tobytes().decode("utf-8", "replace")
            return make_tokenizer("byte", "", 256), training, held_out
        training, held_out = self._split(decode_text(content, options["encoding"], name))
        self._excerpt = held_out[:EXCERPT]
        tokenizer = make_tokenizer(options["level"], training, options["vocabulary_size"])
        return tokenizer, tokenizer.encode(training, "replace"), tokenizer.encode(held_out, "replace")

    def _split(self, symbols: Any) -> tuple[Any, Any]:
        fraction = self.hparams["val_fraction"]
        end = int(len(symbols) * (1 - fraction))
        return symbols[:end], symbols[end:] if fraction else symbols

    @property
    def tokenizer(self) -> Tokenizer:
        return self._encoded[0]

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def held_out_excerpt(self) -> str:
        """The beginning of the held-out part, with the words that the vocabulary lacks."""
        self._encoded  # noqa: B018
        return self._excerpt

    @cached_property
    def train_streams(self) -> Streams:
        return Streams(self._encoded[1], self.hparams["batch_size"], self.hparams["window"])

    @cached_property
    def val_streams(self) -> Streams:
        return Streams(self._encoded[2], self.hparams["val_streams"], self.hparams["window"], whole=True)

    def check(self, checkpoint: dict[str, Any] | None) -> None:
        """Raises ValueError where the text is too short, or not in the symbols of the checkpoint to go on from."""
        self.train_streams, self.val_streams  # noqa: B018
        if checkpoint is not None:
            if type(self).__name__ not in checkpoint:
                raise ValueError("the checkpoint is a classifier's: give --ckpt_path a run of this config")
            self.load_state_dict(checkpoint[type(self).__name__])

    def __str__(self) -> str:
        _, training, held_out = self._encoded
        name = self.hparams["path"] or self.hparams["corpus"]
        return f"{name}: {len(training):,} symbols to train on, {len(held_out):,} held out, {self.vocab_size} different"

    def train_dataloader(self) -> Streams:
        return self.train_streams

    def val_dataloader(self) -> Streams:
        return self.val_streams

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to speak the language it was trained on."""
        return {"tokenizer": self.tokenizer.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["tokenizer"] != self.tokenizer.state():
            raise ValueError("the checkpoint was trained with another vocabulary: resume on the text it was trained on")
