"""What stands in both rooms, on the same input: the cases of bptt/verify by torch, and models against their twins."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from bptt.arithmetic import Array
from bptt.layers import Recurrent as RecurrentTwin
from bptt.losses import per_step_cross_entropy, weighted_cross_entropy
from bptt.networks import Classifier as ClassifierTwin
from bptt.networks import LanguageModel as LanguageModelTwin
from bptt.verify.cases import Arrays, Case, masks_of
from models.classifier import Classifier
from models.language_model import AttentiveState, LanguageModel
from models.recurrent import TORCH_LAYERS, Dropout, Recurrent, ours_name
from models.training import Trained
from tasks import TASKS, chosen


class GivenMasks(Dropout):
    """Dropout with masks that are known, one for each time it is called."""

    def __init__(self, masks: list[Array]) -> None:
        super().__init__(0.5)
        self.masks = [torch.tensor(mask) for mask in masks]

    def mask(self, x: Tensor) -> Tensor:
        return self.masks.pop(0).to(x)


def module_of(network: RecurrentTwin, case: Case, input_size: int, backend: str) -> Recurrent:
    options = network.activation, network.gate_activation, backend, network.bidirectional
    return Recurrent(network.cell, input_size, case.sizes.H, case.sizes.L, *options)


def by_autograd(case: Case, dtype: torch.dtype, backend: str, strided: bool = False) -> Arrays:
    """All results of a case. With `strided`, cotangents arrive as views that no two neighbours of are adjacent."""
    if isinstance(case.network, LanguageModelTwin):
        return model_by_autograd(case, case.network, dtype, backend)
    if isinstance(case.network, ClassifierTwin):
        return classifier_by_autograd(case, case.network, dtype, backend)
    module = module_of(case.network, case, case.sizes.I, backend)
    if masks := masks_of(case.inputs):
        module.dropout = GivenMasks(masks)
    return layers_by_autograd(case, module, case.parameters, dtype, strided)


def layers_by_autograd(
    case: Case, module: nn.Module, parameters: Arrays, dtype: torch.dtype, strided: bool = False
) -> Arrays:
    """The results of a stack that is called as `nn.LSTM` is; of torch's own, where lengths differ, on packed
    sequences."""
    module.to(dtype).load_state_dict({name: torch.tensor(value) for name, value in parameters.items()})
    x = torch.tensor(case.inputs["x"], dtype=dtype, requires_grad=True)
    initial, d_final = leaves(case, "initial.", dtype), tensors(case.cotangents, "d.final.", dtype)
    plain = isinstance(module, nn.RNNBase) and not isinstance(module, nn.LSTM)  # a single tensor for a state
    state = initial["h"] if plain else tuple(initial.values())
    lengths = torch.tensor(case.inputs["lengths"]) if "lengths" in case.inputs else None
    if lengths is None:
        output, final = module(x, state)
    elif isinstance(module, nn.RNNBase):
        packed, final = module(pack_padded_sequence(x, lengths, enforce_sorted=False), state)
        output, _ = pad_packed_sequence(packed)
    else:
        output, final = module(x, state, lengths)
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
    s = case.sizes
    layers = TORCH_LAYERS[case.network.cell](s.I, s.H, s.L, bidirectional=s.D == 2)
    ours = {name: ours_name(name) for name in layers.state_dict()}
    results = layers_by_autograd(case, layers, {name: case.parameters[own] for name, own in ours.items()}, dtype)
    return {f"d.{ours[name[2:]]}" if name[2:] in ours else name: value for name, value in results.items()}


def model_by_autograd(case: Case, network: LanguageModelTwin, dtype: torch.dtype, backend: str) -> Arrays:
    """The results of a whole language model: its own loss if the case has targets, else the given cotangent."""
    s, twin = case.sizes, network.recurrent
    options: dict[str, Any] = {"embedding_size": s.I if "embedding.weight" in case.parameters else None}
    options |= {"hidden_size": s.H, "num_layers": s.L, "backend": backend}
    options |= {name: getattr(twin, name) for name in ("cell", "activation", "gate_activation")}
    options |= {"tied": "head.weight" not in case.parameters, "attention_span": network.attention_span}
    model = LanguageModel(s.V, **options)
    if masks := masks_of(case.inputs):
        model.recurrent.dropout = GivenMasks(masks)
    given = {name: torch.tensor(value) for name, value in case.parameters.items()}
    model.to(dtype).load_state_dict({"head.weight": given.get("embedding.weight"), **given})
    initial, d_final = leaves(case, "initial.", dtype), tensors(case.cotangents, "d.final.", dtype)
    *state, memory = initial.values() if network.attention_span else (*initial.values(), None)
    logits, final = model(torch.tensor(case.inputs["tokens"]), state if memory is None else (state, memory))
    results: dict[str, Any] = {"logits": logits}
    if isinstance(final, AttentiveState):
        results["final.memory"] = final.memory
        final = final.recurrent
    results |= {f"final.{part}": value for part, value in final._asdict().items()}
    roots, cotangents = list(final), list(d_final.values())
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


def classifier_by_autograd(case: Case, network: ClassifierTwin, dtype: torch.dtype, backend: str) -> Arrays:
    """The results of a classifier, for a given cotangent of its logits."""
    s, classes = case.sizes, len(case.parameters["head.bias"])
    options: dict[str, Any] = {"pooling": "additive" if "attention.inner.weight" in case.parameters else "dot"}
    options |= {
        "cell": network.recurrent.cell,
        "backend": backend,
        "embedding_size": s.I,
        "hidden_size": s.H,
        "num_layers": s.L,
    }
    model = Classifier(s.V, classes, **options)
    if masks := masks_of(case.inputs):
        model.dropout = model.recurrent.dropout = GivenMasks(masks)
    model.to(dtype).load_state_dict({name: torch.tensor(value) for name, value in case.parameters.items()})
    logits, weights = model(torch.tensor(case.inputs["tokens"]), torch.tensor(case.inputs["lengths"]))
    logits.backward(torch.tensor(case.cotangents["d.logits"], dtype=dtype))
    return arrays({"logits": logits, "weights": weights} | gradients_of(model))


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
    return {name: value.detach().double().cpu().numpy() for name, value in results.items()}


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


class RecordedMasks(Dropout):
    """Dropout that remembers what it multiplied by."""

    def __init__(self, like: Dropout) -> None:
        super().__init__(like.p, like.per)
        self.masks: list[Array] = []

    def mask(self, x: Tensor) -> Tensor:
        drawn = super().mask(x)
        self.masks.append(drawn.numpy())
        return drawn


def from_config(config: str, path: str | None) -> tuple[Trained, LightningDataModule]:
    """The model and the data of a file that train.py takes. Raises ArgumentError, ValueError or OSError as it does."""
    task = TASKS[chosen(["--config", config])]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_argument("--task", type=str)
    parser.add_argument("--seed_everything", type=int, default=0)
    parser.add_argument("--trainer", type=dict[str, Any])
    parser.add_class_arguments(task.model, "model", skip=set(task.linked))
    parser.add_class_arguments(task.data, "data")
    options = parser.parse_args(["--config", config, *(["--data.path", path] if path else [])])
    data = task.data(**options.data)
    torch.manual_seed(options.seed_everything)
    linked = {name: getattr(data, name) for name in task.linked}
    return task.model(**linked, **options.model).double(), data


def pairs(model: Trained, batch: Any) -> list[Pair]:
    """Forward and back over one batch, in float64, as in training: from a state of zeros, with dropout if there is any.

    `allowed` is the usual yardstick n u of n roundings one after the other, on the longest way through the batch: no
    proven bound, which at such sizes nobody has; those are proven by the tests, of the same code, at small ones.
    """
    assert isinstance(model, LanguageModel | Classifier)
    dropout = RecordedMasks(model.recurrent.dropout)
    model.recurrent.dropout = dropout
    p = {name: value.detach().numpy() for name, value in model.named_parameters()}
    logits, loss, by_hand, loss_by_hand, gradients = (
        classifier_pair(model, batch, dropout, p)
        if isinstance(model, Classifier)
        else language_model_pair(model, batch, dropout, p)
    )
    loss.backward()
    layers, (T, B) = model.recurrent.layers(), batch.tokens.shape
    steps = len(layers) * T * sum(layers[0][0].weight_hh.shape)
    allowed = (steps + p["head.bias"].size + T * B + T * layers[0][0].hidden_size) * 2.0**-53
    found = [Pair("logits", by_hand, logits.detach().numpy(), allowed)]
    found.append(Pair("loss", np.asarray(loss_by_hand), loss.detach().numpy(), allowed))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        found.append(Pair(f"d.{name}", gradients[name], parameter.grad.numpy(), allowed))
    return found


Both = tuple[Tensor, Tensor, Array, Array, Arrays]  # logits and loss; the same by hand, and gradients


def layers_of(model: Trained) -> RecurrentTwin:
    options = model.hparams
    functions = (options.get("activation", "tanh"), options.get("gate_activation", "sigmoid"))
    return RecurrentTwin(options["cell"], options["num_layers"], *functions, isinstance(model, Classifier))


def language_model_pair(model: LanguageModel, batch: Any, dropout: RecordedMasks, p: Arrays) -> Both:
    inputs, targets = batch.tokens[:-1], batch.tokens[1:]
    options, twin = model.hparams, LanguageModelTwin(layers_of(model), model.hparams["loss"])
    twin = replace(twin, attention_span=options["attention_span"])
    logits, _ = model(inputs)
    last = slice(-1 if options["loss"] == "last" else 0, None)
    loss = F.cross_entropy(logits[last].flatten(0, 1), targets[last].flatten())
    by_hand, trace = twin.forward(p, inputs.numpy(), masks=dropout.masks)
    loss_by_hand, d_logits = per_step_cross_entropy(by_hand, targets.numpy(), options["loss"])
    return logits, loss, by_hand, loss_by_hand, twin.backward(p, d_logits, trace).parameters


def classifier_pair(model: Classifier, batch: Any, dropout: RecordedMasks, p: Arrays) -> Both:
    model.dropout = dropout
    twin, smoothing = ClassifierTwin(layers_of(model)), model.hparams["label_smoothing"]
    logits, _ = model(batch.tokens, batch.lengths)
    loss = F.cross_entropy(logits, batch.labels, model.class_weights, label_smoothing=smoothing)
    weights = np.ones(logits.shape[1]) if model.class_weights is None else model.class_weights.numpy()
    by_hand, _, trace = twin.forward(p, batch.tokens.numpy(), batch.lengths.numpy(), dropout.masks)
    loss_by_hand, d_logits = weighted_cross_entropy(by_hand, batch.labels.numpy(), weights, smoothing)
    return logits, loss, by_hand, loss_by_hand, twin.backward(p, d_logits, trace)
