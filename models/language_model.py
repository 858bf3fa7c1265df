"""A recurrent language model, and how Lightning trains it: truncated backpropagation through time."""

import math
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from models.recurrent import Recurrent

OPTIMIZERS: dict[str, Any] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}
PADDING = -1  # marks what lies beyond the end of a held-out text


class LanguageModel(pl.LightningModule):
    """Symbols in, logits of the next symbol out: embedding or one-hot, recurrent layers, one affine head.

        x_t = embedding[token_t]        or, without an embedding, onehot(token_t)
        h_t, s_t = recurrent(x_t, s_{t−1})
        z_t = W h_t + b

    Args:
        vocab_size: V.
        cell: the recurrent cell.
        embedding_size: E; none for one-hot input.
        hidden_size: H.
        num_layers: L.
        activation, gate_activation: as in `models.cells.Cell`.
        forget_bias: added once to the LSTM's forget gate when the weights are drawn, so that memory starts out long
            (Gers et al., 2000).
        loss: the cross entropy of every step, or of each window's last step alone. Held-out text counts at every step.
        optimizer: torch's, by name.
        learning_rate: of the optimizer, before the schedule's factor.
        weight_decay: of the optimizer.
        schedule: constant; exponential, `decay_rate ** (epoch / decay_steps)`; cosine, from 1 to 0 over the run;
            plateau, times `decay_rate` after `decay_steps` validations without a better one.
        warmup_steps: updates over which the rate rises linearly from 0.
        decay_rate, decay_steps: of the exponential and plateau schedules; decay_steps in epochs, or validations.
        backend: as in `models.recurrent.Recurrent`.

    Inputs: tokens (T, B) and a state of (L, B, H) each, zeros if it is left out.
    Outputs: logits (T, B, V), and the state after the last step.

    Every batch is the next window of the same streams: the state is carried from one to the next, detached, so that
    gradients stop at the border. Validation reads with a state of its own. Logged: `train_loss` and `val_loss` in nats
    per symbol, `train_bpc` and `val_bpc` in bits per symbol, `learning_rate`, and `grad_norm` before clipping.
    """

    def __init__(
        self,
        vocab_size: int,
        cell: Literal["rnn", "gru", "lstm"] = "lstm",
        embedding_size: int | None = None,
        hidden_size: int = 256,
        num_layers: int = 1,
        activation: Literal["tanh", "relu", "identity", "hard_tanh"] = "tanh",
        gate_activation: Literal["sigmoid", "hard_sigmoid"] = "sigmoid",
        forget_bias: float = 0.0,
        loss: Literal["every", "last"] = "every",
        optimizer: Literal["sgd", "adagrad", "rmsprop", "adam", "adamw"] = "adamw",
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
        schedule: Literal["constant", "exponential", "cosine", "plateau"] = "constant",
        warmup_steps: int = 0,
        decay_rate: float = 0.5,
        decay_steps: int = 1,
        backend: Literal["auto", "autograd", "fused"] = "auto",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        sizes = {"hidden_size": hidden_size, "num_layers": num_layers, "decay_steps": decay_steps}
        sizes["embedding_size"] = 1 if embedding_size is None else embedding_size
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"--model.{name} is {value}: it must be at least 1")
        rates = {"learning_rate": learning_rate, "weight_decay": weight_decay, "warmup_steps": warmup_steps}
        for name, rate in rates.items():
            if not 0 <= rate < math.inf:
                raise ValueError(f"--model.{name} is {rate}: it must be 0 or more")
        if not 0 < decay_rate < 1:
            raise ValueError(f"--model.decay_rate is {decay_rate}: it must lie between 0 and 1")
        if schedule == "plateau" and warmup_steps:
            raise ValueError("--model.warmup_steps cannot be combined with --model.schedule plateau: leave it at 0")
        self.embedding = nn.Embedding(vocab_size, embedding_size) if embedding_size else None
        self.recurrent = Recurrent(
            cell, embedding_size or vocab_size, hidden_size, num_layers, activation, gate_activation, backend
        )
        self.head = nn.Linear(hidden_size, vocab_size)
        if cell == "lstm":
            for layer in self.recurrent.layers():
                with torch.no_grad():
                    layer.bias_ih[hidden_size : 2 * hidden_size] += forget_bias
        self.state: Any = None  # after the last training window
        self.val_state: Any = None
        self.val_nats = self.val_symbols = 0.0

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        hidden, state = self.recurrent.over_projected(self.projected(tokens), state)  # (T, B, H)
        return self.head(hidden), state

    def projected(self, tokens: Tensor) -> Tensor:
        """The first layer's W_ih x + b_ih (T, B, GH). Where symbols are fewer than tokens, of each symbol once: a table
        that is looked up, whose gradient is the sum of those of its tokens."""
        layer, vocab_size = self.recurrent.layers()[0], self.hparams["vocab_size"]
        if vocab_size > tokens.numel():
            x = self.embedding(tokens) if self.embedding else F.one_hot(tokens, vocab_size).to(self.head.weight)
            return layer.project(x)
        table = layer.project(self.embedding.weight) if self.embedding else layer.weight_ih.T + layer.bias_ih
        return F.embedding(tokens, table)  # (V, GH) → (T, B, GH)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        tokens, fresh = batch
        logits, state = self(tokens[:-1], None if fresh else self.state)
        self.state = detach(state)
        targets = tokens[1:]
        if self.hparams["loss"] == "last":
            logits, targets = logits[-1:], targets[-1:]
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        if self.logs_now():
            self.log("train_loss", loss.detach(), prog_bar=True)
            self.log("train_bpc", loss.detach() / math.log(2), prog_bar=True)
            self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def logs_now(self) -> bool:
        """Whether the loggers will write what is logged before this update; computing it at others would be in vain."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by Lightning's logger connector
        return (self.trainer.global_step + 1) % every == 0

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.logs_now():
            gradients = [p.grad for p in self.parameters() if p.grad is not None]
            self.log("grad_norm", nn.utils.get_total_norm(gradients))

    def on_validation_epoch_start(self) -> None:
        self.val_nats = self.val_symbols = 0.0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        tokens, fresh = batch
        logits, self.val_state = self(tokens[:-1].clamp(min=0), None if fresh else self.val_state)
        targets = tokens[1:].flatten()
        nats = F.cross_entropy(logits.flatten(0, 1), targets, ignore_index=PADDING, reduction="none")
        self.val_nats += nats.sum(dtype=torch.float64).item()
        self.val_symbols += (targets != PADDING).sum().item()

    def on_validation_epoch_end(self) -> None:
        """The mean over the whole held-out part: sums in float64, divided once."""
        nats = self.val_nats / self.val_symbols
        self.log("val_loss", nats, prog_bar=True)
        self.log("val_bpc", nats / math.log(2), prog_bar=True)

    def configure_optimizers(self) -> Any:
        options = self.hparams
        optimizer = OPTIMIZERS[options["optimizer"]](
            self.parameters(), lr=options["learning_rate"], weight_decay=options["weight_decay"]
        )
        if options["schedule"] == "plateau":
            plateau = ReduceLROnPlateau(optimizer, factor=options["decay_rate"], patience=options["decay_steps"])
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss", "strict": False},
            }
        schedule = LambdaLR(optimizer, self.learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def learning_rate_factor(self, step: int) -> float:
        """The schedule's factor at an update, counted from 0: lr = learning_rate · warm-up · schedule."""
        options = self.hparams
        warmup = min(1.0, (step + 1) / (options["warmup_steps"] + 1))
        if step == 0 or options["schedule"] == "constant":
            return warmup
        # Lightning's own estimate of the number of updates would rebuild the loaders and lose their position.
        updates_per_epoch = self.trainer.num_training_batches // self.trainer.accumulate_grad_batches or 1
        if options["schedule"] == "exponential":
            return warmup * options["decay_rate"] ** (step // updates_per_epoch / options["decay_steps"])
        epochs = self.trainer.max_epochs
        limits = [updates_per_epoch * epochs if epochs and epochs > 0 else 0, self.trainer.max_steps]
        updates = min((limit for limit in limits if limit > 0), default=0)
        return warmup * (1 + math.cos(math.pi * min(1.0, step / updates))) / 2 if updates else warmup

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["recurrent_state"] = None if self.state is None else list(self.state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.state = checkpoint["recurrent_state"]


def detach(state: Any) -> Any:
    return type(state)(*(part.detach() for part in state))
