"""Labelled texts as a LightningDataModule: a table on disk, or the embedded reviews, to batches of similar length."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules import reviews
from datamodules.from_checkpoints import FromCheckpoints
from datamodules.tables import NUMBER, EmptyRows, Example, read_table
from datamodules.vocabulary import WAY_OUT, given_vocabulary
from datamodules.words import words_of

POOL = 50  # batches whose sentences are sorted together
NO_LABEL = -100  # marks a text that is read and not learned from


class Sentences(NamedTuple):
    """Texts of different lengths side by side."""

    tokens: Tensor  # (T, B), int64; 0 beyond a sentence's length
    lengths: Tensor  # (B,), int64, at least 1
    labels: Tensor  # (B,), int64

    @property
    def symbols(self) -> int:
        """To be read."""
        return int(self.lengths.sum())


class Encoder:
    """Texts to numbers, labels to classes: one number for each word of the training part, from 1; 0 for every other.

    Args:
        level: a word, or a character, is one step.
        lower_case: whether upper and lower case are one.
        words: those with a number, in its order.
        labels: the classes, in order.
    """

    def __init__(self, level: str, lower_case: bool, words: list[str], labels: list[str]) -> None:
        self.level, self.lower_case, self.words, self.labels = level, lower_case, words, labels
        self.vocab_size = 1 + len(words)
        self._numbers = {word: number for number, word in enumerate(words, 1)}

    @classmethod
    def of(cls, examples: Iterable[Example], level: str, lower_case: bool, min_count: int) -> "Encoder":
        """Words in the order of code points; labels too, or by size if all are numbers.

        Raises ValueError where all examples have one label.
        """
        counts: Counter[str] = Counter()
        plain = cls(level, lower_case, [], [])
        for text, _, _ in examples:
            counts.update(plain.seen(piece) for piece in plain.pieces(text))
        labels = sorted({example.label for example in examples})
        if len(labels) < 2:
            raise ValueError(f"every text has the label {labels[0]!r}: there is nothing to tell apart")
        if all(NUMBER.fullmatch(label) for label in labels):
            labels.sort(key=float)
        return cls(level, lower_case, sorted(word for word, count in counts.items() if count >= min_count), labels)

    def pieces(self, text: str) -> list[str]:
        """The text's words, or characters, as they are written."""
        return list(text) if self.level == "character" else words_of(text)

    def seen(self, piece: str) -> str:
        return (piece.lower() if self.lower_case else piece).replace("’", "'")

    def encode(self, text: str, place: str = "the text") -> Tensor:
        """Numbers (T,), int64. Raises ValueError for a text without words."""
        numbers = [self._numbers.get(self.seen(piece), 0) for piece in self.pieces(text)]
        if not text.strip() or not numbers:
            raise ValueError(f"{place} is empty: give at least one word")
        return torch.tensor(numbers)

    def state(self) -> dict[str, Any]:
        return {"level": self.level, "lower_case": self.lower_case, "words": self.words, "labels": self.labels}


def load_encoder(state: dict[str, Any]) -> Encoder:
    return Encoder(**state)


def batch_of(texts: list[Tensor], labels: list[int]) -> Sentences:
    tokens = torch.nn.utils.rnn.pad_sequence(texts)  # (T, B)
    return Sentences(tokens, torch.tensor([len(text) for text in texts]), torch.tensor(labels))


def side_by_side(examples: list[tuple[Tensor, int]]) -> Sentences:
    texts, labels = zip(*examples, strict=True)
    return batch_of(list(texts), list(labels))


class Batches:
    """Sentences of similar length side by side: little of a batch is padding.

    For training, each epoch has an order of its own, drawn from its number; sentences are sorted by length within pools
    of `POOL` batches, and each iteration goes on where the last one stopped. With `whole=True`, all are sorted by
    length, and each iteration starts at the beginning.

    Attributes: `rank` and `processes`, of those that share each batch out among them.
    """

    def __init__(self, examples: list[tuple[Tensor, int]], batch_size: int, whole: bool = False) -> None:
        self.examples, self.batch_size, self.whole = examples, batch_size, whole
        self.position = 0  # batches since training began
        self.rank, self.processes = 0, 1
        self._order: tuple[int, list[list[int]]] = (-1, [])  # of an epoch

    def __len__(self) -> int:
        """Batches in one epoch."""
        return -(-len(self.examples) // self.batch_size)

    def __iter__(self) -> Iterator[Sentences]:
        if self.whole:
            self.position = 0
        for _ in range(len(self)):
            now = self.position
            self.position += 1
            yield self.at(now)

    def at(self, position: int) -> Sentences:
        epoch, place = divmod(position, len(self))
        if self._order[0] != epoch:
            self._order = epoch, self.order(epoch)
        batch = self._order[1][place]
        mine = batch[self.rank :: self.processes]
        if not mine:  # fewer texts than processes: this one reads along
            return batch_of([self.examples[batch[0]][0]], [NO_LABEL])
        return side_by_side([self.examples[number] for number in mine])

    def order(self, epoch: int) -> list[list[int]]:
        """The numbers of each batch's examples."""
        dice = torch.Generator().manual_seed(epoch)
        count = len(self.examples)
        numbers = list(range(count)) if self.whole else torch.randperm(count, generator=dice).tolist()
        pool = count if self.whole else POOL * self.batch_size
        by_length = [
            number
            for begin in range(0, count, pool)
            for number in sorted(numbers[begin : begin + pool], key=lambda number: len(self.examples[number][0]))
        ]
        batches = [by_length[begin : begin + self.batch_size] for begin in range(0, count, self.batch_size)]
        return batches if self.whole else [batches[k] for k in torch.randperm(len(batches), generator=dice).tolist()]

    @property
    def dataset(self) -> list[tuple[Tensor, int]]:
        """As long as the largest batch size: there Lightning's BatchSizeFinder stops."""
        return self.examples

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = state["position"]


class LabelledDataModule(FromCheckpoints):
    """Texts with labels for a classifier.

    Args:
        path: a table to train on: .tsv, .csv or .jsonl; without one, built-in product reviews in three classes.
        val_path: a table to hold out; without one, a part of each class in the training table, drawn at random, always
            the same.
        test_path: a table to report on when training has ended.
        text_column: the column of the texts: its name in the table's first row, or in each line's object; or its number
            from 0, in a table whose first row is a text already.
        label_column: the column of the labels, likewise. Where a table has no column of the default name, one with
            another usual name is taken, such as sentence.
        encoding: the encoding of the files.
        empty_rows: refuse a table that has rows without a text or a label, or skip these rows and say how many.
        level: what one step is: a word, or a character.
        lower_case: read upper case as lower case.
        min_count: a word that the training part has less often than this is an unknown one.
        batch_size: B, sentences read side by side, of similar length, by all processes together.
        val_fraction: the part of each class that is held out where no table is; of a class with one text, none.
        balanced: count every class the same in the loss, a sentence by N / (C · sentences of its class); else every
            sentence the same.

    Vocabulary and labels are those of the training part alone.
    Raises ValueError or OSError, saying what to do, for tables and labels that cannot be used.
    """

    def __init__(
        self,
        path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        text_column: str | int = "text",
        label_column: str | int = "label",
        encoding: str = "utf-8",
        empty_rows: EmptyRows = "refuse",
        level: Literal["word", "character"] = "word",
        lower_case: bool = True,
        min_count: int = 1,
        batch_size: int = 32,
        val_fraction: float = 0.1,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self._vocabulary = given_vocabulary()
        self._notes: list[str] = []  # on how the tables were read
        self._train_batches: Batches | None = None
        for name, value in (("batch_size", batch_size), ("min_count", min_count)):
            if value < 1:
                raise ValueError(f"--data.{name} is {value}: it must be at least 1")
        for name, given in (("path", path), ("val_path", val_path), ("test_path", test_path)):
            if given == "":
                raise ValueError(f"--data.{name} is empty: give it a table, or leave it out")
        if not 0 < val_fraction < 1:
            raise ValueError(f"--data.val_fraction is {val_fraction}: it must lie between 0 and 1")

    @cached_property
    def _parts(self) -> tuple[list[Example], list[Example]]:
        path, val_path = self.hparams["path"], self.hparams["val_path"]
        training = self._table(path) if path else embedded(reviews.training())
        if val_path:
            return training, self._table(val_path)
        if not path:
            return training, embedded(reviews.held_out())
        held_out = numbers_held_out([example.label for example in training], self.hparams["val_fraction"])
        if not held_out:
            raise ValueError(f"{path}: {len(training)} texts leave none to hold out: raise --data.val_fraction")
        chosen = set(held_out)
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(0)).tolist()
        return [training[k] for k in order if k not in chosen], [training[k] for k in held_out]

    def _table(self, path: str) -> list[Example]:
        columns = [self.hparams["text_column"], self.hparams["label_column"]]
        table = read_table(path, columns, self.hparams["encoding"], self.hparams["empty_rows"])
        self._notes += [note for note in table.notes if note not in self._notes]
        return table.examples

    @cached_property
    def encoder(self) -> Encoder:
        options = self.hparams
        if self._vocabulary is None:
            return Encoder.of(self._parts[0], options["level"], options["lower_case"], options["min_count"])
        encoder = load_encoder(self._vocabulary["encoder"])
        for name in ("level", "lower_case"):
            if options[name] != getattr(encoder, name):
                raise ValueError(
                    f"--data.{name} is {options[name]}, but {getattr(encoder, name)} in the checkpoint: leave it so"
                )
        return encoder

    @property
    def vocab_size(self) -> int:
        return self.encoder.vocab_size

    @property
    def labels(self) -> list[str]:
        return self.encoder.labels

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    @cached_property
    def class_weights(self) -> list[float] | None:
        """One for each class, for the loss; their mean over the training part is 1."""
        if not self.hparams["balanced"]:
            return None
        counts = Counter(example.label for example in self._parts[0])
        number = len(self._parts[0])  # a checkpoint may have labels that are not here
        return [number / (len(counts) * counts[label]) if counts[label] else 0.0 for label in self.labels]

    def _encoded(self, examples: list[Example]) -> list[tuple[Tensor, int]]:
        classes = {label: number for number, label in enumerate(self.labels)}
        for _, label, place in examples:
            if label not in classes:
                raise ValueError(f"{place}: the label {label!r} is unknown; the training part has {', '.join(classes)}")
        return [(self.encoder.encode(text, f"{place}: the text"), classes[label]) for text, label, place in examples]

    @cached_property
    def _training(self) -> list[tuple[Tensor, int]]:
        return self._encoded(self._parts[0])

    @property
    def train_batches(self) -> Batches:
        """New ones where the batch size has changed, as Lightning's BatchSizeFinder changes it."""
        batch_size, batches = self.hparams["batch_size"], self._train_batches
        if batches is None or batches.batch_size != batch_size:
            batches = self._train_batches = Batches(self._training, batch_size)
        return batches

    @cached_property
    def val_batches(self) -> Batches:
        return Batches(self._encoded(self._parts[1]), self.hparams["batch_size"], whole=True)

    @cached_property
    def test_batches(self) -> Batches | None:
        path = self.hparams["test_path"]
        return Batches(self._encoded(self._table(path)), self.hparams["batch_size"], whole=True) if path else None

    def check(self, checkpoint: dict[str, Any] | None, processes: int = 1) -> None:
        """Raises ValueError where a table cannot be used, or is not in the words of the checkpoint to go on from. Any
        number of processes can share texts out."""
        self.train_batches, self.val_batches, self.test_batches  # noqa: B018
        if checkpoint is not None:
            if type(self).__name__ not in checkpoint:
                raise ValueError("the checkpoint is not a classifier's: give --ckpt_path a run of this config")
            self.load_state_dict(checkpoint[type(self).__name__])

    def __str__(self) -> str:
        training, held_out = self._parts
        sizes = f"{len(training):,} texts to train on, {len(held_out):,} held out"
        vocabulary = f"{self.vocab_size:,} different words, classes {', '.join(self.labels)}"
        first_line = f"{self.hparams['path'] or 'reviews'}: {sizes}, {vocabulary}"
        lines = [first_line, *self._notes, *self._lonely_classes()]
        if self._vocabulary:
            lines.insert(
                1, f"{self.unknown_share():.1%} of the words to train on are not in the checkpoint's vocabulary"
            )
        return "\n".join(lines)

    def _lonely_classes(self) -> list[str]:
        """A line on the classes that the held-out part lacks, if there are any."""
        missing = [label for label in self.labels if label not in {example.label for example in self._parts[1]}]
        if not missing:
            return []
        named = ", ".join(missing)
        return [f"the held-out part has no text of class {named}: what the model makes of it is not measured"]

    def train_dataloader(self) -> Batches:
        if self.trainer:
            self.train_batches.rank, self.train_batches.processes = self.trainer.global_rank, self.trainer.world_size
        return self.train_batches

    def val_dataloader(self) -> Batches:
        return self.val_batches

    def test_dataloader(self) -> Batches:
        if self.test_batches is None:
            raise MisconfigurationException(
                "there is no table to test on: give its name as test_path (--data.test_path), or measure the held-out "
                "part with trainer.validate(model, data)"
            )
        return self.test_batches

    def predict_dataloader(self) -> DataLoader[Any]:
        """The texts of `test_path`, or else the held-out ones, in the order of the table."""
        path = self.hparams["test_path"]
        examples: Any = self._encoded(self._table(path) if path else self._parts[1])
        return DataLoader(examples, batch_size=self.hparams["batch_size"], collate_fn=side_by_side)

    def unknown_share(self) -> float:
        """Of the words of the texts to train on, those that the vocabulary lacks."""
        tokens = torch.cat([text for text, _ in self._training])
        return float((tokens == 0).double().mean())

    def moved(self, position: int, before: dict[str, Any]) -> int:
        """The batch, counted from the beginning of training, at which an epoch begins that began at a position when
        batches had that size."""
        epoch = round(position / len(Batches(self._training, before["batch_size"])))
        return epoch * len(self.train_batches)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to read texts and to name classes, and to know the texts again."""
        inherited = {"inherited": True} if self._vocabulary else {}
        return {"encoder": self.encoder.state(), "texts": self._digest} | inherited

    @cached_property
    def _digest(self) -> str:
        parts = [[[example.text, example.label] for example in part] for part in self._parts]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError if training would continue on other texts, or with other words or labels."""
        fits = self.trainer is None or self.trainer.state.fn == "fit"
        if fits and state_dict.get("texts", self._digest) != self._digest:
            raise ValueError(
                f"{self.hparams['path'] or 'reviews'}: has not the texts that the checkpoint was trained on, or holds "
                f"out others: give the tables of the run, {WAY_OUT}"
            )
        if state_dict["encoder"] != self.encoder.state():
            raise ValueError(
                f"the checkpoint was trained on other words or labels: resume on the table it has, {WAY_OUT}"
            )


def embedded(texts: list[reviews.Review]) -> list[Example]:
    return [Example(text, label, f"review {number}") for number, (text, label) in enumerate(texts, 1)]


def numbers_held_out(labels: list[str], fraction: float) -> list[int]:
    """Chooses which texts are held out: of every class its share, at least one, and never all; always the same ones."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).tolist()
    counts = Counter(labels)
    exact = {label: count * fraction for label, count in counts.items()}
    shares = {label: int(share) for label, share in exact.items()}
    missing = int(len(labels) * fraction) - sum(shares.values())
    for label in sorted(exact, key=lambda label: shares[label] - exact[label])[:missing]:  # largest remainders first
        shares[label] += 1
    left = {label: min(counts[label] - 1, max(1, share)) for label, share in shares.items()}
    chosen = []
    for number in order:
        if left[labels[number]] > 0:
            left[labels[number]] -= 1
            chosen.append(number)
    return chosen
