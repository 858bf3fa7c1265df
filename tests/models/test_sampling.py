"""Generation: repeatable, bounded in memory, exact about what the prompt leaves behind and about where it stops."""

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._pytree import tree_leaves

from models import stepping
from models.language_model import LanguageModel
from models.sampling import PROMPT_WINDOW, draw, generate, harmless, probabilities, side_by_side, until
from models.stepping import Stepper

PROMPT = torch.tensor([3, 1, 2])


@pytest.fixture
def model() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(7, embedding_size=4, hidden_size=8).eval()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """Of what is computed to read a window or to take a step: steps, batch, and numbers in the state before."""
    forward, step, written = LanguageModel.forward, Stepper.__call__, []

    def read(self: LanguageModel, tokens: torch.Tensor, state: Any = None) -> Any:
        written.append((*tokens.shape, sum(part.numel() for part in tree_leaves(state) if part is not None)))
        return forward(self, tokens, state)

    def take(self: Stepper, tokens: torch.Tensor) -> torch.Tensor:
        parts = tree_leaves([self.memory, *(layer.state for layer in self.layers)])
        written.append((1, *tokens.shape, sum(part.numel() for part in parts if part is not None)))
        return step(self, tokens)

    monkeypatch.setattr(LanguageModel, "forward", read)
    monkeypatch.setattr(Stepper, "__call__", take)
    return written


def test_a_seed_gives_the_same_text_and_another_seed_another(model: LanguageModel) -> None:
    first, again, other = (list(generate(model, PROMPT, 40, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 40 and set(first) <= set(range(7))


@pytest.mark.parametrize("narrowed", [{"temperature": 0}, {"top_k": 1}, {"top_p": 1e-9}])
def test_the_likeliest_given_all_that_came_before(model: LanguageModel, narrowed: dict[str, Any]) -> None:
    written = list(generate(model, PROMPT, 6, **narrowed))
    for k, token in enumerate(written):
        logits, _ = model(torch.cat([PROMPT, torch.tensor(written[:k], dtype=torch.int64)])[:, None])
        assert token == logits[-1, 0].argmax()


def test_sampling_leaves_the_global_random_state_alone(model: LanguageModel) -> None:
    before = torch.get_rng_state()
    list(generate(model, PROMPT, 5))
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize("options", [{"cell": "rnn"}, {"cell": "gru"}, {"cell": "lstm"}, {"attention_span": 5}])
def test_a_sample_among_others_is_the_one_that_its_seed_gives_alone(options: dict[str, Any]) -> None:
    model = LanguageModel(7, hidden_size=8, num_layers=2, **options).double().eval()  # a flip by rounding: 1 in 10¹²
    together = [list(row) for row in side_by_side(model, PROMPT, 30, 4, seed=5, top_k=5, top_p=0.9)]
    alone = [list(generate(model, PROMPT, 30, seed=5 + row, top_k=5, top_p=0.9)) for row in range(4)]
    assert together == alone and len(set(map(tuple, alone))) == 4


def test_rows_are_drawn_together_when_one_asks_and_no_further_than_asked(
    model: LanguageModel, calls: list[tuple[int, int, int]]
) -> None:
    first, second = side_by_side(model, PROMPT, 50, 2)
    assert calls == []
    [next(first) for _ in range(5)]
    assert len(calls) == 5
    [next(second) for _ in range(5)]
    assert len(calls) == 5


def test_every_symbol_costs_one_step_from_a_state_that_does_not_grow(
    model: LanguageModel, calls: list[tuple[int, int, int]]
) -> None:
    list(generate(model, PROMPT, 300))
    prompt, *steps = calls
    assert prompt == (3, 1, 0) and len(steps) == 299
    assert set(steps) == {(1, 1, 16)}  # h and c of 8 units
    calls.clear()
    list(generate(LanguageModel(7, hidden_size=8, attention_span=5).eval(), PROMPT, 300))
    assert set(calls[2:]) == {(1, 1, 16 + 4 * 8)}  # and the last four h


def test_a_long_prompt_is_read_in_windows_and_once(model: LanguageModel, calls: list[tuple[int, int, int]]) -> None:
    prompt = torch.arange(2 * PROMPT_WINDOW + 5) % 7
    written = [list(row) for row in side_by_side(model, prompt, 1, 3, temperature=0)]
    assert [(steps, rows) for steps, rows, _ in calls] == [(PROMPT_WINDOW, 1), (PROMPT_WINDOW, 1), (5, 1)]
    logits, _ = model(prompt[:, None])
    assert written == [[int(logits[-1, 0].argmax())]] * 3


OPTIONS: list[dict[str, Any]] = [
    *({"cell": cell, "num_layers": layers} for cell in ("rnn", "gru", "lstm") for layers in (1, 2)),
    {"embedding_size": 3},
    {"embedding_size": 3, "cell": "gru", "table": 0},
    {"embedding_size": 5, "tied": True, "attention_span": 3},
    {"activation": "hard_tanh", "gate_activation": "hard_sigmoid"},
    {"activation": "relu", "cell": "rnn"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_is_what_the_model_computes(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(stepping, "LARGEST_TABLE", options.pop("table", stepping.LARGEST_TABLE))
    model, tokens = LanguageModel(7, hidden_size=5, **options).double().eval(), torch.randint(7, (12, 4))
    with torch.inference_mode():
        _, state = model(tokens[:4])
        step, (whole, _) = Stepper(model, state), model(tokens)
        assert (step.table is None) == (stepping.LARGEST_TABLE == 0)
        for t in range(4, 12):  # sums of at most a dozen terms of about 1, each rounding at 2⁻⁵³, over twelve steps
            torch.testing.assert_close(step(tokens[t]), whole[t], rtol=0, atol=2**-45)


def test_a_step_writes_where_the_last_one_wrote(model: LanguageModel) -> None:
    with torch.inference_mode():
        step = Stepper(model, model(PROMPT[:, None])[1])
        states = [step.layers[0].state.h, step.layers[0].state.c]
        places = {tuple(part.data_ptr() for part in (step(token), *states)) for token in PROMPT[:, None]}
    assert len(places) == 1


def test_the_state_that_a_step_goes_on_from_is_left_as_it_is(model: LanguageModel) -> None:
    with torch.inference_mode():
        _, state = model(PROMPT[:, None])
        before = [part.clone() for part in state]
        Stepper(model, state)(PROMPT[:1])
    assert all(torch.equal(part, as_it_was) for part, as_it_was in zip(state, before, strict=True))


def test_the_probabilities_are_those_of_the_docstring() -> None:
    assert "P(token) ∝ exp(z_token / temperature)" in (inspect.getdoc(probabilities) or "")
    z, temperature = np.array([0.3, -1.0, 2.0, 0.5, 1.5]), 0.7
    expected = np.exp(z / temperature) / np.exp(z / temperature).sum()
    np.testing.assert_allclose(probabilities(torch.tensor(z), temperature), expected, rtol=1e-6)  # in float32
    for k in range(1, 7):
        kept = np.where(np.argsort(np.argsort(-z)) < k, expected, 0)
        np.testing.assert_allclose(probabilities(torch.tensor(z), temperature, k), kept / kept.sum(), rtol=1e-6)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.floats(0.01, 1), st.integers(1, 9))
def test_top_p_keeps_the_smallest_set_that_reaches_p(weights: list[int], top_p: float, top_k: int) -> None:
    z = torch.tensor(weights, dtype=torch.float64) / 7
    p = probabilities(z, 1.0, top_k).double()
    kept = probabilities(z, 1.0, top_k, top_p) > 0
    mass, rounding = float(p[kept].sum()), 1e-6
    assert mass >= top_p - rounding
    assert mass - float(p[kept].min()) < top_p + rounding, "without its least likely member it does not reach p"
    assert p[kept].min() >= p[~kept].max() if (~kept).any() else True


@pytest.mark.parametrize("temperature", [1e-320, 1e-30, 1e30, float("inf")])
def test_no_temperature_is_too_small_or_too_large(temperature: float) -> None:
    p = probabilities(torch.tensor([0.0, 3.0, 1.0]), temperature)
    torch.testing.assert_close(p, torch.tensor([0.0, 1.0, 0.0]) if temperature < 1 else torch.full((3,), 1 / 3))


def test_what_is_drawn_is_drawn_that_often() -> None:
    z, dice = torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.Generator().manual_seed(0)
    drawn = torch.cat([draw(z, 0.7, dice, top_k=3, top_p=0.97) for _ in range(6000)])
    # Three standard deviations of a share among 6,000 draws: 3 √(¼ / 6000) = 0.02.
    shares = torch.bincount(drawn, minlength=4) / 6000
    torch.testing.assert_close(shares, probabilities(z, 0.7, 3, 0.97), rtol=0, atol=0.02)


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.data())
def test_a_text_stops_before_the_stop_string_however_it_comes_in_pieces(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    ends = [n for n in range(len(text) + 1) if any(text[:n].endswith(stop) for stop in stops)]
    longest = max((len(stop) for stop in stops if ends and text[: ends[0]].endswith(stop)), default=0)
    expected = text[: ends[0] - longest] if ends else text
    assert "".join(until(pieces, stops)) == expected


def test_text_streams_and_only_what_may_become_a_stop_string_is_held_back() -> None:
    asked = []

    def pieces() -> Iterator[str]:
        for piece in ("a", "\n", "b", "\n", "\n", "never asked for"):
            asked.append(piece)
            yield piece

    assert list(until(pieces(), ["\n\n"])) == ["a", "", "\nb", "", ""]
    assert asked[-1] == "\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": PROMPT[:0]}, "the prompt is empty"),
        ({"length": -1}, "length is -1: it must be at least 0"),
        ({"count": 0}, "the number of samples is 0: it must be at least 1"),
        ({"temperature": -0.5}, "temperature is -0.5: it must be 0 or more"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0: it must be at least 1"),
        ({"top_p": 0.0}, "top_p is 0.0: it must be more than 0, and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"top_p": float("nan")}, "top_p is nan"),
    ],
)
def test_mistakes_are_said_before_anything_is_written(
    model: LanguageModel, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        side_by_side(model, **{"prompt": PROMPT, "length": 1, "count": 1, **options})
    with pytest.raises(ValueError, match="a stop string is empty"):
        until([], ["a", ""])


def test_what_could_steer_a_terminal_is_made_visible() -> None:
    assert harmless("é\tx = '\\'\n\x1b[31m\r\x00\x7f\x9b") == "é\tx = '\\'\n\\x1b[31m\\r\\x00\\x7f\\x9b"
