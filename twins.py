"""What stands in both rooms, on the same input: the cases of bptt/verify by torch, and models against their twins."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from bptt.arithmetic import Array
from bptt.layers import Recurrent as RecurrentTwin
from bptt.networks import LanguageModel as LanguageModelTwin
from bptt.verify.cases import Arrays, Case
from datamodules.text import TextDataModule
from models.language_model import LanguageModel
from models.recurrent import TORCH_LAYERS, Recurrent, ours_name


def module_of(network: RecurrentTwin, case: Case, input_size: int, backend: str) -> Recurrent:
    options = network.activation, network.gate_activation, backend
    return Recurrent(network.cell, input_size, case.sizes.H, case.sizes.L, *options)


def by_autograd(case: Case, dtype: torch.dtype, backend: str, strided: bool = False) -> Arrays:
    """All results of a case. With `strided`, cotangents arrive as views that no two neighbours of are adjacent."""
    if isinstance(case.network, LanguageModelTwin):
        return model_by_autograd(case, case.network, dtype, backend)
    module = module_of(case.network, case, case.sizes.I, backend)
    return layers_by_autograd(case, module, case.parameters, dtype, strided)


def layers_by_autograd(
    case: Case, module: nn.Module, parameters: Arrays, dtype: torch.dtype, strided: bool = False
) -> Arrays:
    """The results of a stack that is called as `nn.LSTM` is."""
    module.to(dtype).load_state_dict({name: torch.tensor(value) for name, value in parameters.items()})
    x = torch.tensor(case.inputs["x"], dtype=dtype, requires_grad=True)
    initial, d_final = leaves(case, "initial.", dtype), tensors(case.cotangents, "d.final.", dtype)
    plain = isinstance(module, nn.RNNBase) and not isinstance(module, nn.LSTM)  # a single tensor for a state
    output, final = module(x, initial["h"] if plain else tuple(initial.values()))
    final = (final,) if plain else tuple(final)
    d_output = torch.tensor(case.cotangents["d.output"], dtype=dtype)
    cotangents = [spread(d) if strided else d for d in (d_output, *d_final.values())]
    for _ in range(2):  # the second time must give the same
        module.zero_grad()
        x.grad = None
        for leaf in initial.values():
            leaf.grad = None
        torch.autograd.backward([output, *final], cotangents, retain_graph=True)
    results = {"output": output, **{f"final.{part}": value for part, value in zip(initial, final, strict=True)}}
    results |= {"d.x": x.grad} | {f"d.initial.{part}": leaf.grad for part, leaf in initial.items()}
    return arrays(results | gradients_of(module))


def by_torch_layers(case: Case, dtype: torch.dtype) -> Arrays:
    """The results of `nn.RNN`, `nn.GRU` or `nn.LSTM`, under our names."""
    assert isinstance(case.network, RecurrentTwin)
    layers = TORCH_LAYERS[case.network.cell](case.sizes.I, case.sizes.H, case.sizes.L)
    ours = {name: ours_name(name) for name in layers.state_dict()}
    results = layers_by_autograd(case, layers, {name: case.parameters[own] for name, own in ours.items()}, dtype)
    return {f"d.{ours[name[2:]]}" if name[2:] in ours else name: value for name, value in results.items()}


def model_by_autograd(case: Case, network: LanguageModelTwin, dtype: torch.dtype, backend: str) -> Arrays:
    """The results of a whole language model: its own loss if the case has targets, else the given cotangent."""
    s, twin = case.sizes, network.recurrent
    options: dict[str, Any] = {"embedding_size": s.I if "embedding.weight" in case.parameters else None}
    options |= {"hidden_size": s.H, "num_layers": s.L, "backend": backend}
    options |= {name: getattr(twin, name) for name in ("cell", "activation", "gate_activation")}
    model = LanguageModel(s.V, **options)
    model.to(dtype).load_state_dict({name: torch.tensor(value) for name, value in case.parameters.items()})
    initial, d_final = leaves(case, "initial.", dtype), tensors(case.cotangents, "d.final.", dtype)
    logits, final = model(torch.tensor(case.inputs["tokens"]), tuple(initial.values()))
    roots, cotangents = list(final), list(d_final.values())
    results: dict[str, Any] = {"logits": logits, **{f"final.{part}": value for part, value in final._asdict().items()}}
    if "targets" in case.inputs:
        last = slice(-1 if network.loss == "last" else 0, None)
        results["loss"] = F.cross_entropy(
            logits[last].flatten(0, 1), torch.tensor(case.inputs["targets"][last]).flatten()
        )
        roots.append(results["loss"])
        cotangents.append(torch.ones((), dtype=dtype))
    else:
        roots.append(logits)
        cotangents.append(torch.tensor(case.cotangents["d.logits"], dtype=dtype))
    torch.autograd.backward(roots, cotangents)
    results |= {f"d.initial.{part}": leaf.grad for part, leaf in initial.items()}
    return arrays(results | gradients_of(model))


def tensors(source: Arrays, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): torch.tensor(value, dtype=dtype)
        for name, value in source.items()
        if name.startswith(prefix)
    }


def leaves(case: Case, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    return {part: value.requires_grad_() for part, value in tensors(case.inputs, prefix, dtype).items()}


def gradients_of(module: nn.Module) -> dict[str, Tensor | None]:
    return {f"d.{name}": parameter.grad for name, parameter in module.named_parameters()}


def arrays(results: dict[str, Any]) -> Arrays:
    return {name: value.detach().double().numpy() for name, value in results.items()}


def spread(tensor: Tensor) -> Tensor:
    """The same values in a view whose elements lie apart, with NaN between them."""
    wide = torch.full((*tensor.shape, 2), torch.nan, dtype=tensor.dtype)
    wide[..., 0] = tensor
    return wide[..., 0]


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
    twin = LanguageModelTwin(RecurrentTwin(*settings), options["loss"])
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
