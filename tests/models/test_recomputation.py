"""What larger models need: results that are computed again instead of kept, with the same bits, dropout included;
updates of several windows; products in bfloat16; speed and memory in the logs."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from datamodules.text import TextDataModule
from models.callbacks import Throughput
from models.language_model import LanguageModel
from models.recurrent import Recurrent
from tests.backends import PARAMETERS

CELLS = ("rnn", "gru", "lstm")


def results(layers: torch.nn.Module, *inputs: Any) -> list[Tensor]:
    """Every output, and every gradient of a sum in which each has its own weight."""
    torch.manual_seed(3)
    output, state = layers(*inputs)
    outputs = [output, *state]
    sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outputs).backward()
    return [*outputs, *(parameter.grad for parameter in layers.parameters())]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("backend", PARAMETERS)
@pytest.mark.parametrize("steps", [1, 4, 100])
@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": True}, {"dropout": 0.5}, {"dropout": 0.5, "dropout_per": "window"}],
    ids=str,
)
def test_layers_have_the_same_bits(cell: str, backend: str, steps: int, options: dict[str, Any]) -> None:
    torch.manual_seed(1)
    keeps = Recurrent(cell, 3, 5, 2, backend=backend, **options)
    again = copy.deepcopy(keeps)
    again.recompute = steps
    x, lengths = torch.randn(11, 4, 3), torch.tensor([11, 3, 7, 11])
    of_x = []
    for layers in (keeps, again):
        of_x.append(x.clone().requires_grad_())
        layers.found = results(layers, of_x[-1], None, lengths)
    for kept, computed in zip(keeps.found, again.found, strict=True):
        assert torch.equal(kept, computed)
    assert torch.equal(of_x[0].grad, of_x[1].grad)
    for parameter in again.parameters():
        parameter.grad = None
    if "dropout" in options:
        torch.manual_seed(4)
        assert not torch.equal(again(x)[0], keeps.found[0]), "another mask, another result"


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("backend", PARAMETERS)
@pytest.mark.parametrize("options", [{}, {"embedding_size": 3}, {"num_layers": 3, "attention_span": 4}], ids=str)
def test_language_models_have_the_same_bits(cell: Any, backend: Any, options: dict[str, Any]) -> None:
    tokens = torch.randint(0, 7, (20, 3))
    found = []
    for recompute in (0, 6):
        torch.manual_seed(2)
        model = LanguageModel(7, cell, hidden_size=5, dropout=0.3, backend=backend, recompute=recompute, **options)
        first, state = model(tokens[:10])
        logits, _ = model(tokens[10:], state)
        (first.sum() + (logits * logits).sum()).backward()
        found.append([first, logits, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(kept, computed) for kept, computed in zip(*found, strict=True))


@pytest.mark.parametrize("backend", PARAMETERS)
def test_little_is_kept(backend: str) -> None:
    """Of each layer its input, and at most what the head and the layer itself read of its output."""

    def kept(recompute: int) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        layers = Recurrent("lstm", 8, 8, 3, backend=backend, recompute=recompute)
        x = torch.randn(200, 4, 8, requires_grad=True)
        with saved_tensors_hooks(note, lambda tensor: tensor):
            output, _ = layers(x)
        return sum(sizes.values()) // x.untyped_storage().nbytes()

    assert kept(10) <= 1 < 20 < kept(0)


def test_nothing_is_computed_twice_where_no_gradient_is_asked_for() -> None:
    layers = Recurrent("gru", 3, 5, recompute=2)
    with torch.no_grad():
        assert not layers(torch.randn(5, 2, 3))[0].requires_grad
    with pytest.raises(ValueError, match="recompute is -1: give a number of steps, or 0 to keep everything"):
        LanguageModel(5, recompute=-1)


@pytest.fixture
def data(tmp_path: Path) -> TextDataModule:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 10, encoding="utf-8")
    return TextDataModule(str(path), batch_size=3, window=20)  # 7 windows


def trained(data: TextDataModule, *callbacks: pl.Callback, **options: Any) -> tuple[LanguageModel, pl.Trainer]:
    torch.manual_seed(0)
    model = LanguageModel(data.vocab_size, embedding_size=4, hidden_size=6, optimizer="sgd", schedule="cosine")
    plain = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", num_sanity_val_steps=0, callbacks=list(callbacks), **plain, **options)
    trainer.fit(model, data)
    return model, trainer


class Rates(pl.Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])


def test_an_update_of_several_windows_carries_the_state_through_them(data: TextDataModule) -> None:
    """Without Lightning: the mean of both windows' losses, the second from the state that the first left."""
    model, trainer = trained(data, max_steps=1, accumulate_grad_batches=2, limit_val_batches=0)
    assert trainer.global_step == 1 and data.train_streams.position == 2
    torch.manual_seed(0)
    again = LanguageModel(data.vocab_size, embedding_size=4, hidden_size=6)
    state = None
    for place in range(2):
        tokens = data.train_streams.at(place).tokens
        logits, state = again(tokens[:-1], state if state is None else [part.detach() for part in state])
        (F.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten()) / 2).backward()
    with torch.no_grad():
        for name, parameter in again.named_parameters():
            step = 2e-3 * parameter.grad
            # torch's SGD may fuse the product with the difference: then it rounds once, here twice, each time by at
            # most half an ULP of what is rounded; the gradient itself is of the same code on the same shapes
            ulps = 1.5 * torch.finfo(torch.float32).eps * (parameter.abs() + step.abs())
            assert ((parameter - step - model.get_parameter(name)).abs() <= ulps).all(), name


def test_the_schedule_counts_updates_where_they_are_of_several_windows(data: TextDataModule) -> None:
    seen = Rates()
    _, trainer = trained(data, seen, max_epochs=3, accumulate_grad_batches=2, limit_val_batches=0)
    assert trainer.global_step == 12, "of 7 windows in an epoch, the last alone makes the fourth update"
    assert seen.rates == pytest.approx([2e-3 * (1 + math.cos(math.pi * update / 12)) / 2 for update in range(12)])


def test_products_in_bfloat16_train_and_leave_weights_in_float32(data: TextDataModule) -> None:
    model, trainer = trained(data, max_steps=2, val_check_interval=2, precision="bf16-mixed")
    assert trainer.global_step == 2 and torch.isfinite(trainer.callback_metrics["val_loss"])
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_speed_and_memory_are_logged(data: TextDataModule) -> None:
    _, trainer = trained(data, Throughput(), max_steps=2, log_every_n_steps=1, limit_val_batches=0)
    assert trainer.callback_metrics["tokens_per_second"] > 0
    assert 50 < trainer.callback_metrics["peak_memory_mb"] < 100_000
