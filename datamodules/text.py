"""Any text as a LightningDataModule: read, split, encoded, and served as windows of contiguous streams."""

import sys
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from datamodules.corpora import CORPORA, Corpus, decoder_of
from datamodules.downloads import DOWNLOADS, fetch
from datamodules.encoding import Encoded, Text, encode
from datamodules.from_checkpoints import FromCheckpoints
from datamodules.streams import Streams
from datamodules.tokenizers import Ids, Level, Tokenizer, load_tokenizer
from datamodules.vocabulary import WAY_OUT, given_vocabulary

MOST_SYMBOLS = 2**31 - 1
SMALLEST_VOCABULARY = {"word": 2, "bpe": 256}
USUAL_BATCH_SIZE = 32
UPDATES_OF_AN_EPOCH = 500  # fewer teach little: a small text is read in fewer streams
MANY_UNKNOWN = 0.1  # share of unknown symbols from which on there is advice
SAMPLED = 1 << 24  # symbols of a part that are looked at, at most, to count unknown ones
SHARE = 1 / 4  # of a GPU's free memory that the training part may take: the rest is the model's


class TextDataModule(FromCheckpoints):
    """Text for a language model. The first part trains, the last part is held out.

    Args:
        path: a text file of any size, packed (.gz, .bz2, .xz, .zst) or not, or a folder of them; it takes precedence
            over the corpus.
        corpus: a text known by name: python-stdlib is the source of the running interpreter's standard library,
            python-docstrings the English in it, memorise a text of 559 characters. The others are downloaded once, and
            their test part is not in the text.
        level: what one symbol is: a character, a byte, a word, or a frequent piece of a word (byte pair encoding).
        encoding: the encoding of the file; not used at level byte.
        batch_size: B, contiguous streams that are read side by side, by all processes together. null chooses: 32, or
            where a small text would then give fewer than 500 updates an epoch, half as many as often as needed.
        window: T, steps between two updates, through which gradients flow back.
        val_fraction: the held-out part of the text, from its end; without one, what is usual for a corpus that is
            downloaded, and 0.1 of any other text; 0 trains on all of it and holds out the same text.
        val_streams: streams in which the held-out part is read. 1 reads it from its first to its last symbol with one
            state; more are faster, and each starts without context.
        vocabulary_size: at most so many different symbols, at the levels word and bpe.

    The vocabulary is made of the training part alone: what only the held-out part has is an unknown symbol there.
    Raises ValueError or OSError, saying what to do, where the text cannot be read or is too short.
    """

    def __init__(
        self,
        path: str | None = None,
        corpus: Corpus = "python-stdlib",
        level: Level = "character",
        encoding: str = "utf-8",
        batch_size: int | None = 32,
        window: int = 64,
        val_fraction: float | None = None,
        val_streams: int = 1,
        vocabulary_size: int = 10_000,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self._vocabulary = given_vocabulary()
        self._train_streams: Streams | None = None
        self._reduced: int | None = None  # the batch size, where it was chosen for a small text
        if level not in get_args(Level):
            raise ValueError(f"--data.level is {level!r}: choose one of {', '.join(get_args(Level))}")
        smallest = SMALLEST_VOCABULARY.get(level, 0)
        if vocabulary_size < smallest:
            raise ValueError(
                f"--data.vocabulary_size is {vocabulary_size}: at level {level} it must be at least {smallest}"
            )
        for name, value in (("batch_size", batch_size), ("window", window), ("val_streams", val_streams)):
            if value is not None and value < 1:
                raise ValueError(f"--data.{name} is {value}: it must be at least 1")
        if path == "":
            raise ValueError("--data.path is empty: give it a text file, or leave it out")
        if level != "byte":
            decoder_of(encoding)  # raises ValueError
        if vocabulary_size > MOST_SYMBOLS:
            raise ValueError(f"--data.vocabulary_size is {vocabulary_size}: it must be at most {MOST_SYMBOLS}")
        if val_fraction is not None and not 0 <= val_fraction < 1:
            raise ValueError(f"--data.val_fraction is {val_fraction}: it must be at least 0, and less than 1")

    @cached_property
    def _encoded(self) -> Encoded:
        options = self.hparams
        name, level = options["path"] or options["corpus"], options["level"]
        fraction, usual = options["val_fraction"], 0.1
        if options["path"]:
            content: bytes | Path = Path(options["path"])
        elif name in DOWNLOADS:
            content, usual = (corpus := fetch(name)).path, corpus.val_fraction(level)
        else:
            content = CORPORA[name]()
        text = Text(name, content, None if level == "byte" else options["encoding"])
        encoded = encode(
            text, level, usual if fraction is None else fraction, options["vocabulary_size"], self._given_tokenizer()
        )
        if options["batch_size"] is None:
            self._reduced = chosen_batch_size(len(encoded.training), options["window"])
            options["batch_size"] = self._reduced or USUAL_BATCH_SIZE
        return encoded

    def _given_tokenizer(self) -> Tokenizer | None:
        """That of another run. Raises ValueError if it is of another level."""
        if self._vocabulary is None:
            return None
        state, level = self._vocabulary["tokenizer"], self.hparams["level"]
        if state["level"] != level:
            raise ValueError(f"--data.level is {level}, but {state['level']} in the checkpoint: leave it so")
        return load_tokenizer(state)

    @property
    def tokenizer(self) -> Tokenizer:
        return self._encoded.tokenizer

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    @property
    def held_out_excerpt(self) -> str:
        """The beginning of the held-out part, with the words that the vocabulary lacks."""
        return self._encoded.excerpt

    @property
    def train_streams(self) -> Streams:
        """New ones where the batch size has changed, as BatchSizeFinder changes it, to no more than the text allows."""
        options, streams = self.hparams, self._train_streams
        most = max((len(self._encoded.training) - 1) // options["window"], 1)
        if options["batch_size"] != self.hparams_initial["batch_size"]:
            options["batch_size"] = min(options["batch_size"], most)
        if streams is None or len(streams.starts) != options["batch_size"]:
            streams = self._train_streams = Streams(self._encoded.training, options["batch_size"], options["window"])
        return streams

    @cached_property
    def val_streams(self) -> Streams:
        held_out = self._encoded.held_out
        count = min(self.hparams["val_streams"], max(len(held_out) - 1, 1))  # more would be empty
        return Streams(held_out, count, self.hparams["window"], whole=True)

    def check(self, checkpoint: dict[str, Any] | None, processes: int = 1) -> None:
        """Raises ValueError where the text is too short, its streams cannot be shared out evenly, or it is not in the
        symbols of the checkpoint to go on from."""
        self.train_streams.shard(0, processes), self.val_streams  # noqa: B018
        if checkpoint is not None:
            if type(self).__name__ not in checkpoint:
                raise ValueError("the checkpoint is a classifier's: give --ckpt_path a run of this config")
            self.load_state_dict(checkpoint[type(self).__name__])

    def __str__(self) -> str:
        training, held_out = self._encoded.training, self._encoded.held_out
        name = self.hparams["path"] or self.hparams["corpus"]
        sizes = f"{len(training):,} symbols to train on, {len(held_out):,} held out, {self.vocab_size} different"
        return "\n".join([f"{name}: {sizes}", *self._notes()])

    def _notes(self) -> list[str]:
        """Lines on the symbols that the vocabulary lacks, and on a batch size that was chosen for a small text."""
        notes = []
        shares = [unknown_share(part) if hasattr(self.tokenizer, "UNKNOWN") else 0.0 for part in self._encoded[1:3]]
        if self.tokenizer.whole_words or shares[1] >= MANY_UNKNOWN or self._vocabulary:
            note = f"not in the vocabulary: {shares[0]:.1%} of the training part, {shares[1]:.1%} of the held-out part"
            notes.append(f"{note}{self._way_out() if max(shares) >= MANY_UNKNOWN else ''}")
        if self._reduced:
            note = f"the text is small: a batch size of {self._reduced} instead of {USUAL_BATCH_SIZE} makes"
            notes.append(f"{note} more updates (--data.batch_size)")
        return notes

    def _way_out(self) -> str:
        """What to do where many symbols are unknown."""
        if self._vocabulary:
            return ": the vocabulary is that of the checkpoint; without --init_from the text gets one of its own"
        if not self.tokenizer.whole_words:
            return ": the held-out part, the end of the text, is unlike the rest; --data.level byte knows every symbol"
        is_full = self.tokenizer.vocab_size >= self.hparams["vocabulary_size"]
        larger = "raise --data.vocabulary_size, or " if is_full else ""
        return f": {larger}choose --data.level bpe, which has no such words"

    def train_dataloader(self) -> Streams:
        """Windows cut on the GPU that trains, where there is room for the text, and else on the CPU."""
        streams = self.shard(self.train_streams)
        if self.trainer is None:
            return streams
        device = self.trainer.strategy.root_device
        try:
            return streams.on(device) if streams.resident_bytes <= SHARE * free_memory(device) else streams
        except RuntimeError as error:  # a GPU may have less memory than it says, or not say it
            reason = " ".join(str(error).split())[:200]
            print(f"the text is not copied to the GPU, and read from the machine's memory: {reason}", file=sys.stderr)
            return streams

    def val_dataloader(self) -> Streams:
        return self.shard(self.val_streams)

    def test_dataloader(self) -> Streams:
        raise MisconfigurationException(
            "a text has no test part: measure the held-out part with trainer.validate(model, data), or another text "
            "with trainer.test(model, dataloaders=TextDataModule(...).val_dataloader())"
        )

    def predict_dataloader(self) -> Streams:
        """The held-out part."""
        return self.val_dataloader()

    def shard(self, streams: Streams) -> Streams:
        """What this process reads of them."""
        return streams.shard(self.trainer.global_rank, self.trainer.world_size) if self.trainer else streams

    def moved(self, position: int, before: dict[str, Any]) -> int:
        """The window that is nearest to one of other streams, which were cut with that batch size and window."""
        length = len(Streams(self._encoded.training, before["batch_size"], before["window"]))
        now = len(self.train_streams)
        return round(position % length / length * now) % now

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to speak the language it was trained on, and to know the text again."""
        text, inherited = self._encoded, {"inherited": True} if self._vocabulary else {}
        sizes = {"text": text.digest, "training": len(text.training), "held_out": len(text.held_out)}
        return {"tokenizer": self.tokenizer.state()} | sizes | inherited

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError if training would continue on another text, or with another vocabulary."""
        if self.trainer is None or self.trainer.state.fn == "fit":
            self._must_be_the_text_of(state_dict)
        if state_dict["tokenizer"] != self.tokenizer.state():
            raise ValueError(
                f"the checkpoint was trained with another vocabulary: resume on the text it was trained on, {WAY_OUT}"
            )

    def _must_be_the_text_of(self, before: dict[str, Any]) -> None:
        """Checkpoints of earlier versions do not know their text."""
        now, name = self.state_dict(), self.hparams["path"] or self.hparams["corpus"]
        if before.get("text", now["text"]) != now["text"]:
            sizes = f"{before.get('training', 0):,} symbols to train on, where this has {now['training']:,}"
            raise ValueError(
                f"{name}: is not the text that the checkpoint was trained on, which had {sizes}: give the text of the "
                f"run, {WAY_OUT}"
            )
        for part in ("training", "held_out"):
            if before.get(part, now[part]) != now[part]:
                raise ValueError(
                    f"{name}: has {now[part]:,} {part.replace('_', '-')} symbols, but {before[part]:,} in the "
                    f"checkpoint: leave --data.val_fraction, level and encoding as they were, {WAY_OUT}"
                )


def free_memory(device: torch.device) -> int:
    """Bytes of a GPU; nothing elsewhere, where windows are cut by NumPy."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def chosen_batch_size(symbols: int, window: int) -> int | None:
    """For a small text, half the usual batch size, or a quarter …, such that an epoch has UPDATES_OF_AN_EPOCH updates;
    at least 1. None for other texts."""
    size = USUAL_BATCH_SIZE
    while size > 1 and symbols // (size * window) < UPDATES_OF_AN_EPOCH:
        size //= 2
    return size if size < USUAL_BATCH_SIZE else None


def unknown_share(ids: Ids) -> float:
    """The share of number 0, the unknown symbol; of a long sequence, in pieces of it from all over."""
    if len(ids) <= SAMPLED:
        return float(np.mean(ids == 0)) if len(ids) else 0.0
    pieces, length = 64, SAMPLED // 64
    begins = np.linspace(0, len(ids) - length, pieces).astype(int)
    return float(np.mean([np.mean(ids[begin : begin + length] == 0) for begin in begins]))
