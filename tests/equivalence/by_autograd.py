"""The other room: the results of a case by PyTorch's autograd, under the names that `bptt.verify.cases` gives them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bptt.layers import Recurrent as RecurrentTwin
from bptt.networks import LanguageModel as LanguageModelTwin
from bptt.verify.cases import Arrays, Case
from models.language_model import LanguageModel
from models.recurrent import Recurrent


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


def model_by_autograd(case: Case, network: LanguageModelTwin, dtype: torch.dtype, backend: str) -> Arrays:
    """The results of a whole language model: its own loss if the case has targets, else the given cotangent."""
    s, twin = case.sizes, network.recurrent
    model = LanguageModel(
        s.V,
        twin.cell,
        s.I if "embedding.weight" in case.parameters else None,
        s.H,
        s.L,
        twin.activation,
        twin.gate_activation,
        backend=backend,
    )
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
