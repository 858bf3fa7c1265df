"""How strongly each earlier symbol bears on a prediction, four ways, and how far the four agree.

The prediction is the logit of the symbol that the model finds likeliest, z_k(t̃). Its gradient does not fade as the
model grows sure, as that of the loss does. All maps hold, for each step t̃ and each number of steps back, what x of that
earlier step is to it: the embedding, or the one-hot vector.

    norm:        ‖∂z_k(t̃)/∂x_t‖₂
    signed:      x_t · ∂z_k(t̃)/∂x_t
    occlusion:   z_k(t̃), less what it is where x_t is 0
    integrated:  x_t · ∫ ∂z_k(t̃)/∂x_t dα, where all x of the span are α times what they are, α from 0 to 1

Sundararajan, Taly and Yan, *Axiomatic attribution for deep networks* (2017), for the last; its sum over the span is
what z_k(t̃) differs from that of a span of zeros. Letters: T steps, K steps looked back, V vocabulary, E size of x, H
hidden size, R rows.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.insight.recording import Recording, inputs, record_inputs, way_back
from models.insight.statistics import spearman
from models.language_model import LanguageModel

SPAN = 100  # steps: where gradients of trained models have long faded, and 2,000 symbols take seconds
ROWS = 128  # windows read side by side
NODES = 16  # of the Gauss-Legendre quadrature
SAMPLE = 16  # predictions whose gradients are integrated
RANKED = 256  # predictions whose maps are compared
NAMES = {  # of the maps, and of what they are compared with: the same in texts, figures, tables and menus
    "norm": "gradient norm",
    "signed": "gradient × input",
    "occlusion": "occlusion",
    "integrated": "integrated gradients",
    "recency": "recency",
    "weights": "attention weight",
}
UNITS = {  # of a map's values
    "norm": "logits per unit of x",
    "signed": "logits",
    "occlusion": "logits",
    "integrated": "logits",
    "weights": "of 1",
}
PAIRS = [(name, "occlusion") for name in ("norm", "signed", "integrated", "recency")]
PAIRS += [(name, "recency") for name in ("norm", "signed", "integrated")]

Seeds = Callable[[int, int], Tensor]


@torch.no_grad()
def connectivity(model: LanguageModel, recording: Recording, tokens: Tensor, span: int = SPAN) -> dict[str, Any]:
    """All maps of a text (T,) that was recorded alone, as the module's docstring defines them: (T, K) each, 0 where a
    text has not begun; `integrated` of some steps alone, `rows`. K is the span, at most T."""
    span = min(span, len(tokens))
    logits = model.head(recording.hidden[:, 0])  # (T, V)
    symbols = logits.argmax(dim=-1)
    x = inputs(model, tokens)
    norm, signed = gradient_maps(model, recording, x, symbols, span)
    rows = evenly(*predictions(len(tokens), span), SAMPLE)
    maps = {"norm": norm, "signed": signed, "occlusion": occlusion(model, recording, x, symbols, span)}
    integrated = integrated_gradients(model, recording, x, symbols, rows, span)
    found = {name: of.cpu().numpy() for name, of in maps.items()}
    return {
        "span": span,
        "symbols": symbols.cpu().numpy(),
        "probability": logits.softmax(dim=-1).amax(dim=-1).cpu().numpy(),
        **found,
        "total": found["norm"].sum(1),
        "integrated": {"rows": rows.cpu().numpy(), "values": integrated.cpu().numpy()},
    }


def evenly(first: int, end: int, count: int) -> Tensor:
    """So many steps of first … end − 1, or all if there are fewer."""
    return torch.linspace(first, end - 1, min(count, end - first)).long()


def gradient_maps(
    model: LanguageModel, recording: Recording, x: Tensor, symbols: Tensor, span: int
) -> tuple[Tensor, Tensor]:
    """`norm` and `signed` of the logits of the given symbols (T,)."""
    norm, signed = x.new_zeros(2, len(x), span)
    for t, gradients in gradients_of_logits(model, recording, symbols, span):
        back = torch.arange(len(gradients), device=x.device)
        norm[t + back, back] = torch.linalg.vector_norm(gradients, dim=1)
        signed[t + back, back] = gradients @ x[t]
    return norm, signed


def gradients_of_logits(
    model: LanguageModel, recording: Recording, symbols: Tensor, span: int
) -> Iterator[tuple[int, Tensor]]:
    """For each step t, from the last to the first, ∂z_k(t̃)/∂x_t (R, E) of t̃ = t, t + 1, …, of R ≤ span predictions.

    One sweep of backpropagation through time for all predictions: row r belongs to the one of r steps later, so that
    with each step back rows move down by one, the last leaves, and a new one comes in on top.
    """
    seeds = of_attention(model, recording, symbols) if model.attention else of_head(model, symbols)
    cells = [layer.cell for layer in recording.layers]
    backs = [way_back(layer) for layer in recording.layers]
    carried = [type(layer.initial)(*(part[:0] for part in layer.initial)) for layer in recording.layers]
    for t in reversed(range(len(symbols))):
        d = seeds(t, min(span, len(symbols) - t))
        for place in reversed(range(len(cells))):
            later = carried[place]._make(F.pad(part[: span - 1], (0, 0, 1, 0)) for part in carried[place])
            _, d_x_part, carried[place] = backs[place](t, later._replace(h=later.h + d))
            d = d_x_part @ cells[place].weight_ih  # (R, H), and of the first layer (R, E)
        yield t, d


def of_head(model: LanguageModel, symbols: Tensor) -> Seeds:
    """∂z_k(t̃)/∂h_t (R, H) of the last layer, not by way of later states: W's row, of the prediction at t alone."""
    weight = model.head.weight

    def seeds(t: int, rows: int) -> Tensor:
        return F.pad(weight[symbols[t]][None], (0, 0, 0, rows - 1))

    return seeds


def of_attention(model: LanguageModel, recording: Recording, symbols: Tensor) -> Seeds:
    """The same where h_t is looked at from later steps, too, by the equations of `models.attention.CausalAttention`."""
    attention, a = model.attention, recording.weights
    assert attention is not None and a is not None
    a, h, u = a[:, 0].flip(-1), recording.layers[-1].after().h[:, 0], model.head.weight[symbols]  # u = ∂z_k/∂y
    sight = a.shape[1]
    seen = torch.cat([recording.memory[:, 0], h])
    seen = F.pad(seen, (0, 0, sight - 1 + len(h) - len(seen), 0))  # (A − 1 + T, H), zeros before the first
    keys, values = (of(seen).unfold(0, sight, 1) for of in (attention.key, attention.value))  # (T, H, A): what t sees
    d_a = (u[:, None] @ values)[:, 0]  # ∂y/∂a_s = v_s
    d_scores = a * (d_a - (a * d_a).sum(-1, keepdim=True)) * h.shape[1] ** -0.5  # (T, A)
    own = u + (keys @ d_scores[..., None])[..., 0] @ attention.query.weight  # h_t̃ by itself, and as a query
    as_value, as_key = u @ attention.value.weight, attention.query(h) @ attention.key.weight  # ∂v/∂h = W_v, ∂k/∂h = W_k

    def seeds(t: int, rows: int) -> Tensor:
        looking = slice(t, t + min(rows, sight))
        by_value, by_key = (of[looking].flip(-1).diagonal()[:, None] for of in (a, d_scores))  # r steps later, r back
        d = by_value * as_value[looking] + by_key * as_key[looking]
        d[0] += own[t]
        return F.pad(d, (0, 0, 0, rows - len(d)))

    return seeds


def occlusion(model: LanguageModel, recording: Recording, x: Tensor, symbols: Tensor, span: int) -> Tensor:
    """What z_k(t̃) loses where x_t = 0 (T, K): each window is read again from the state before t."""
    T, z = len(x), of_symbols(model, recording.hidden, symbols[:, None])[:, 0]  # (T,)
    fall = z.new_zeros(T, span)
    for occluded in torch.arange(T, device=z.device).split(ROWS):
        starts = occluded if int(occluded[0]) >= remembered(model) else torch.zeros_like(occluded)
        length = min(span + int((occluded - starts).max()), T)
        steps = starts + torch.arange(length, device=z.device)[:, None]  # (n, R)
        back, there = steps - occluded, steps.clamp(max=T - 1)
        read = record_inputs(model, x[there] * (back != 0)[..., None], recording.state_before(starts))
        falls = z[there] - of_symbols(model, read.hidden, symbols[there])
        wanted = (steps < T) & (back >= 0) & (back < span)
        fall[steps[wanted], back[wanted]] = falls[wanted]
    return fall


def remembered(model: LanguageModel) -> int:
    """How many states a step looks back at besides its own."""
    return model.attention.span - 1 if model.attention else 0


def of_symbols(model: LanguageModel, hidden: Tensor, symbols: Tensor) -> Tensor:
    """The logits of one symbol each: (T, B, H) and (T, B) to (T, B)."""
    return (hidden * model.head.weight[symbols]).sum(-1) + model.head.bias[symbols]


def integrated_gradients(
    model: LanguageModel, recording: Recording, x: Tensor, symbols: Tensor, rows: Tensor, span: int
) -> Tensor:
    """Of the predictions at these steps (R, K)."""
    found = x.new_zeros(len(rows), span)
    nodes, shares = (torch.from_numpy(of).to(x) for of in np.polynomial.legendre.leggauss(NODES))  # over [−1, 1]
    for place, row in enumerate(rows.tolist()):
        start = max(0, row + 1 - span)
        of_span = x[start : row + 1]
        path = ((nodes + 1) / 2)[:, None] * of_span[:, None]  # (n, NODES, E)
        state = recording.state_before(torch.full((NODES,), start, device=x.device))
        with torch.enable_grad():
            path.requires_grad_()
            last = record_inputs(model, path, state).hidden[-1:]
            z = of_symbols(model, last, symbols[row].expand(1, NODES))
            (gradients,) = torch.autograd.grad((z * shares / 2).sum(), path)
        found[place, : len(of_span)] = (gradients.sum(1) * of_span).sum(-1).flip(0)
    return found


def agreement(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Spearman's rank correlation of the sizes of what two maps say within a prediction's span, the mean over a sample
    of predictions; and that of each with recency, which says that nearer symbols count for more."""
    T, K = found["norm"].shape
    integrated, sampled = np.zeros((T, K)), found["integrated"]["rows"]
    integrated[sampled] = found["integrated"]["values"]
    maps = {name: np.abs(found[name]) for name in ("norm", "signed", "occlusion")}
    maps |= {"integrated": np.abs(integrated), "recency": np.broadcast_to(K - np.arange(K), (T, K))}
    table = []
    for pair in PAIRS:
        rows = sampled if "integrated" in pair else evenly(*predictions(T, K), RANKED).numpy()
        values = [spearman(*(maps[name][row, : row + 1] for name in pair)) for row in rows]
        table.append({"map": pair[0], "against": pair[1], "spearman": float(np.mean(values))})
    return table


def predictions(T: int, K: int) -> tuple[int, int]:
    """From which step on, and up to which, predictions look back over a full span, or in a short text over half."""
    return min(K - 1, T // 2), T


def sentence(table: list[dict[str, Any]]) -> str:
    """What a map of gradients can and cannot show, with how far it agreed."""
    of = {(row["map"], row["against"]): row["spearman"] for row in table}
    gradient, nearness = (round(of[name, "occlusion"], 2) for name in ("norm", "recency"))
    better = "better" if gradient > nearness else "no better"
    return (
        "A gradient says what an arbitrarily small change of a symbol's vector does to the logit, occlusion what "
        "taking the symbol away does, and neither says why. Here the order of the gradient's norms agrees with that of "
        f"occlusion at {gradient:.2f} (Spearman), and plain nearness at {nearness:.2f}: the map foretells {better} "
        "than distance alone which symbols would be missed."
    )
