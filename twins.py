"""A model of models/ and its NumPy twin, on the same window of the same text: logits, loss and gradients of both."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from torch import Tensor

from bptt.arithmetic import Array
from bptt.layers import Recurrent
from bptt.networks import LanguageModel as Twin
from datamodules.text import TextDataModule
from models.language_model import LanguageModel


class Pair(NamedTuple):
    """One result in both rooms. `allowed` is relative to the largest entry."""

    name: str
    by_hand: Array
    by_autograd: Array
    allowed: float

    @property
    def apart(self) -> float:
        return float(np.abs(self.by_hand - self.by_autograd).max() / np.abs(self.by_hand).max())

    @property
    def same_bits(self) -> float:
        return float((self.by_hand == self.by_autograd).mean())


def from_config(config: str, path: str | None) -> tuple[LanguageModel, TextDataModule]:
    """The model and the data of a file that train.py takes. Raises ArgumentError, ValueError or OSError as it does."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_argument("--trainer", type=dict[str, Any])
    parser.add_class_arguments(LanguageModel, "model", skip={"vocab_size"})
    parser.add_class_arguments(TextDataModule, "data")
    options = parser.parse_args(["--config", config, *(["--data.path", path] if path else [])])
    data = TextDataModule(**options.data)
    torch.manual_seed(options.seed_everything)
    return LanguageModel(data.vocab_size, **options.model).double(), data


def pairs(model: LanguageModel, tokens: Tensor) -> list[Pair]:
    """Forward and back over one window (T + 1, B) from a state of zeros, in float64.

    `allowed` is the usual yardstick n u of n roundings one after the other, on the longest way through the window: no
    proven bound, which at such sizes nobody has; those are proven by the tests, of the same code, at small ones.
    """
    options, p = model.hparams, {name: value.detach().numpy() for name, value in model.state_dict().items()}
    settings = (options[name] for name in ("cell", "num_layers", "activation", "gate_activation"))
    twin = Twin(Recurrent(*settings), options["loss"])
    inputs, targets = tokens[:-1], tokens[1:]
    logits, _ = model(inputs)
    last = slice(-1 if options["loss"] == "last" else 0, None)
    loss = F.cross_entropy(logits[last].flatten(0, 1), targets[last].flatten())
    loss.backward()
    by_hand, _ = twin.forward(p, inputs.numpy())
    loss_by_hand, gradients, _ = twin.loss_and_gradients(p, inputs.numpy(), targets.numpy())
    T, B = inputs.shape
    steps = options["num_layers"] * T * sum(p["recurrent.cells.0.weight_hh"].shape)
    allowed = (steps + p["head.weight"].size // options["hidden_size"] + T * B) * 2.0**-53
    found = [Pair("logits", by_hand, logits.detach().numpy(), allowed)]
    found.append(Pair("loss", np.asarray(loss_by_hand), loss.detach().numpy(), allowed))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        found.append(Pair(f"d.{name}", gradients.parameters[name], parameter.grad.numpy(), allowed))
    return found
