"""Attention over the states of a sequence: causal for language models, pooling for classifiers.

Letters: T steps, B batch, H size of a state, M remembered states, S = M + T of them in all.
"""

import torch
from torch import Tensor, nn

SCORES = ("additive", "dot")


class CausalAttention(nn.Module):
    """Each step looks back at the last `span` states, its own among them, and adds what it finds to its state: a single
    head of scaled dot products (Vaswani et al., 2017), as SHA-RNN has (Merity, 2019).

        q_t = W_q h_t + b_q,  k_s = W_k h_s,  v_s = W_v h_s + b_v
        a_t = softmax_s(q_t · k_s / √H)  over t − span < s ≤ t
        y_t = h_t + Σ_s a_ts v_s

    Args:
        size: H.
        span: how many states a step sees.

    Inputs: h (T, B, H), and memory (M, B, H), the states before the first of them, none if it is left out.
    Outputs: y (T, B, H), the memory for the next call, at most span − 1 states, and the weights a (T, B, S).
    """

    def __init__(self, size: int, span: int) -> None:
        super().__init__()
        self.span = span
        self.query, self.value = nn.Linear(size, size), nn.Linear(size, size)
        self.key = nn.Linear(size, size, bias=False)  # which would add the same to all scores of a query

    def extra_repr(self) -> str:
        return f"span={self.span}"

    def forward(self, h: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        seen = h if memory is None else torch.cat([memory, h])  # (S, B, H)
        q, k, v = (part.transpose(0, 1) for part in (self.query(h), self.key(seen), self.value(seen)))  # (B, ·, H)
        scores = q @ k.transpose(1, 2) * h.shape[-1] ** -0.5  # (B, T, S)
        weights = scores.masked_fill(~self.in_sight(len(h), len(seen), h.device), -torch.inf).softmax(dim=-1)
        y = h + (weights @ v).transpose(0, 1)
        return y, seen[max(0, len(seen) - self.span + 1) :], weights.transpose(0, 1)

    def in_sight(self, T: int, S: int, device: torch.device) -> Tensor:
        """Which of S states each of the last T may look at: (T, S)."""
        own, s = torch.arange(S - T, S, device=device)[:, None], torch.arange(S, device=device)
        return (own - self.span < s) & (s <= own)


class AttentionPooling(nn.Module):
    """One vector from a sequence of any length: a mean of its states, weighted by what each has to say.

        additive (Bahdanau et al., 2015):  s_t = v · tanh(W h_t + b)
        dot:                               s_t = v · h_t
        a = softmax_t(s),  pooled = Σ_t a_t h_t

    Args:
        size: H, of each state.
        score: "additive" or "dot".

    Inputs: h (T, B, H), and lengths (B) if sequences end before T: what is beyond has no weight.
    Outputs: pooled (B, H), and the weights a (T, B).

    Raises ValueError for a score that does not exist.
    """

    def __init__(self, size: int, score: str = "additive") -> None:
        super().__init__()
        if score not in SCORES:
            raise ValueError(f"{score!r} does not exist: choose one of {', '.join(SCORES)}")
        self.inner = nn.Linear(size, size) if score == "additive" else None
        self.vector = nn.Parameter(torch.empty(size).uniform_(-(size**-0.5), size**-0.5))

    def extra_repr(self) -> str:
        return f"{len(self.vector)}, score={'dot' if self.inner is None else 'additive'}"

    def forward(self, h: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        ends = len(h) if lengths is None else lengths.to(h.device)
        padding = torch.arange(len(h), device=h.device)[:, None] >= ends  # (T, B) or (T, 1)
        h = h.masked_fill(padding[..., None], 0)
        scores = (torch.tanh(self.inner(h)) if self.inner else h) @ self.vector  # (T, B)
        weights = scores.masked_fill(padding, -torch.inf).softmax(dim=0)
        return (weights[..., None] * h).sum(dim=0), weights
