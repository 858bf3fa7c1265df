"""Cases with random real numbers, where both rooms round: for the tiers that bound the difference."""

import numpy as np

from bptt.cells import CELLS
from bptt.layers import Recurrent
from bptt.networks import LanguageModel
from bptt.verify.cases import Arrays, Case, Sizes


def random_parameters(rng: np.random.Generator, cell: str, s: Sizes) -> Arrays:
    rows = len(CELLS[cell].gates) * s.H
    parameters: Arrays = {}
    for layer in range(s.L):
        parameters |= {
            f"cells.{layer}.weight_ih": rng.normal(size=(rows, s.H if layer else s.I)),
            f"cells.{layer}.weight_hh": rng.normal(size=(rows, s.H)) / np.sqrt(s.H),
            f"cells.{layer}.bias_ih": rng.normal(size=rows),
            f"cells.{layer}.bias_hh": rng.normal(size=rows),
        }
    return parameters


def random_state(rng: np.random.Generator, cell: str, s: Sizes, prefix: str) -> Arrays:
    return {prefix + part: rng.normal(size=(s.L, s.B, s.H)) for part in CELLS[cell].state._fields}


def random_layers(cell: str, s: Sizes, seed: int = 0, activation: str = "tanh") -> Case:
    rng = np.random.default_rng(seed)
    inputs = {"x": rng.normal(size=(s.T, s.B, s.I))} | random_state(rng, cell, s, "initial.")
    cotangents = {"d.output": rng.normal(size=(s.T, s.B, s.H))} | random_state(rng, cell, s, "d.final.")
    network = Recurrent(cell, s.L, activation)
    return Case(f"{cell}-{activation}-{s}-seed{seed}", network, s, inputs, random_parameters(rng, cell, s), cotangents)


def random_model(cell: str, s: Sizes, seed: int = 0, loss: str = "every", one_hot: bool = False) -> Case:
    rng = np.random.default_rng(seed)
    inputs = {name: rng.integers(0, s.V, (s.T, s.B)) for name in ("tokens", "targets")}
    parameters = random_parameters(rng, cell, Sizes(s.T, s.B, s.V, s.H, s.L) if one_hot else s)
    parameters = {f"recurrent.{name}": value for name, value in parameters.items()}
    parameters |= {"head.weight": rng.normal(size=(s.V, s.H)), "head.bias": rng.normal(size=s.V)}
    if not one_hot:
        parameters["embedding.weight"] = rng.normal(size=(s.V, s.I))
    network = LanguageModel(Recurrent(cell, s.L), loss)
    cotangents = random_state(rng, cell, s, "d.final.")
    name = f"{cell}-model-{loss}{'-onehot' * one_hot}-{s}-seed{seed}"
    return Case(name, network, s, inputs | random_state(rng, cell, s, "initial."), parameters, cotangents)
