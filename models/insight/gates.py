"""What the gates keep: how often each is shut or open, and how long an LSTM's memory lasts.

Karpathy, Johnson and Fei-Fei, *Visualizing and understanding recurrent networks* (2016), for left and right saturation;
Mahto et al., *Multi-timescale representation learning in LSTM language models* (2021), for lifetimes from forget gates.
"""

import math
from typing import Any

import torch
from torch import Tensor

from models.insight.recording import CANDIDATES, Layer, Recording, gates, jacobians

SHUT, OPEN = 0.1, 0.9
STEPS = 100  # looked back


@torch.no_grad()
def gate_statistics(recording: Recording) -> dict[str, Any] | None:
    """Of each layer of a text that was recorded alone; None for a cell without gates."""
    if not any(gate not in CANDIDATES for gate in recording.layers[0].cell.gates):
        return None
    return {"layers": [of_layer(layer) for layer in recording.layers]}


@torch.no_grad()
def gate_table(recording: Recording) -> list[dict[str, Any]]:
    """A row for each gate of each layer, so that cells with different gates can be compared: the mean of the gate, the
    share of the time that its units are shut and open; of a forget gate also the median `half_life` of its cells."""
    table = []
    for number, layer in enumerate(recording.layers):
        for name, gate in gates(layer).items():
            if name not in CANDIDATES:
                y = gate.y[:, 0].double()  # (T, H)
                row = {"layer": number, "gate": name, "mean": y.mean().item()}
                row |= {"shut": (y < SHUT).double().mean().item(), "open": (y > OPEN).double().mean().item()}
                table.append(row | {"half_life": half_life(y.mean(0)).median().item() if name == "f" else None})
    return table


def of_layer(layer: Layer) -> dict[str, Any]:
    """`left` and `right` are each unit's share of the time in which a gate is below 0.1 and above 0.9 (H,); the rest is
    an LSTM's alone."""
    values = {name: gate.y[:, 0] for name, gate in gates(layer).items() if name not in CANDIDATES}  # (T, H)
    found: dict[str, Any] = {
        "names": list(values),
        "left": {name: shares(y < SHUT) for name, y in values.items()},
        "right": {name: shares(y > OPEN) for name, y in values.items()},
    }
    forget = values.get("f")
    if forget is None:
        return found | dict.fromkeys(("mean_forget", "half_life", "predicted_decay", "measured_decay"))
    steps = min(STEPS, len(forget))
    measured = torch.linalg.matrix_norm(jacobians(layer, "c", steps)) / forget.shape[1] ** 0.5
    return found | {
        "mean_forget": forget.mean(1).cpu().numpy(),
        "half_life": half_life(forget.double().mean(0)).cpu().numpy(),
        "predicted_decay": decay(forget)[:steps].cpu().numpy(),
        "measured_decay": measured.cpu().numpy(),
    }


def shares(of_time: Tensor) -> Any:
    return of_time.double().mean(0).cpu().numpy()


def half_life(mean_forget: Tensor) -> Tensor:
    """After how many steps half of a memory is left, where each keeps the share f̄: ln ½ / ln f̄.

    0 for a gate that is always shut, infinity for one that is always open.
    """
    return math.log(2) / mean_forget.log().abs()  # as f̄ ≤ 1; the sign of 0 would count


def decay(forget: Tensor) -> Tensor:
    """What the forget gates (T, H) alone leave of c_t at the last step T, for t = T, T − 1, …: the square root of the
    mean over units of (Π f)². It is ‖∂c_T/∂c_t‖ / √H, with Frobenius' norm, where no other way leads to c_T."""
    later = torch.cat([torch.ones_like(forget[:1]), forget.flip(0)[:-1]])  # (T, H)
    return later.cumprod(0).square().mean(1).sqrt()
