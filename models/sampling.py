"""Text out of a trained language model, one symbol at a time; its state is all that is kept of what came before."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import tee
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from models.escaping import harmless as harmless  # many import it from here
from models.language_model import LanguageModel
from models.stepping import Stepper

SEEDS = (-(2**63), 2**64)  # of torch's generators, the upper end excluded
PROMPT_WINDOW = 256  # steps in which a prompt is read: the logits of so many are in memory at a time


def generate(
    model: LanguageModel,
    prompt: Tensor,
    length: int,
    temperature: float = 1.0,
    seed: int = 0,
    top_k: int | None = None,
    top_p: float = 1.0,
    excluded: Sequence[int] = (),
) -> Iterator[int]:
    """Symbols that go on from the prompt, each drawn from the model's prediction after all before it.

    Args:
        prompt: (T,), int64.
        length: how many symbols to draw; the state is carried, so that each costs the same however long the text grows.
        temperature, top_k, top_p: as in `probabilities`.
        seed: of a random generator of its own: sampling does not disturb training, nor the reverse.
        excluded: symbols that are never drawn.

    Raises ValueError for an empty prompt, a negative length, and for what `probabilities` cannot do.
    """
    return side_by_side(model, prompt, length, 1, temperature, seed, top_k, top_p, excluded)[0]


def side_by_side(
    model: LanguageModel,
    prompt: Tensor,
    length: int,
    count: int,
    temperature: float = 1.0,
    seed: int = 0,
    top_k: int | None = None,
    top_p: float = 1.0,
    excluded: Sequence[int] = (),
) -> list[Iterator[int]]:
    """As `generate`, but several samples in one batch: sample i is what seed + i gives alone, up to the rounding of
    matrix products. A step is computed for all samples when the first of them asks for it.

    Raises ValueError as `generate` does, and for a count below 1.
    """
    check_sampling(prompt, length, count, temperature, seed, top_k, top_p)
    dice = [torch.Generator().manual_seed(seed + row) for row in range(count)]
    choose = partial(draw, temperature=temperature, top_k=top_k, top_p=top_p, excluded=excluded)
    steps = continuation(model, prompt, length, dice, choose)
    return [column(copy, row) for row, copy in enumerate(tee(steps, count))]


def check_sampling(
    prompt: Tensor, length: int, count: int, temperature: float, seed: int, top_k: int | None, top_p: float
) -> None:
    """Raises ValueError for what `side_by_side` cannot do."""
    if len(prompt) == 0:
        raise ValueError("the prompt is empty: give at least one symbol that the model knows")
    for name, value, least in (("length", length, 0), ("the number of samples", count, 1)):
        if value < least:
            raise ValueError(f"{name} is {value}: it must be at least {least}")
    if not temperature >= 0:  # nor may it be NaN
        raise ValueError(f"temperature is {temperature}: it must be 0 or more")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}: it must be at least 1")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p is {top_p}: it must be more than 0, and at most 1")
    if not SEEDS[0] <= seed <= SEEDS[1] - count:
        raise ValueError(f"seed is {seed}: with {count} samples it must be {SEEDS[0]} to {SEEDS[1] - count}")


def column(steps: Iterable[list[int]], row: int) -> Iterator[int]:
    return (step[row] for step in steps)


@torch.inference_mode()
def continuation(
    model: LanguageModel, prompt: Tensor, length: int, dice: list[torch.Generator], choose: Callable[..., Tensor]
) -> Iterator[list[int]]:
    """One step after another, each a symbol for every generator: the prompt is read once, and its state repeated."""
    state = None
    for window in prompt[:, None].split(PROMPT_WINDOW):  # (T, 1)
        logits, state = model(window.to(model.device), state)
    logits = logits[-1].expand(len(dice), -1)  # (B, V)
    step = Stepper(model, tree_map(lambda part: part.repeat_interleave(len(dice), dim=1), state))
    for remaining in reversed(range(length)):
        rows = logits.float().cpu().unbind()  # on the CPU, so that a seed gives the same text on every device
        tokens = torch.cat([choose(row, dice=own) for row, own in zip(rows, dice, strict=True)])
        yield tokens.tolist()
        if remaining:
            logits = step(tokens.to(model.device))


def draw(
    logits: Tensor,
    temperature: float,
    dice: torch.Generator,
    top_k: int | None = None,
    top_p: float = 1.0,
    excluded: Sequence[int] = (),
) -> Tensor:
    """One symbol from logits (V), as likely as `probabilities` says, given that it is none of those excluded."""
    if excluded:
        logits = logits.clone()
        logits[list(excluded)] = -torch.inf
    return torch.multinomial(probabilities(logits, temperature, top_k, top_p), 1, generator=dice)


def probabilities(logits: Tensor, temperature: float, top_k: int | None = None, top_p: float = 1.0) -> Tensor:
    """The distribution that a symbol is drawn from, given logits z (V).

        P(token) ∝ exp(z_token / temperature)

    Args:
        temperature: below 1 the likely symbols become likelier; 0 always takes the likeliest, of equals the first.
        top_k: the k likeliest symbols alone; none for all.
        top_p: of these, the fewest whose probabilities together reach p (nucleus sampling, Holtzman et al., 2020).
    """
    if temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(), len(logits)).float()
    z = logits.double()
    p = torch.softmax((z - z.max()) / temperature, dim=0)  # minus the maximum: no temperature is too small
    if top_k is not None or top_p < 1:
        p, tokens = p.sort(descending=True, stable=True)
        p[top_k or len(p) :] = 0
        p /= p.sum()
        p[1:][p.cumsum(0)[:-1] >= top_p] = 0  # those before already reach it
        p = torch.zeros_like(p).scatter(0, tokens, p)
    return (p / p.sum()).float()


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The text up to where the first of the stop strings is complete, without that string.

    A stop string may lie across pieces: what could be its beginning is held back until it is known to be none.

    Raises ValueError for an empty stop string.
    """
    if "" in stops:
        raise ValueError("a stop string is empty: give at least one symbol, or leave --stop out")
    return stopped(pieces, stops)


def stopped(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    held = ""
    for piece in pieces:
        held += piece
        found = [(held.find(stop) + len(stop), held.find(stop)) for stop in stops if stop in held]
        if found:
            yield held[: min(found)[1]]
            return
        beginnings = (stop[:n] for stop in stops for n in range(1, len(stop)))
        kept = max((len(beginning) for beginning in beginnings if held.endswith(beginning)), default=0)
        yield held[: len(held) - kept]
        held = held[len(held) - kept :]
    yield held


def opening(tokenizer: Any, *texts: str) -> str:
    """What a model may begin with where no prompt is given: the first of the texts that has no unknown symbol, or else
    a space, or else the first symbol of the vocabulary."""
    for text in (*texts, " "):
        try:
            if text and len(tokenizer.encode(text)):
                return text
        except ValueError:
            pass
    pieces: list[bytes] = tokenizer.pieces()
    return pieces[min(1, len(pieces) - 1)].decode("utf-8", "replace")  # number 0 is the unknown symbol


def unknown_symbols(tokenizer: Any) -> list[int]:
    """The numbers that stand for what the vocabulary lacks."""
    return [0] if hasattr(tokenizer, "UNKNOWN") else []
