"""A recurrent language model, and how Lightning trains it: truncated backpropagation through time."""

import math
import sys
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from models.attention import CausalAttention
from models.graphed import GraphedUpdates, in_one_line, reason_against
from models.initialization import initialize
from models.projections import Dense, Projection, Symbols
from models.recurrent import Recurrent
from models.training import Trained, gathered

PADDING = -1  # marks what lies beyond the end of a held-out text


class AttentiveState(NamedTuple):
    """The state of a language model with attention."""

    recurrent: Any  # (L, B, H) each
    memory: Tensor  # (M, B, H): the last states, which the next steps look back at


class LanguageModel(Trained):
    """Symbols in, logits of the next symbol out: embedding or one-hot, recurrent layers, one affine head.

        x_t = embedding[token_t]        or, without an embedding, onehot(token_t)
        h_t, s_t = recurrent(x_t, s_{t−1})
        z_t = W h_t + b

    With attention, each h_t looks back at earlier ones before it is read (`models.attention.CausalAttention`).

    Args:
        vocab_size: V, the number of different symbols.
        cell: the recurrent cell.
        embedding_size: E, the size of a symbol's vector; null for one-hot input.
        hidden_size: H, the size of the state of a layer.
        num_layers: L, the number of recurrent layers.
        activation: the activation of the new state or the candidate (`models.cells.Cell`).
        gate_activation: the activation of the gates of LSTM and GRU.
        forget_bias: added once to the LSTM's forget gate when the weights are drawn, so that memory starts out long
            (Gers et al., 2000).
        initialization: how the weights are drawn (`models.initialization.initialize`).
        tied: whether W is the embedding (Press and Wolf, 2017), so that E must be H.
        dropout: the probability that a value of a layer's output is dropped, while training.
        dropout_per: whether what is dropped is drawn at every step, or once a window.
        weight_dropout: the probability that a weight of W_hh is dropped, while training, drawn once a window (Merity et
            al., *Regularizing and optimizing LSTM language models*, 2018); a small text needs it against a large layer.
        attention_span: how many states a step looks back at, its own among them; 0 for no attention.
        bidirectional: refused, as a layer that reads the text backwards has seen the symbol that is to be predicted.
        loss: the cross entropy of every step, or of each window's last step alone. Held-out text counts at every step.
        backend: how the layers are computed; auto takes kernels in C++ where there is a compiler, else fused
            (`models.recurrent.Recurrent`).
        recompute: steps that are computed again in the backward pass at a time, to save memory; 0 keeps everything.
        cuda_graph: on a GPU, whether updates are recorded and replayed, where they can be (`models.graphed`).
        training: as in `models.training.Trained`.

    Inputs: tokens (T, B) and a state of (L, B, H) each, zeros if it is left out.
    Outputs: logits (T, B, V), and the state after the last step, with attention an `AttentiveState`.

    Raises ValueError for options that do not go together.

    Every batch is the next window of the same streams: the state is carried from one to the next, detached, so that
    gradients stop at the border. Validation reads with a state of its own. Of several processes, each carries the state
    of its streams; a checkpoint has that of all. Logged: `train_loss`, of an update's last window, and `val_loss` in
    nats per symbol, `train_bpc` and `val_bpc` in bits per symbol, `learning_rate`, and `grad_norm` before clipping.
    """

    METRICS = (*Trained.METRICS, "train_bpc", "val_bpc")

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
        initialization: Literal["uniform", "gaussian", "he", "orthogonal"] = "uniform",
        tied: bool = False,
        dropout: float = 0.0,
        dropout_per: Literal["step", "window"] = "step",
        weight_dropout: float = 0.0,
        attention_span: int = 0,
        bidirectional: bool = False,
        loss: Literal["every", "last"] = "every",
        backend: Literal["auto", "autograd", "fused", "compiled", "triton"] = "auto",
        recompute: int = 0,
        cuda_graph: bool = True,
        **training: Any,
    ) -> None:
        super().__init__(**training)
        inputs = 1 if embedding_size is None else embedding_size
        self.check_sizes(hidden_size=hidden_size, num_layers=num_layers, embedding_size=inputs)
        if bidirectional:
            raise ValueError(
                "--model.bidirectional: a layer that reads backwards has seen the symbol that a language model is to "
                "predict, and would learn to copy it; leave it out"
            )
        if tied and embedding_size != hidden_size:
            raise ValueError(
                f"--model.tied needs an embedding as wide as the hidden state: --model.embedding_size {hidden_size}"
            )
        if not 0 <= weight_dropout < 1:
            raise ValueError(f"--model.weight_dropout is {weight_dropout}: it must be at least 0 and less than 1")
        if attention_span < 0:
            raise ValueError(f"--model.attention_span is {attention_span}: it must be 0 or more")
        self.embedding = nn.Embedding(vocab_size, embedding_size) if embedding_size else None
        self.recurrent = Recurrent(
            cell, embedding_size or vocab_size, hidden_size, num_layers, activation, gate_activation, backend,
            dropout=dropout, dropout_per=dropout_per, recompute=recompute,
        )  # fmt: skip
        self.attention = CausalAttention(hidden_size, attention_span) if attention_span else None
        self.head = nn.Linear(hidden_size, vocab_size)
        initialize(self, initialization)
        if tied and self.embedding:
            self.embedding.weight = self.head.weight
        if cell == "lstm":
            for (layer,) in self.recurrent.layers():
                with torch.no_grad():
                    layer.bias_ih[hidden_size : 2 * hidden_size] += forget_bias
        self.state: Any = None  # after the last training window
        self.val_state: Any = None
        self.val_nats = self.val_symbols = 0.0

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        before, memory = state if self.attention and state is not None else (state, None)
        hidden, after = self.recurrent.over_projected(lambda _: [self.projected(tokens)], tokens.shape[1], before)
        hidden = self.recurrent.dropout(hidden)  # (T, B, H)
        if self.attention:
            hidden, memory, _ = self.attention(hidden, memory)
            after = AttentiveState(after, memory)
        return self.head(hidden), after

    def projected(self, tokens: Tensor) -> Projection:
        """The first layer's W_ih x + b_ih (T, B, GH). Where symbols are fewer than tokens, of each symbol once: a table
        that is looked up, whose gradient is the sum of those of its tokens, and therefore as precise as a weight's."""
        (layer,), vocab_size = self.recurrent.layers()[0], self.hparams["vocab_size"]
        if vocab_size > tokens.numel():
            x = self.embedding(tokens) if self.embedding else F.one_hot(tokens, vocab_size).to(self.head.weight)
            return Dense(x, layer.weight_ih, layer.bias_ih)
        table = layer.project(self.embedding.weight) if self.embedding else layer.weight_ih.T + layer.bias_ih
        return Symbols(tokens, table.to(layer.bias_ih))

    def on_train_start(self) -> None:
        super().on_train_start()
        reason = reason_against(self)
        try:
            self.graphed = None if reason else GraphedUpdates(self)
        except RuntimeError as error:
            reason = in_one_line(error)
        if self.device.type == "cuda" and self.trainer.is_global_zero:
            print(f"updates are not CUDA graphs: {reason}" if reason else "updates are CUDA graphs", file=sys.stderr)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        tokens, fresh = batch
        given = tokens, None if fresh else self.state
        if self.graphed and (made := self.graphed(*given)):
            loss, norm, self.state = made
        else:
            loss, self.state = self.read(*given)
        if self.logs_now():
            self.log("train_loss", loss.detach(), prog_bar=True, sync_dist=True)
            self.log("train_bpc", loss.detach() / math.log(2), prog_bar=True, sync_dist=True)
            self.log_learning_rate()
            if self.graphed:
                self.graphed.watch.look()
                self.log("grad_norm", norm)
        return loss

    def read(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """The loss of a window, and the state after it, detached."""
        given, dropped = (tokens[:-1], state), self.dropped_weights()
        logits, state = functional_call(self, dropped, given) if dropped else self(*given)
        targets = tokens[1:]
        if self.hparams["loss"] == "last":
            logits, targets = logits[-1:], targets[-1:]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), detach(state)

    def dropped_weights(self) -> dict[str, Tensor]:
        """What stands for each W_hh in this window."""
        rate, parameters = self.hparams["weight_dropout"], self.recurrent.named_parameters(prefix="recurrent")
        return {name: F.dropout(p, rate) for name, p in parameters if rate and name.endswith("weight_hh")}

    def on_validation_epoch_start(self) -> None:
        self.val_nats = self.val_symbols = 0.0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        nats, targets = self.held_out_nats(batch)
        self.val_nats += nats.sum(dtype=torch.float64).item()
        self.val_symbols += (targets != PADDING).sum().item()

    def held_out_nats(self, batch: Any) -> tuple[Tensor, Tensor]:
        """−log p of the next window's targets (T, B), 0 at padding; and these targets. Carries the state on."""
        tokens, fresh = batch
        logits, self.val_state = self(tokens[:-1].clamp(min=0), None if fresh else self.val_state)
        targets = tokens[1:]
        nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PADDING, reduction="none")
        return nats.view_as(targets), targets

    def on_validation_epoch_end(self) -> None:
        self.log_mean("val")

    def log_mean(self, part: str) -> None:
        """The mean over all symbols of this part: sums in float64, of all processes, divided once."""
        nats, symbols = self.summed(self.val_nats, self.val_symbols)
        self.log(f"{part}_loss", nats / symbols, prog_bar=True, sync_dist=True)  # the same in all processes
        self.log(f"{part}_bpc", nats / symbols / math.log(2), prog_bar=True, sync_dist=True)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.log_mean("test")

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        """−log p of every symbol of a window (T, B), in nats; NaN beyond the end of the text."""
        nats, targets = self.held_out_nats(batch)
        return nats.masked_fill(targets == PADDING, math.nan)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["recurrent_state"] = None  # before the first batch
        if self.state is not None:
            states = gathered(tree_map(lambda part: part.cpu(), self.state))  # of the streams of each process
            checkpoint["recurrent_state"] = as_lists(tree_map(lambda *parts: torch.cat(parts, dim=1), *states))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        rank, processes, device = self.trainer.global_rank, self.trainer.world_size, self.trainer.strategy.root_device
        self.state = state = checkpoint["recurrent_state"]
        if state is not None:
            self.state = tree_map(lambda part: part.chunk(processes, dim=1)[rank].to(device), state)


def as_lists(state: Any) -> Any:
    """A state as what a checkpoint may hold."""
    return state if state is None or isinstance(state, Tensor) else [as_lists(part) for part in state]


def detach(state: Any) -> Any:
    return tree_map(lambda part: part.detach(), state)
