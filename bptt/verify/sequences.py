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
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from bptt.arithmetic import Array
from bptt.cells import CELLS
from bptt.layers import LayerTrace, Recurrent, of_layer, parameter_gradients, time_order
from bptt.verify.bounds import Bounded, bounded, errors, infinite_where_none
from bptt.verify.cases import Arrays, Case, masks_of, state_of

MOVE = 1e-200j
AT_ONCE = 256  # sources moved in one batch, each in a member of its own
HandOn = Callable[[str, int, int, Any], Any]


class Layer(NamedTuple):
    """What one layer computes in one direction on its way forward and back: axes T, the parts of a state if there are
    any, B, units. Steps stand in the order of time in either direction, and `d_x` is what both give together."""

    x: Array
    h_before: Array
    state: Array
    d_prev: Array
    d_x_part: Array
    d_h_part: Array
    d_x: Array


def walk(case: Case, given: Arrays, hand_on: HandOn) -> list[Layer]:
    """The network forward and back, step by step, by layer and direction. What a step hands on passes through
    `hand_on(what, place, t, it)`, where the place is that of the layer's direction among the states."""
    network, x, d_output = layers_of(case), given["x"], given["d.output"]
    masks, directions = [None, *masks_of(given)] + [None] * case.sizes.L, case.sizes.D
    forward: list[Forward] = []
    found: list[Layer] = []
    for layer in range(case.sizes.L):
        mask = masks[layer]
        x = x if mask is None else x * mask
        places = range(layer * directions, (layer + 1) * directions)
        forward += [walk_forward(case, place, x, given, hand_on) for place in places]
        x = np.concatenate([forward[place].states[:, 0] for place in places], axis=-1)  # h is the first part
    for layer in reversed(range(case.sizes.L)):
        places = range(layer * directions, (layer + 1) * directions)
        d_outputs = np.split(d_output, directions, axis=-1)
        backs = [
            walk_back(case, place, d_h, forward[place], given, hand_on)
            for place, d_h in zip(places, d_outputs, strict=True)
        ]
        weights = [network.parameters_of(place, given)["weight_ih"] for place in places]
        d_x = reduce(np.add, [back.d_x_part @ weight for back, weight in zip(backs, weights, strict=True)])
        mask = masks[layer]
        d_x = d_x if mask is None else d_x * mask
        d_output = np.stack([hand_on("d_x", places[0], t, d_x[t]) for t in range(case.sizes.T)])
        found = [
            Layer(forward[place].x, forward[place].h_before, forward[place].states, *back, d_output)
            for place, back in zip(places, backs, strict=True)
        ] + found
    return found


class Forward(NamedTuple):
    """Of one layer in one direction, in the order of time."""

    x: Array
    h_before: Array
    states: Array
    saved: list[Any]


class Back(NamedTuple):
    d_prev: Array
    d_x_part: Array
    d_h_part: Array


def walk_forward(case: Case, place: int, x: Array, given: Arrays, hand_on: HandOn) -> Forward:
    network = layers_of(case)
    cell, act, p = CELLS[network.cell], network.activations(), network.parameters_of(place, given)
    x_parts, state = x @ p["weight_ih"].T + p["bias_ih"], of_layer(state_of(network, given, "initial."), place)
    forth = time_order(place, case.sizes.D)
    before, states, saved = [], [], []
    for t in forth(range(case.sizes.T)):
        before.append(state.h)
        after, of_step = cell.step(x_parts[t], state, p, act)
        state = cell.state(*hand_on("state", place, t, after))
        states.append(state)
        saved.append(of_step)
    return Forward(x, forth(np.stack(before)), forth(np.stack(states)), forth(saved))


def walk_back(case: Case, place: int, d_output: Array, way: Forward, given: Arrays, hand_on: HandOn) -> Back:
    network = layers_of(case)
    cell, act, p = CELLS[network.cell], network.activations(), network.parameters_of(place, given)
    d_state = of_layer(state_of(network, given, "d.final."), place)
    forth = time_order(place, case.sizes.D)
    back: list[Back] = []
    for t in reversed(forth(range(case.sizes.T))):
        d_state = d_state._replace(h=d_state.h + d_output[t])
        d_x_part, d_h_part, d_prev = cell.step_backward(d_state, way.saved[t], p, act)
        d_state = cell.state(*hand_on("d_prev", place, t, d_prev))
        deltas = (hand_on(what, place, t, d) for what, d in (("d_x_part", d_x_part), ("d_h_part", d_h_part)))
        back.append(Back(np.stack(d_state), *deltas))
    return Back(*(np.stack(forth(parts[::-1])) for parts in zip(*back, strict=True)))


def layers_of(case: Case) -> Recurrent:
    if not isinstance(case.network, Recurrent):
        raise TypeError(f"{case}: bounds over time are for layers, not for whole models")
    return case.network


def member_of(case: Case, member: int) -> Case:
    """One sequence of a batch alone, which stays an axis of one, as long as it is."""
    T = int(case.inputs["lengths"][member]) if "lengths" in case.inputs else case.sizes.T

    def alone(arrays: Arrays) -> Arrays:
        whole = {name: value[..., member : member + 1, :] for name, value in arrays.items() if name != "lengths"}
        return {name: value if is_state(name) else value[:T] for name, value in whole.items()}

    changed = {"sizes": replace(case.sizes, T=T, B=1), "inputs": alone(case.inputs)}
    return Case(**{**vars(case), **changed, "cotangents": alone(case.cotangents)})


def is_state(name: str) -> bool:
    return name.startswith(("initial.", "d.final."))


class Sources:
    """Where errors enter, numbered: what each step hands on to the next one, back to the last one, and down."""

    def __init__(self, case: Case) -> None:
        s, parts = case.sizes, len(CELLS[layers_of(case).cell].state._fields)
        places, width = s.L * s.D, s.D * s.H
        many = places * s.T * parts * s.H
        state = np.arange(many).reshape(places, s.T, parts, s.H)
        down = np.repeat(np.arange(s.L * s.T * width).reshape(s.L, s.T, width), s.D, axis=0)  # by place, too
        self.numbers = {"state": state, "d_prev": many + state, "d_x": 2 * many - s.T * width + down}
        self.first_down = s.D  # the first layer has nobody below: it does not count
        self.count = 2 * many + (s.L - 1) * s.T * width

    def are(self, what: str, place: int) -> bool:
        return what in self.numbers and (what != "d_x" or place >= self.first_down)


class Jacobians(NamedTuple):
    """∂ each quantity / ∂ each source, the last axis, by layer and direction."""

    layers: list[dict[str, Array]]  # as in `Layer`, without the batch
    parameters: list[Arrays]


def jacobians(case: Case, sources: Sources) -> Jacobians:
    """Of a batch of one."""
    blocks = [np.arange(start, min(start + AT_ONCE, sources.count)) for start in range(0, sources.count, AT_ONCE)]
    runs = [moved(case, sources, block) for block in blocks]
    return Jacobians(*([joined(of_layer) for of_layer in zip(*of, strict=True)] for of in zip(*runs, strict=True)))


def joined(blocks: tuple[Arrays, ...]) -> Arrays:
    return {name: np.concatenate([block[name] for block in blocks], axis=-1) for name in blocks[0]}


def moved(case: Case, sources: Sources, block: Array) -> tuple[list[Arrays], list[Arrays]]:
    """One sequence as a batch in which each member has one source moved by i·10⁻²⁰⁰: all imaginary parts, over that."""

    def hand_on(what: str, place: int, t: int, it: Any) -> Any:
        if not sources.are(what, place):
            return it
        move = MOVE * (block[:, np.newaxis] == sources.numbers[what][place, t][..., np.newaxis, :])  # (…, members, H)
        return np.stack(it) + move if isinstance(it, tuple) else it + move

    given = {
        name: np.repeat(value, len(block), axis=-2).astype(complex)
        for name, value in (case.inputs | case.cotangents).items()
    }
    layers = walk(case, given | case.parameters, hand_on)
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


def bounded_walk(case: Case, kind: type[Bounded]) -> OneSequence:
    """Of a batch of one."""
    sources = Sources(case)
    found = OneSequence([], jacobians(case, sources), np.zeros(sources.count))

    def hand_on(what: str, place: int, t: int, it: Any) -> Any:
        array = np.stack(it) if isinstance(it, tuple) else it  # (parts, 1, H) or (1, ·)
        own = errors(array)
        if sources.are(what, place):  # from here on its error counts as that of a source
            found.bounds[sources.numbers[what][place, t]] = own[..., 0, :]
            own = np.zeros_like(own)
        radius = found.radius(found.jacobians.layers[place][what][t])[..., np.newaxis, :]
        return bounded(array, kind, own, radius)

    given = case.inputs | case.parameters | case.cotangents
    found.layers.extend(walk(case, {name: bounded(value, kind) for name, value in given.items()}, hand_on))
    return found


@np.errstate(invalid="ignore", over="ignore")  # a bound may grow beyond all numbers
def sequence_bounds(case: Case, kind: type[Bounded] = Bounded) -> Arrays:
    """For every result of `by_hand(case)` and the δ of each step: how far one that rounds as `kind` does may be off."""
    walks = [bounded_walk(member_of(case, member), kind) for member in range(case.sizes.B)]
    layers = [side_by_side([one.layers[place] for one in walks], case.sizes.T) for place in range(len(walks[0].layers))]
    last = layers[-case.sizes.D :]
    found = {"output": np.concatenate([radii(of.state[:, 0]) for of in last], axis=-1)}
    found["d.x"] = radii(layers[0].d_x) + errors(layers[0].d_x)
    for i, part in enumerate(CELLS[layers_of(case).cell].state._fields):
        found[f"final.{part}"] = ends(walks, case, "state", i, -1)
        found[f"d.initial.{part}"] = ends(walks, case, "d_prev", i, 0)
    for place, (prefix, of) in enumerate(zip(layers_of(case).prefixes(), layers, strict=True)):
        local = parameter_gradients(of.d_x_part, of.d_h_part, LayerTrace(of.x, of.h_before, []))
        for name, value in local.items():
            carried = sum(one.radius(one.jacobians.parameters[place][name]) for one in walks)
            found[f"d.{prefix}{name}"] = errors(value) + carried
        for name, array in (("x_part", of.d_x_part), ("h_part", of.d_h_part)):
            found[f"d.layer.{place}.{name}"] = radii(array) + errors(array)
    return found


def side_by_side(members: list[Layer], T: int) -> Layer:
    """A batch of sequences, each filled up to T steps with exact zeros."""
    batches = ([filled(part, T) for part in parts] for parts in zip(*members, strict=True))
    return Layer(*(np.concatenate(batch, axis=-2) for batch in batches))


def filled(array: Array, T: int) -> Array:
    padding = np.zeros((T - len(array), *array.shape[1:]))
    return np.concatenate([array, bounded(padding)]) if len(padding) else array


def ends(walks: list[OneSequence], case: Case, what: str, part: int, step: int) -> Array:
    """Radii (L·D, B, H) at a direction's last step, −1, or its first, 0, of each sequence as long as it is."""
    rows = []
    for place in range(case.sizes.L * case.sizes.D):
        forth = time_order(place, case.sizes.D)
        members = [forth(getattr(one.layers[place], what))[step, part] for one in walks]  # (1, H) each
        rows.append(np.concatenate([radii(member) for member in members]))
    return np.stack(rows)


def radii(array: Array) -> Array:
    """The radii in an object array, as float64."""
    return np.asarray(np.frompyfunc(lambda number: number.radius, 1, 1)(array), np.float64)
