"""Cases whose gradients floating point computes without rounding: any correct implementation gives the very same bits.

Each case is drawn from a seed, run in exact arithmetic, and kept only if that run certifies that no intermediate result
needs more bits than the format has. Two families:

* `piecewise_linear`: hard gates, small integers, sparse recurrent weights, so that significands grow slowly.
* `exact_points`: the smooth cells as users train them. σ(0) = ½, tanh(0) = 0, and both are 0 or ±1 far out. Some
  sources are silent (always zero): their weights may be anything, and gradients flow back through them. The others only
  ever throw a gate far out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bptt.arithmetic import Array
from bptt.cells import CELLS
from bptt.layers import LayerTrace, Recurrent
from bptt.losses import per_step_cross_entropy
from bptt.networks import AttentiveState, Classifier, LanguageModel, Trace
from bptt.verify.dyadic import bits_needed, dyadic, floats

Arrays = dict[str, Array]
FAR = 2.0**10  # a gate pushed so far is open or shut for good
SMALL = [-2.0, -1.0, 1.0, 2.0]
TRIES = 60


@dataclass(frozen=True)
class Sizes:
    """T steps, B batch, I inputs, H hidden units, L layers; V symbols of a whole model; D directions."""

    T: int = 4
    B: int = 2
    I: int = 3
    H: int = 5
    L: int = 1
    V: int = 7
    D: int = 1

    def __str__(self) -> str:
        return f"T{self.T}-B{self.B}-I{self.I}-H{self.H}-L{self.L}" + f"-D{self.D}" * (self.D > 1)

    def inputs_of(self, layer: int) -> int:
        return self.D * self.H if layer else self.I


@dataclass(frozen=True)
class Case:
    """A recurrent stack or a whole model: everything that goes in, and the exact truth of everything that comes out.

    Inputs of a stack are `x`, `initial.h`, `initial.c` and the parameters, cotangents `d.output`, `d.final.h`,
    `d.final.c`. There may be `lengths`, and dropout masks `mask.0` … of each layer's output. A model reads `tokens`
    instead of x, and has `targets` for its own loss, or a cotangent `d.logits`; with attention an `initial.memory`. A
    classifier reads `tokens` and `lengths`, and has a cotangent `d.logits`.
    Results are named `output` or `logits`, `loss`, `final.h`, …; gradients `d.` and the name of the input.
    """

    name: str
    network: Recurrent | LanguageModel | Classifier
    sizes: Sizes
    inputs: Arrays
    parameters: Arrays
    cotangents: Arrays
    truth: Arrays = field(default_factory=dict)
    bits: int = 0  # the significand that the exact run found sufficient

    def __str__(self) -> str:
        return self.name


def state_of(network: Recurrent, arrays: Arrays, prefix: str) -> Any:
    state = CELLS[network.cell].state
    return state(*(arrays[prefix + part] for part in state._fields))


def parts_of(state: Any, prefix: str) -> Arrays:
    return {prefix + part: array for part, array in state._asdict().items()}


def masks_of(arrays: Arrays) -> list[Array]:
    return [arrays[name] for name in sorted(arrays) if name.startswith("mask.")]


def layers_forward(network: Recurrent, arrays: Arrays) -> tuple[Array, Any, list[LayerTrace]]:
    """The forward pass of a stack on a case's inputs and parameters, in whatever arithmetic they are."""
    state = state_of(network, arrays, "initial.")
    return network.forward(arrays, arrays["x"], state, arrays.get("lengths"), masks_of(arrays))


def model_forward(network: LanguageModel, arrays: Arrays) -> tuple[Array, Trace]:
    state = state_of(network.recurrent, arrays, "initial.")
    state = AttentiveState(state, arrays["initial.memory"]) if network.attention_span else state
    return network.forward(arrays, arrays["tokens"], state, masks_of(arrays))


def by_hand(case: Case, convert: Callable[[Array], Array]) -> Arrays:
    """All results of a case by manual BPTT, in the arithmetic that `convert` takes the inputs to."""
    p, d = ({k: convert(v) for k, v in arrays.items()} for arrays in (case.parameters, case.cotangents))
    inputs = {k: v if v.dtype.kind == "i" else convert(v) for k, v in case.inputs.items()}
    if isinstance(case.network, LanguageModel):
        return model_by_hand(case.network, inputs, p, d)
    if isinstance(case.network, Classifier):
        return classifier_by_hand(case.network, inputs, p, d)
    output, final, traces = layers_forward(case.network, inputs | p)
    gradients = case.network.backward(p, d["d.output"], state_of(case.network, d, "d.final."), traces)
    results = {"output": output, **parts_of(final, "final."), "d.x": gradients.x}
    results |= parts_of(gradients.initial_state, "d.initial.")
    return results | {f"d.{name}": gradient for name, gradient in gradients.parameters.items()}


def model_by_hand(network: LanguageModel, inputs: Arrays, p: Arrays, d: Arrays) -> Arrays:
    logits, trace = model_forward(network, inputs | p)
    final = trace.final_state.recurrent if network.attention_span else trace.final_state
    results = {"logits": logits, **parts_of(final, "final.")}
    if "targets" in inputs:
        loss, d_logits = per_step_cross_entropy(logits, inputs["targets"], network.loss)
        results["loss"] = np.asarray(loss)
    else:
        d_logits = d["d.logits"]
    gradients = network.backward(p, d_logits, trace, state_of(network.recurrent, d, "d.final."))
    results |= parts_of(gradients.recurrent.initial_state, "d.initial.")
    if gradients.memory is not None:
        results |= {"final.memory": trace.final_state.memory, "d.initial.memory": gradients.memory}
    return results | {f"d.{name}": gradient for name, gradient in gradients.parameters.items()}


def classifier_by_hand(network: Classifier, inputs: Arrays, p: Arrays, d: Arrays) -> Arrays:
    logits, weights, trace = network.forward(p, inputs["tokens"], inputs["lengths"], masks_of(inputs))
    gradients = network.backward(p, d["d.logits"], trace)
    return {"logits": logits, "weights": weights} | {f"d.{name}": gradient for name, gradient in gradients.items()}


def certified(draw: Callable[[np.random.Generator], Case], seed: int, bits: int) -> Case:
    """The first case drawn that is exact within so many bits and leaves no parameter without gradient, with its truth.

    Where sizes are too small for that, the first that is exact. Raises ArithmeticError if none is.
    """
    fallback = None
    for attempt in range(TRIES):
        case = draw(np.random.default_rng([seed, attempt]))
        try:
            results = by_hand(case, dyadic)
        except (ArithmeticError, SystemError):  # too many bits, or a smooth activation between its exact points;
            continue  # SystemError where NumPy's product of objects goes on after such an error
        needed = bits_needed(*results.values())
        if needed > bits:
            continue
        truth = {name: floats(result) for name, result in results.items()}
        case = Case(**{**vars(case), "truth": truth, "bits": needed})
        if all(truth[f"d.{name}"].any() for name in case.parameters):
            return case
        fallback = fallback or case
    if fallback is None:
        raise ArithmeticError(f"none of {TRIES} cases is exact within {bits} bits: draw smaller or sparser ones")
    return fallback


def sparse(rng: np.random.Generator, shape: tuple[int, ...], values: list[float], density: float = 1.0) -> Array:
    return rng.choice(values, shape) * (rng.random(shape) < density)


def cotangents(rng: np.random.Generator, network: Recurrent, output: str, shape: tuple[int, ...], s: Sizes) -> Arrays:
    """Uneven, at every output and at every part of the final state."""
    states = s.L * s.D, s.B, s.H
    final = {f"d.final.{part}": sparse(rng, states, SMALL) for part in CELLS[network.cell].state._fields}
    return {output: sparse(rng, shape, SMALL, 0.8), **final}


def uneven(rng: np.random.Generator, s: Sizes, ragged: bool, dropout: bool, masks: int) -> Arrays:
    """Lengths, full and 1 among them, and masks that drop half of what each layer gives."""
    found: Arrays = {}
    if ragged:
        found["lengths"] = rng.permutation(np.append(rng.integers(1, s.T + 1, s.B), [1, s.T])[-s.B :])
    if dropout:
        found |= {f"mask.{layer}": rng.choice([0.0, 2.0], (s.T, s.B, s.D * s.H)) for layer in range(masks)}
    return found


def piecewise_linear(
    cell: str,
    s: Sizes,
    seed: int,
    bits: int = 53,
    activation: str = "hard_tanh",
    density: float = 0.4,
    ragged: bool = False,
    dropout: bool = False,
) -> Case:
    """Hard gates and the given activation; recurrent weights are kept with half the density of the others."""
    network = Recurrent(cell, s.L, activation, "hard_sigmoid", s.D == 2)
    name = f"{cell}-{activation}-{s}-{bits}bits-seed{seed}" + "-ragged" * ragged + "-dropout" * dropout

    def draw(rng: np.random.Generator) -> Case:
        inputs = {"x": sparse(rng, (s.T, s.B, s.I), [-1.0, 1.0], 0.8)} | any_state(rng, cell, s)
        parameters = piecewise_linear_parameters(rng, cell, s, density)
        d = cotangents(rng, network, "d.output", (s.T, s.B, s.D * s.H), s)
        return Case(name, network, s, inputs | uneven(rng, s, ragged, dropout, s.L - 1), parameters, d)

    return certified(draw, seed, bits)


def piecewise_linear_model(
    cell: str,
    s: Sizes,
    seed: int,
    bits: int = 53,
    loss: str = "every",
    density: float = 0.3,
    tied: bool = False,
    dropout: bool = False,
    attention_span: int = 0,
) -> Case:
    """A whole language model with hard gates; its loss is a weighted sum of logits, of every step or of the last.

    Attention is exact where all scores are 0 and each step sees the same number of states, a power of two; H must be a
    power of four.
    """
    network = LanguageModel(Recurrent(cell, s.L, "hard_tanh", "hard_sigmoid"), loss, attention_span)
    options = "-tied" * tied + "-dropout" * dropout + f"-attention{attention_span}" * (attention_span > 0)
    name = f"{cell}-hard-model-{loss}-{s}-{bits}bits-seed{seed}{options}"

    def draw(rng: np.random.Generator) -> Case:
        inputs = {"tokens": rng.integers(0, s.V, (s.T, s.B))} | any_state(rng, cell, s)
        parameters = in_model(piecewise_linear_parameters(rng, cell, s, density))
        parameters |= {
            "embedding.weight": sparse(rng, (s.V, s.I), [-1.0, 1.0], 0.8),
            "head.weight": sparse(rng, (s.V, s.H), SMALL, 0.5),
            "head.bias": sparse(rng, (s.V,), SMALL),
        }
        if tied:
            del parameters["head.weight"]
        d = cotangents(rng, network.recurrent, "d.logits", (s.T, s.B, s.V), s)
        if loss == "last":
            d["d.logits"][:-1] = 0
        inputs |= uneven(rng, s, False, dropout, s.L)
        if attention_span:
            silent = rng.permutation(s.H) < s.H // 2
            inputs["initial.memory"] = sparse(rng, (attention_span - 1, s.B, s.H), [-1.0, 1.0], 0.8) * ~silent
            silence(network.recurrent, s, silent, inputs, parameters)
            parameters |= {f"attention.{name}": value for name, value in indifferent_attention(rng, silent).items()}
        return Case(name, network, s, inputs, parameters, d)

    return certified(draw, seed, bits)


def silence(network: Recurrent, s: Sizes, silent: Array, inputs: Arrays, parameters: Arrays) -> None:
    """Makes units of the last layer always zero: nothing is ever proposed to them."""
    gates = CELLS[network.cell].gates
    proposing = next(gates.index(gate) for gate in ("h", "n", "g") if gate in gates) * s.H
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        parameters[f"recurrent.cells.{s.L - 1}.{name}"][proposing : proposing + s.H][silent] = 0
    for part in CELLS[network.cell].state._fields:
        inputs[f"initial.{part}"][-1][:, silent] = 0


def indifferent_attention(rng: np.random.Generator, silent: Array) -> Arrays:
    """Units that speak bear on the first half of the queries and the second of the keys, so that every product is 0;
    silent ones have weights everywhere, through which gradients flow."""
    H = len(silent)
    first, everywhere = np.arange(H) < H // 2, np.full(H, True)
    found: Arrays = {}
    for name, rows in (("query", first), ("key", ~first), ("value", everywhere)):
        found[f"{name}.weight"] = sparse(rng, (H, H), SMALL, 0.5) * (rows[:, np.newaxis] | silent)
        if name != "key":
            found[f"{name}.bias"] = sparse(rng, (H,), SMALL) * rows
    return found


def any_state(rng: np.random.Generator, cell: str, s: Sizes) -> Arrays:
    values = [-1.0, -0.5, 0.5, 1.0]
    return {f"initial.{part}": sparse(rng, (s.L * s.D, s.B, s.H), values) for part in CELLS[cell].state._fields}


def piecewise_linear_parameters(rng: np.random.Generator, cell: str, s: Sizes, density: float) -> Arrays:
    rows = len(CELLS[cell].gates) * s.H
    parameters: Arrays = {}
    for place, prefix in enumerate(prefixes(s)):
        parameters |= {
            f"{prefix}weight_ih": sparse(rng, (rows, s.inputs_of(place // s.D)), SMALL, density),
            f"{prefix}weight_hh": sparse(rng, (rows, s.H), SMALL, density / 2),
            f"{prefix}bias_ih": sparse(rng, (rows,), SMALL),
            f"{prefix}bias_hh": sparse(rng, (rows,), SMALL),
        }
    return parameters


def prefixes(s: Sizes) -> list[str]:
    """What the names of each layer's and direction's parameters begin with."""
    return Recurrent(num_layers=s.L, bidirectional=s.D == 2).prefixes()


def in_model(parameters: Arrays) -> Arrays:
    return {f"recurrent.{name}": value for name, value in parameters.items()}


# For each gate of a unit: where its bias may put it (0 is the middle, ±1 far out), and whether speaking sources may
# move it. A silent unit's h is always zero; a speaking one's is not.
ANY, MIDDLE, OPEN, OUT = (-1, 0, 1), (0,), (0, 1), (-1, 1)
Rules = dict[str, tuple[tuple[int, ...], bool]]
SILENT: dict[str, Rules] = {
    "rnn": {"h": (MIDDLE, False)},
    "gru": {"r": (ANY, False), "z": (ANY, True), "n": (MIDDLE, False)},
    "lstm": {"i": (ANY, True), "f": (ANY, True), "g": (MIDDLE, False), "o": (ANY, True)},
}
SPEAKING: dict[str, Rules] = {
    "rnn": {"h": (OUT, True)},
    "gru": {"r": (ANY, True), "z": (ANY, True), "n": (OUT, True)},
    "lstm": {"i": (ANY, True), "f": (OPEN, False), "g": (ANY, True), "o": (ANY, True)},
}
BIG_MEMORY = 2.0**12  # tanh of it is 1, and still is after some halvings by a half-open forget gate


def exact_points(cell: str, s: Sizes, seed: int, bits: int = 53, ragged: bool = False, dropout: bool = False) -> Case:
    """The smooth cells at points where they are exact."""
    network = Recurrent(cell, s.L, bidirectional=s.D == 2)
    name = f"{cell}-smooth-{s}-{bits}bits-seed{seed}" + "-ragged" * ragged + "-dropout" * dropout

    def draw(rng: np.random.Generator) -> Case:
        silent_x, silent_h = rng.random(s.I) < 0.5, rng.random((s.L * s.D, s.H)) < 0.6
        inputs = {"x": sparse(rng, (s.T, s.B, s.I), [-1.0, 1.0], 0.8) * ~silent_x}
        inputs |= exact_point_state(rng, cell, s, silent_h)
        parameters = exact_point_parameters(rng, cell, s, silent_x, silent_h)
        d = cotangents(rng, network, "d.output", (s.T, s.B, s.D * s.H), s)
        return Case(name, network, s, inputs | uneven(rng, s, ragged, dropout, s.L - 1), parameters, d)

    return certified(draw, seed, bits)


def exact_points_model(
    cell: str, s: Sizes, seed: int, bits: int = 53, loss: str = "every", one_hot: bool = False
) -> Case:
    """A whole language model as users train it, softmax cross entropy included: one logit is far above all others.

    The loss is a mean, so that the number of its terms must be a power of two.
    """
    network = LanguageModel(Recurrent(cell, s.L), loss)
    name = f"{cell}-smooth-model-{loss}{'-onehot' * one_hot}-{s}-{bits}bits-seed{seed}"

    def draw(rng: np.random.Generator) -> Case:
        tokens = rng.integers(0, s.V, (s.T, s.B))
        silent_h = rng.random((s.L, s.H)) < 0.6
        silent_x = ~np.isin(np.arange(s.V), tokens) if one_hot else rng.random(s.I) < 0.5
        inputs = {"tokens": tokens, "targets": rng.integers(0, s.V, (s.T, s.B))}
        inputs |= exact_point_state(rng, cell, s, silent_h)
        parameters = in_model(exact_point_parameters(rng, cell, s, silent_x, silent_h))
        parameters["head.weight"] = sparse(rng, (s.V, s.H), SMALL, 0.5)
        parameters["head.bias"] = FAR * rng.permutation(s.V)
        if not one_hot:
            parameters["embedding.weight"] = sparse(rng, (s.V, s.I), [-1.0, 1.0], 0.8) * ~silent_x
        return Case(name, network, s, inputs, parameters, cotangents(rng, network.recurrent, "unused", (0,), s))

    return certified(draw, seed, bits)


def exact_point_state(rng: np.random.Generator, cell: str, s: Sizes, silent_h: Array) -> Arrays:
    h = sparse(rng, (s.L * s.D, s.B, s.H), [-1.0, 1.0]) * ~silent_h[:, np.newaxis]
    return {"initial.h": h} | ({"initial.c": BIG_MEMORY * h} if cell == "lstm" else {})


def exact_point_parameters(rng: np.random.Generator, cell: str, s: Sizes, silent_x: Array, silent_h: Array) -> Arrays:
    """Silent_x (I) and silent_h (L·D, H) say which sources are always zero."""
    parameters: Arrays = {}
    for place, (prefix, silent) in enumerate(zip(prefixes(s), silent_h, strict=True)):
        below = place // s.D * s.D
        reads = silent_h[below - s.D : below].ravel() if below else silent_x
        parameters |= {prefix + name: value for name, value in exact_point_layer(rng, cell, reads, silent).items()}
    return parameters


def exact_point_layer(rng: np.random.Generator, cell: str, silent_x: Array, silent_h: Array) -> Arrays:
    """One layer's parameters, unit by unit by the rules above."""
    gates, units = CELLS[cell].gates, len(silent_h)
    weights_ih: list[Array] = []
    weights_hh: list[Array] = []
    biases_ih: list[float] = []
    biases_hh: list[float] = []
    for gate in gates:
        for unit in range(units):
            places, movable = (SILENT if silent_h[unit] else SPEAKING)[cell][gate]
            far = [-64 * FAR, 64 * FAR] if movable else [0.0]
            for rows, silent in ((weights_ih, silent_x), (weights_hh, silent_h)):
                rows.append(np.where(silent, sparse(rng, silent.shape, SMALL), sparse(rng, silent.shape, far, 0.3)))
            biases_hh.append(rng.choice(SMALL))
            biases_ih.append(FAR * rng.choice(places) - biases_hh[-1])
            if gate == "n":  # r ∘ b_hn + b_in is to be at its place, so b_in must cancel r ∘ b_hn, not b_hn
                reset_at = biases_ih[unit] + biases_hh[unit]
                biases_ih[-1] += biases_hh[-1] * (1 - (np.sign(reset_at) + 1) / 2)
    return {
        "weight_ih": np.stack(weights_ih),
        "weight_hh": np.stack(weights_hh),
        "bias_ih": np.array(biases_ih),
        "bias_hh": np.array(biases_hh),
    }
