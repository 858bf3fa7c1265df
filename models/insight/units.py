"""What single units tell of the text: which of them follows quotes, brackets, indentation, and what the model loses
when such a unit is silenced.

Karpathy, Johnson and Fei-Fei, *Visualizing and understanding recurrent networks* (2016), showed such cells by hand;
here they are searched for, in one half of the text, and judged in the other, beside those of a net that knows nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.code_quality import TOKEN
from models.insight.recording import Recording, record
from models.insight.statistics import Array, area_under_curve
from models.language_model import LanguageModel

BEST = 3  # units of each property
FEWEST = 5  # steps with a property, and without it, in each half of the text
LIKELIEST = 5  # symbols
WINDOW = 256  # steps whose logits are in memory at a time
PREFIXES = {"r", "b", "f", "u", "rb", "br", "fr", "rf"}  # of Python's strings


def activations(recording: Recording) -> tuple[str, Array]:
    """What is shown of each unit of a text that was recorded alone, and its name: (T, L, H) in [−1, 1]."""
    name = "tanh(c)" if "c" in recording.layers[0].initial._fields else "h"
    shown = [layer.cell.activation(layer.after().c) if name != "h" else layer.after().h for layer in recording.layers]
    values = torch.cat(shown, dim=1).float().cpu().numpy()  # (T, L, H), as B is 1
    return name, values / max(1.0, float(np.abs(values).max()))  # relu and identity know no bounds


def likeliest(logits: Tensor, symbols: list[str]) -> list[list[list[Any]]]:
    """For each step (T, V) the likeliest next symbols, and how likely they are."""
    top = logits.softmax(dim=-1).topk(min(LIKELIEST, len(symbols)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [[[symbols[number], p] for number, p in zip(*pair, strict=True)] for pair in pairs]


def ranked(
    model: LanguageModel, tokens: Tensor, values: Array, untrained: Array, tracked: dict[str, Array]
) -> list[dict[str, Any]]:
    """The units whose activation (T, L, H) tells best whether a property of the text holds; first those that tell most
    more than an untrained net does.

    Units are chosen in the first half of the text, and `auc` is that of the second. A unit may be high where the
    property does not hold: then its AUC is that of its negative. `untrained_auc` is that of the best unit of the
    untrained net, found in the same way; `silenced` is by how many nats per symbol the loss rises without the unit.
    """
    found = []
    for tracks, truth in tracked.items():
        holds, known = above_median(truth)
        if not judged(holds, known):
            continue
        units, areas = best_units(values, holds, known)
        _, of_untrained = best_units(untrained, holds, known)
        for unit, auc in zip(units[:BEST], areas[:BEST], strict=True):
            layer, unit = divmod(int(unit), values.shape[-1])
            row = {"layer": layer, "unit": unit, "tracks": tracks, "auc": float(auc)}
            found.append(row | {"untrained_auc": float(of_untrained[0])})
    found.sort(key=lambda row: row["untrained_auc"] - row["auc"])
    rises = silenced(model, tokens, [(row["layer"], row["unit"]) for row in found])
    return [row | {"silenced": rise} for row, rise in zip(found, rises, strict=True)]


def above_median(truth: Array) -> tuple[Array, Array]:
    """Where a property (T,) holds, and where it is defined; of one that has degrees, where it is above its median."""
    truth = np.asarray(truth, np.float64)
    known = ~np.isnan(truth)
    degrees = np.unique(truth[known])
    return truth > (np.median(truth[known]) if len(degrees) > 2 else 0.5), known


def halves(known: Array) -> tuple[Array, Array]:
    first = np.arange(len(known)) < len(known) // 2
    return known & first, known & ~first


def judged(holds: Array, known: Array) -> bool:
    """Whether there is enough of both in both halves."""
    return all(min((holds & half).sum(), (~holds & half).sum()) >= FEWEST for half in halves(known))


def best_units(values: Array, holds: Array, known: Array) -> tuple[Array, Array]:
    """All units, numbered through the layers, from the best in the first half on; and their AUC in the second."""
    flat, (first, second) = values.reshape(len(values), -1), halves(known)
    chosen = area_under_curve(flat[first], holds[first])
    later = area_under_curve(flat[second], holds[second])
    order = np.argsort(-np.abs(chosen - 0.5), kind="stable")
    return order, np.where(chosen < 0.5, 1 - later, later)[order]


@torch.no_grad()
def silenced(model: LanguageModel, tokens: Tensor, units: list[tuple[int, int]]) -> list[float]:
    """By how many nats per symbol the loss on a text (T,) rises when h of a unit, given by layer and number, is 0 on
    every step: one member of a batch each, and one with all units."""
    layers = model.recurrent.layers()
    kept = model.head.weight.new_ones(len(layers), len(units) + 1, layers[0][0].hidden_size)
    for member, (layer, unit) in enumerate(units):
        kept[layer, member, unit] = 0
    nats, state = kept.new_zeros(len(units) + 1, dtype=torch.float64), None
    read, following = (of[:, None].expand(-1, len(units) + 1) for of in (tokens[:-1], tokens[1:]))
    for window, targets in zip(read.split(WINDOW), following.split(WINDOW), strict=True):
        recording = record(model, window, state, kept)
        logits = model.head(recording.hidden)  # (T, B, V)
        nats += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets).sum(0)
        state = recording.final
    rises = (nats - nats[-1]) / len(read)
    return rises[:-1].tolist()


def properties(characters: Sequence[str]) -> dict[str, Array]:
    """What may be tracked in a text (T,), as it is after each of its characters has been read: strings, comments and
    brackets as Python has them, indentation and position as any text; nan where a property is not defined.

    An apostrophe within a word, as in "don't", begins no string.
    """
    text = "".join(characters)
    kinds = syntax(text)
    found: dict[str, Array] = {
        "inside a string": kinds == "string",
        "inside a comment": kinds == "comment",
        "inside brackets": depths(text, kinds) > 0,
    }
    return found | layout(text)


def syntax(text: str) -> Array:
    """For each character, the kind of token that it leaves a reader in; the last one of a string closes it."""
    kinds, at, word = np.full(len(text), "closed", dtype="<U8"), 0, ""
    while at < len(text):
        token = TOKEN.match(text, at)
        assert token is not None  # a sign is any character
        kind, end = token.lastgroup, token.end()
        if kind == "string" and word and word.lower() not in PREFIXES:
            kind, end = "sign", at + 1  # an apostrophe
        closed = kind == "string" and (token["end"] if token["quotes"] else token[0][1:].endswith(token["quote"]))
        kinds[at : end - bool(closed)] = kind
        at, word = end, token[0] if kind == "word" else ""
    return kinds


def depths(text: str, kinds: Array) -> Array:
    """How many brackets are open after each character, of those that are no part of strings or comments."""
    depth, found = 0, []
    for sign, kind in zip(text, kinds, strict=True):
        if kind == "sign":
            depth = max(0, depth + (sign in "([{") - (sign in ")]}"))
        found.append(depth)
    return np.array(found)


def layout(text: str) -> dict[str, Array]:
    """Of lines: how they are indented, and where in them a character is."""
    leading, column, indented, deeper = (np.full(len(text), np.nan) for _ in range(4))
    at, above = 0, None
    for line in text.splitlines(keepends=True):
        indentation = len(line) - len(line.lstrip(" \t"))
        here, body = slice(at, at + len(line)), slice(at + indentation, at + len(line))
        column[here] = np.arange(len(line))
        leading[here] = np.arange(len(line)) < indentation
        indented[body] = indentation > 0
        if above is not None:
            deeper[body] = indentation > above
        at, above = at + len(line), indentation if line.strip() else above
    return {
        "in the white space that begins a line": leading,
        "in an indented line": indented,
        "in a line deeper than the one above": deeper,
        "far in the line": column,
    }
