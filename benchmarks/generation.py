"""One stream of text out of a language model of one LSTM layer, against a plain loop over `nn.LSTM`, in float32."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from benchmarks.pairs import compare
from benchmarks.peers import TorchLanguageModel, with_torch_layers
from models.language_model import LanguageModel
from models.sampling import generate

PAIRS = 15
V, H, LENGTH = 96, 256, 500  # symbols, units, and how many symbols are drawn


def rows(pairs: int) -> Iterator[dict[str, Any]]:
    model = LanguageModel(V, "lstm", embedding_size=H, hidden_size=H).eval()
    peer, prompt = with_torch_layers(model).eval(), torch.zeros(1, dtype=torch.int64)
    found = compare(lambda: list(generate(model, prompt, LENGTH)), lambda: by_a_loop(peer, prompt, LENGTH), pairs)
    what = {"cell": "lstm", "V": V, "H": H, "symbols": LENGTH, "against": "a loop over nn.LSTM", "unit": "tokens/s"}
    yield {**what, **asdict(found.rates(LENGTH)), "goal": 2.0}


@torch.inference_mode()
def by_a_loop(model: TorchLanguageModel, prompt: Tensor, length: int) -> list[int]:
    """Each symbol is drawn from the softmax of its logits, and is the next input."""
    drawn = []
    logits, state = model(prompt[:, None])  # (T, 1, V)
    for _ in range(length):
        token = torch.multinomial(torch.softmax(logits[-1], dim=-1), 1)  # (1, 1)
        drawn.append(int(token))
        logits, state = model(token, state)
    return drawn
