"""Cases with random real numbers, where both rooms round: for the tiers that bound the difference."""

import numpy as np

from bptt.cells import CELLS
from bptt.layers import Recurrent
from bptt.networks import Classifier, LanguageModel
from bptt.verify.cases import Arrays, Case, Sizes, prefixes, uneven


def random_parameters(rng: np.random.Generator, cell: str, s: Sizes) -> Arrays:
    rows = len(CELLS[cell].gates) * s.H
    parameters: Arrays = {}
    for place, prefix in enumerate(prefixes(s)):
        parameters |= {
            f"{prefix}weight_ih": rng.normal(size=(rows, s.inputs_of(place // s.D))),
            f"{prefix}weight_hh": rng.normal(size=(rows, s.H)) / np.sqrt(s.H),
            f"{prefix}bias_ih": rng.normal(size=rows),
            f"{prefix}bias_hh": rng.normal(size=rows),
        }
    return parameters


def random_state(rng: np.random.Generator, cell: str, s: Sizes, prefix: str) -> Arrays:
    return {prefix + part: rng.normal(size=(s.L * s.D, s.B, s.H)) for part in CELLS[cell].state._fields}


def random_layers(
    cell: str, s: Sizes, seed: int = 0, activation: str = "tanh", ragged: bool = False, dropout: bool = False
) -> Case:
    rng = np.random.default_rng(seed)
    inputs = {"x": rng.normal(size=(s.T, s.B, s.I))} | random_state(rng, cell, s, "initial.")
    cotangents = {"d.output": rng.normal(size=(s.T, s.B, s.D * s.H))} | random_state(rng, cell, s, "d.final.")
    network, parameters = Recurrent(cell, s.L, activation, bidirectional=s.D == 2), random_parameters(rng, cell, s)
    inputs |= uneven(rng, s, ragged, dropout, s.L - 1)
    return Case(f"{cell}-{activation}-{s}-seed{seed}", network, s, inputs, parameters, cotangents)


def random_model(
    cell: str,
    s: Sizes,
    seed: int = 0,
    loss: str = "every",
    one_hot: bool = False,
    tied: bool = False,
    dropout: bool = False,
    attention_span: int = 0,
) -> Case:
    rng = np.random.default_rng(seed)
    inputs: Arrays = {name: rng.integers(0, s.V, (s.T, s.B)) for name in ("tokens", "targets")}
    parameters = random_parameters(rng, cell, Sizes(s.T, s.B, s.V, s.H, s.L) if one_hot else s)
    parameters = {f"recurrent.{name}": value for name, value in parameters.items()}
    parameters |= {"head.weight": rng.normal(size=(s.V, s.H)), "head.bias": rng.normal(size=s.V)}
    if not one_hot:
        parameters["embedding.weight"] = rng.normal(size=(s.V, s.I))
    network = LanguageModel(Recurrent(cell, s.L), loss, attention_span)
    cotangents = random_state(rng, cell, s, "d.final.")
    name = f"{cell}-model-{loss}{'-onehot' * one_hot}-{s}-seed{seed}"
    inputs |= random_state(rng, cell, s, "initial.") | uneven(rng, s, False, dropout, s.L)
    if tied:
        del parameters["head.weight"]
    if attention_span:
        inputs["initial.memory"] = rng.normal(size=(attention_span - 1, s.B, s.H))
        for part in ("query", "key", "value"):
            parameters[f"attention.{part}.weight"] = rng.normal(size=(s.H, s.H))
            if part != "key":
                parameters[f"attention.{part}.bias"] = rng.normal(size=s.H)
    return Case(name, network, s, inputs, parameters, cotangents)


def random_classifier(cell: str, s: Sizes, seed: int = 0, pooling: str = "additive", dropout: bool = False) -> Case:
    """V symbols, three classes; masks are those of the embedded input, between layers, and of the pooled state."""
    rng, classes, width = np.random.default_rng(seed), 3, s.D * s.H
    parameters = {f"recurrent.{name}": value for name, value in random_parameters(rng, cell, s).items()}
    parameters |= {"embedding.weight": rng.normal(size=(s.V, s.I)), "attention.vector": rng.normal(size=width)}
    parameters |= {"head.weight": rng.normal(size=(classes, width)), "head.bias": rng.normal(size=classes)}
    if pooling == "additive":
        parameters["attention.inner.weight"] = rng.normal(size=(width, width))
        parameters["attention.inner.bias"] = rng.normal(size=width)
    inputs: Arrays = {"tokens": rng.integers(0, s.V, (s.T, s.B))} | uneven(rng, s, True, False, 0)
    if dropout:
        shapes = [(s.T, s.B, s.I), *[(s.T, s.B, width)] * (s.L - 1), (s.B, width)]
        inputs |= {f"mask.{place}": rng.choice([0.0, 2.0], shape) for place, shape in enumerate(shapes)}
    network = Classifier(Recurrent(cell, s.L, bidirectional=s.D == 2))
    cotangents = {"d.logits": rng.normal(size=(s.B, classes))}
    return Case(f"{cell}-classifier-{pooling}-{s}-seed{seed}", network, s, inputs, parameters, cotangents)
