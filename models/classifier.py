"""A recurrent classifier of texts of any length, how Lightning trains it, and how well it does."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import AttentionPooling
from models.recurrent import Dropout, Recurrent
from models.training import Trained

UNKNOWN = 0  # the symbol of what the training part does not have
NO_LABEL = -100  # marks a text that is read and not learned from


class Classifier(Trained):
    """Symbols in, logits of the classes out: embedding, recurrent layers in both directions, pooling, an affine head.

        x_t = embedding[token_t]
        h_t = recurrent(x)_t
        pooled = Σ_t a_t h_t                as in `models.attention.AttentionPooling`
        z = W pooled + b

    Args:
        vocab_size: V, the number of different symbols; symbol 0 is the unknown one.
        num_classes: C, the number of classes.
        cell: the recurrent cell.
        embedding_size: E, the size of a symbol's vector.
        hidden_size: H, the size of the state of a layer, in each direction.
        num_layers: L, the number of recurrent layers.
        pooling: how attention scores a step: additive or dot.
        dropout: the probability that a value is dropped, of embeddings, between layers, and of what is pooled.
        word_dropout: the probability that a symbol of a training text is read as the unknown one.
        class_weights: the weight of each class in the loss; null if all count the same.
        label_smoothing: the share of each label in the loss that is spread over all classes: the model stays unsure.
        backend: how the layers are computed; auto takes kernels in C++ where there is a compiler, else fused
            (`models.recurrent.Recurrent`).
        training: as in `models.training.Trained`.

    Inputs: tokens (T, B), and lengths (B), at least 1: what a text has beyond its length bears on nothing.
    Outputs: logits (B, C), and the weights (T, B) with which the states of each step were pooled.

    Embeddings are drawn from N(0, 0.1²): on few texts, larger ones would be learned by heart before they mean anything.
    Logged: `train_loss`, in nats a text; of the held-out part `val_loss`, without class weights, `val_accuracy`, and
    `val_f1`, the mean over the classes; `learning_rate`, and `grad_norm` before clipping.
    Raises ValueError for options out of range.
    """

    METRICS = (*Trained.METRICS, "val_accuracy", "val_f1")
    class_weights: Tensor | None

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        cell: Literal["rnn", "gru", "lstm"] = "lstm",
        embedding_size: int = 64,
        hidden_size: int = 64,
        num_layers: int = 1,
        pooling: Literal["additive", "dot"] = "additive",
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        backend: Literal["auto", "autograd", "fused", "compiled", "triton"] = "auto",
        **training: Any,
    ) -> None:
        super().__init__(**training)
        self.check_sizes(embedding_size=embedding_size, hidden_size=hidden_size, num_layers=num_layers)
        if num_classes < 2:
            raise ValueError(f"num_classes is {num_classes}: there must be two to tell apart")
        if class_weights is not None and len(class_weights) != num_classes:
            raise ValueError(f"--model.class_weights has {len(class_weights)} for {num_classes} classes: give as many")
        for name, share in (("word_dropout", word_dropout), ("label_smoothing", label_smoothing)):
            if not 0 <= share < 1:
                raise ValueError(f"--model.{name} is {share}: it must be at least 0 and less than 1")
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.dropout = Dropout(dropout)
        self.recurrent = Recurrent(
            cell, embedding_size, hidden_size, num_layers, backend=backend, bidirectional=True, dropout=dropout
        )
        self.attention = AttentionPooling(2 * hidden_size, pooling)
        self.head = nn.Linear(2 * hidden_size, num_classes)
        of_classes = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", of_classes, persistent=False)
        self.held_out = Tally(num_classes)

    def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = self.dropout(self.embedding(tokens))  # (T, B, E)
        h, _ = self.recurrent(x, lengths=lengths)  # (T, B, 2H)
        pooled, weights = self.attention(h, lengths)  # (B, 2H), (T, B)
        return self.head(self.dropout(pooled)), weights

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        tokens, lengths, labels = batch
        if self.hparams["word_dropout"]:
            tokens = tokens.masked_fill(
                torch.rand(tokens.shape, device=tokens.device) < self.hparams["word_dropout"], UNKNOWN
            )
        logits, _ = self(tokens, lengths)
        loss = self.mean_loss(logits, labels)
        if self.logs_now():
            self.log("train_loss", loss.detach(), prog_bar=True, batch_size=len(labels), sync_dist=True)
            self.log_learning_rate()
        return loss

    def mean_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Over the batch. Of several processes each has a part of it; the mean of what they return is the whole's."""
        options: dict[str, Any] = {"weight": self.class_weights, "label_smoothing": self.hparams["label_smoothing"]}
        processes = self.trainer.world_size
        if processes == 1:
            return F.cross_entropy(logits, labels, **options)
        known = labels[labels != NO_LABEL]
        weight = len(known) if self.class_weights is None else self.class_weights[known].sum().item()
        (weight_of_all,) = self.summed(weight)
        return F.cross_entropy(logits, labels, reduction="sum", **options) * processes / weight_of_all

    def on_validation_epoch_start(self) -> None:
        self.held_out = Tally(self.hparams["num_classes"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        tokens, lengths, labels = batch
        self.held_out.add(self(tokens, lengths)[0], labels)

    def on_validation_epoch_end(self) -> None:
        self.log_tally("val")

    def log_tally(self, part: str) -> None:
        """Of several processes, each reads all of it."""
        self.log(f"{part}_loss", self.held_out.loss, prog_bar=True, sync_dist=True)
        self.log(f"{part}_accuracy", self.held_out.accuracy, prog_bar=True, sync_dist=True)
        self.log(f"{part}_f1", self.held_out.f1, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.log_tally("test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The probability of each class (B, C)."""
        tokens, lengths, _ = batch
        return self(tokens, lengths)[0].softmax(dim=-1)


class Tally:
    """How texts were classified: `counts` (C, C), a row for each true class, a column for each predicted one.

    accuracy = trace(counts) / sum(counts)
    f1 = mean(2 * diagonal(counts) / (rows(counts) + columns(counts)))
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.nats = 0.0

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Logits (B, C), and the true classes (B)."""
        pairs = (labels * len(self.counts) + logits.argmax(dim=-1)).cpu()
        self.counts += torch.bincount(pairs, minlength=self.counts.numel()).view_as(self.counts)
        self.nats += F.cross_entropy(logits, labels, reduction="none").sum(dtype=torch.float64).item()

    @property
    def loss(self) -> float:
        """The mean over all texts, in nats."""
        return self.nats / int(self.counts.sum())

    @property
    def accuracy(self) -> float:
        return int(self.counts.trace()) / int(self.counts.sum())

    @property
    def f1(self) -> float:
        """The mean over the classes that occur, true or predicted, of the harmonic mean of precision and recall."""
        occurrences = self.counts.sum(0) + self.counts.sum(1)
        return (2 * self.counts.diagonal().double() / occurrences)[occurrences > 0].mean().item()


@torch.inference_mode()
def tally(model: Classifier, batches: Iterable[Any]) -> Tally:
    """How a model that is ready to predict classifies batches."""
    found = Tally(model.hparams["num_classes"])
    for tokens, lengths, labels in batches:
        found.add(model(tokens.to(model.device), lengths)[0], labels.to(model.device))
    return found


def report(model: Classifier, parts: dict[str, Iterable[Any]], labels: list[str]) -> str:
    """For each part of the data, by name: loss, accuracy, macro F1, and a row for each true class."""
    width = max(map(len, [*labels, "true"])) + 2
    lines = []
    for name, batches in parts.items():
        found = tally(model, batches)
        lines.append(f"{name:16} accuracy {found.accuracy:.4f}, macro F1 {found.f1:.4f}, {found.loss:.4f} nats a text")
        rows = [("true", ["as " + label for label in labels])]
        rows += [
            (label, [f"{count:,}" for count in row]) for label, row in zip(labels, found.counts.tolist(), strict=True)
        ]
        lines += [f"    {label:{width}}" + "".join(f"{cell:>{width + 3}}" for cell in cells) for label, cells in rows]
    return "\n".join(lines)
