"""How far rounding can take the results of a whole sequence: every local error, carried to each result by Jacobians.

Let s_t be the exact states and ŝ_t the computed ones. A computed step is the exact step F from the computed state, and
a local error η_t, which `Bounded` numbers bound. With ρ_t for Taylor's remainder, which they bound too,

    ŝ_t − s_t = F(ŝ_{t−1}) − F(s_{t−1}) + η_t = F′(s_{t−1}) (ŝ_{t−1} − s_{t−1}) + ρ_t + η_t,

which is linear in the sources η_t + ρ_t. The same holds for a step back, a function of the state and of what comes
back, and between two layers. So any result v is off by Σ_k (∂v/∂k) (η_k + ρ_k) over all sources k, which is at most
Σ_k |∂v/∂k| e_k: Jacobians are multiplied first, and absolute values are taken last. For the states, that sum over the
sources known so far is the radius that the next remainder needs.

∂v/∂k is read off a complex step: the whole network, forward and back, once for each source, with i·10⁻²⁰⁰ added to it.
What that rounds is u times e_k, a term of the second order that the sums of `Bounded` numbers, being upper bounds of
upper bounds, hold many times over.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from bptt.arithmetic import Array
from bptt.cells import CELLS
from bptt.layers import LayerTrace, Recurrent, of_layer, parameter_gradients
from bptt.verify.bounds import Bounded, bounded, errors, infinite_where_none
from bptt.verify.cases import Arrays, Case, state_of

MOVE = 1e-200j
AT_ONCE = 256  # sources moved in one batch, each in a member of its own
HandOn = Callable[[str, int, int, Any], Any]


class Layer(NamedTuple):
    """What one layer computes on its way forward and back: axes T, the parts of a state if there are any, B, units."""

    x: Array
    h_before: Array
    state: Array
    d_prev: Array
    d_x_part: Array
    d_h_part: Array
    d_x: Array


def walk(case: Case, given: Arrays, hand_on: HandOn) -> list[Layer]:
    """The network forward and back, step by step. What a step hands on passes through `hand_on(what, layer, t, it)`."""
    network, s = layers_of(case), case.sizes
    cell, act, T = CELLS[network.cell], network.activations(), range(case.sizes.T)
    x, d_output = given["x"], given["d.output"]
    forward: list[tuple[Array, Array, Array, list[Any]]] = []
    found: list[Layer] = []
    for layer in range(s.L):
        p, state = network.parameters_of(layer, given), of_layer(state_of(network, given, "initial."), layer)
        before, states, saved = [], [], []
        for t, x_part in zip(T, x @ p["weight_ih"].T + p["bias_ih"], strict=True):
            before.append(state.h)
            after, of_step = cell.step(x_part, state, p, act)
            state = cell.state(*hand_on("state", layer, t, after))
            states.append(state)
            saved.append(of_step)
        forward.append((x, np.stack(before), np.stack(states), saved))
        x = forward[-1][2][:, 0]  # h is the first part of every state
    for layer in reversed(range(s.L)):
        p, d_state = network.parameters_of(layer, given), of_layer(state_of(network, given, "d.final."), layer)
        back: list[tuple[Array, ...]] = []
        for t in reversed(T):
            d_state = d_state._replace(h=d_state.h + d_output[t])
            d_x_part, d_h_part, d_prev = cell.step_backward(d_state, forward[layer][3][t], p, act)
            d_state = cell.state(*hand_on("d_prev", layer, t, d_prev))
            deltas = (hand_on(what, layer, t, d) for what, d in (("d_x_part", d_x_part), ("d_h_part", d_h_part)))
            back.insert(0, (np.stack(d_state), *deltas))
        d_prev, d_x_part, d_h_part = (np.stack(of) for of in zip(*back, strict=True))
        d_x = d_x_part @ p["weight_ih"]
        d_output = np.stack([hand_on("d_x", layer, t, d_x[t]) for t in T])
        found.insert(0, Layer(*forward[layer][:3], d_prev, d_x_part, d_h_part, d_output))
    return found


def layers_of(case: Case) -> Recurrent:
    if not isinstance(case.network, Recurrent):
        raise TypeError(f"{case}: bounds over time are for layers, not for whole models")
    return case.network


def of_member(case: Case, member: int) -> Arrays:
    """What goes into a case, of one sequence of its batch alone, which stays an axis of one."""
    given = {name: value[..., member : member + 1, :] for name, value in (case.inputs | case.cotangents).items()}
    return given | case.parameters


class Sources:
    """Where errors enter, numbered: what each step hands on to the next one, back to the last one, and down."""

    def __init__(self, case: Case) -> None:
        s, parts = case.sizes, len(CELLS[layers_of(case).cell].state._fields)
        many = s.L * s.T * parts * s.H
        state = np.arange(many).reshape(s.L, s.T, parts, s.H)
        down = np.arange(s.L * s.T * s.H).reshape(s.L, s.T, s.H)  # the first layer has nobody below: it does not count
        self.numbers = {"state": state, "d_prev": many + state, "d_x": 2 * many - s.T * s.H + down}
        self.count = 2 * many + (s.L - 1) * s.T * s.H

    def are(self, what: str, layer: int) -> bool:
        return what in self.numbers and (what != "d_x" or layer > 0)


class Jacobians(NamedTuple):
    """∂ each quantity / ∂ each source, the last axis, by layer."""

    layers: list[dict[str, Array]]  # as in `Layer`, without the batch
    parameters: list[Arrays]


def jacobians(case: Case, member: int, sources: Sources) -> Jacobians:
    blocks = [np.arange(start, min(start + AT_ONCE, sources.count)) for start in range(0, sources.count, AT_ONCE)]
    runs = [moved(case, member, sources, block) for block in blocks]
    return Jacobians(*([joined(of_layer) for of_layer in zip(*of, strict=True)] for of in zip(*runs, strict=True)))


def joined(blocks: tuple[Arrays, ...]) -> Arrays:
    return {name: np.concatenate([block[name] for block in blocks], axis=-1) for name in blocks[0]}


def moved(case: Case, member: int, sources: Sources, block: Array) -> tuple[list[Arrays], list[Arrays]]:
    """One sequence as a batch in which each member has one source moved by i·10⁻²⁰⁰: all imaginary parts, over that."""

    def hand_on(what: str, layer: int, t: int, it: Any) -> Any:
        if not sources.are(what, layer):
            return it
        move = MOVE * (block[:, np.newaxis] == sources.numbers[what][layer, t][..., np.newaxis, :])  # (…, members, H)
        return np.stack(it) + move if isinstance(it, tuple) else it + move

    given = {
        name: value if name in case.parameters else np.repeat(value, len(block), axis=-2).astype(complex)
        for name, value in of_member(case, member).items()
    }
    layers = walk(case, given, hand_on)
    quantities = [{name: np.moveaxis(slopes(value), -2, -1) for name, value in of._asdict().items()} for of in layers]
    return quantities, [
        {
            "weight_ih": slopes(np.einsum("tkg,tki->gik", of.d_x_part, of.x)),
            "weight_hh": slopes(np.einsum("tkg,tkh->ghk", of.d_h_part, of.h_before)),
            "bias_ih": slopes(of.d_x_part).sum(0).T,
            "bias_hh": slopes(of.d_h_part).sum(0).T,
        }
        for of in layers
    ]


def slopes(array: Array) -> Array:
    return np.imag(array) / MOVE.imag


class OneSequence(NamedTuple):
    """A walk in `Bounded` numbers, what its radii came from, and the bound of every source."""

    layers: list[Layer]
    jacobians: Jacobians
    bounds: Array  # of the sources

    def radius(self, jacobian: Array) -> Array:
        return infinite_where_none(np.abs(jacobian) @ self.bounds)


def bounded_walk(case: Case, member: int, kind: type[Bounded]) -> OneSequence:
    sources = Sources(case)
    found = OneSequence([], jacobians(case, member, sources), np.zeros(sources.count))

    def hand_on(what: str, layer: int, t: int, it: Any) -> Any:
        array = np.stack(it) if isinstance(it, tuple) else it  # (parts, 1, H) or (1, ·)
        own = errors(array)
        if sources.are(what, layer):  # from here on its error counts as that of a source
            found.bounds[sources.numbers[what][layer, t]] = own[..., 0, :]
            own = np.zeros_like(own)
        radius = found.radius(found.jacobians.layers[layer][what][t])[..., np.newaxis, :]
        return bounded(array, kind, own, radius)

    convert = {name: bounded(value, kind) for name, value in of_member(case, member).items()}
    found.layers.extend(walk(case, convert, hand_on))
    return found


@np.errstate(invalid="ignore", over="ignore")  # a bound may grow beyond all numbers
def sequence_bounds(case: Case, kind: type[Bounded] = Bounded) -> Arrays:
    """For every result of `by_hand(case)` and the δ of each step: how far one that rounds as `kind` does may be off."""
    s, parts = case.sizes, CELLS[layers_of(case).cell].state._fields
    walks = [bounded_walk(case, member, kind) for member in range(s.B)]
    layers = [
        Layer(*(np.concatenate(each, axis=-2) for each in zip(*(one.layers[layer] for one in walks), strict=True)))
        for layer in range(s.L)
    ]
    found = {"output": radii(layers[-1].state[:, 0]), "d.x": radii(layers[0].d_x) + errors(layers[0].d_x)}
    for i, part in enumerate(parts):
        found[f"final.{part}"] = np.stack([radii(of.state[-1, i]) for of in layers])
        found[f"d.initial.{part}"] = np.stack([radii(of.d_prev[0, i]) for of in layers])
    for layer, of in enumerate(layers):
        local = parameter_gradients(of.d_x_part, of.d_h_part, LayerTrace(of.x, of.h_before, []))
        for name, value in local.items():
            carried = sum(one.radius(one.jacobians.parameters[layer][name]) for one in walks)
            found[f"d.cells.{layer}.{name}"] = errors(value) + carried
        for name, part in (("x_part", of.d_x_part), ("h_part", of.d_h_part)):
            found[f"d.layer.{layer}.{name}"] = radii(part) + errors(part)
    return found


def radii(array: Array) -> Array:
    """The radii in an object array, as float64."""
    return np.asarray(np.frompyfunc(lambda number: number.radius, 1, 1)(array), np.float64)
