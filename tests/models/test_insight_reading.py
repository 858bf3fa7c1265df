"""What is recorded of a model, and what is made of it for one text: connections, gates, units, and the whole report."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from models.classifier import Classifier
from models.insight import connectivity as maps
from models.insight.connectivity import agreement, connectivity, sentence
from models.insight.gates import decay, gate_statistics, half_life
from models.insight.recording import Recording, inputs, record
from models.insight.report import analyse, analyse_text, read_backwards
from models.insight.statistics import area_under_curve, ranks, spearman
from models.insight.units import activations, properties, ranked, silenced
from models.language_model import LanguageModel

V, H = 7, 6
KINDS: list[dict[str, Any]] = [
    {"cell": "lstm", "num_layers": 2, "embedding_size": 4},
    {"cell": "gru", "num_layers": 2, "embedding_size": 4},
    {"cell": "rnn"},
    {"cell": "lstm", "embedding_size": 4, "attention_span": 5},
    {"cell": "gru", "num_layers": 2, "attention_span": 1000},
]
ROUNDING = 1e-13  # of values near 1 in float64, after some hundred operations: a few hundred ULPs


def model_of(**options: Any) -> LanguageModel:
    """With weights so large that what lies far back still counts."""
    torch.manual_seed(0)
    model = LanguageModel(V, hidden_size=H, dropout=0.5, **options).double().eval()
    for parameter in model.parameters():
        parameter.data *= 2
    return model


def text(length: int) -> Tensor:
    return torch.randint(V, (length,), generator=torch.Generator().manual_seed(1))


def read(model: LanguageModel, tokens: Tensor) -> Recording:
    with torch.no_grad():
        return record(model, tokens[:, None])


def logits_of(model: LanguageModel, x: Tensor) -> Tensor:
    """(T, V), of x (T, E) that may be anything."""
    hidden, _ = model.recurrent(x[:, None])
    return model.head(model.attention(hidden)[0] if model.attention else hidden)[:, 0]


def near(ours: Any, theirs: Any, allowed: float = ROUNDING) -> None:
    np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=allowed)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_recorded_is_what_the_model_does_when_it_predicts(kind: dict[str, Any]) -> None:
    """Though the model be in training: nothing is dropped, and no dice are thrown. 300 steps are more than one block of
    attention."""
    model, tokens = model_of(**kind), text(600).view(300, 2)
    with torch.no_grad():
        first, state = model(tokens[:7])
        second, final = model(tokens[7:], state)
        dice = torch.get_rng_state()
        model.train()
        whole = record(model, tokens)
        parts = [record(model, tokens[:7]), record(model, tokens[7:], state)]
        assert model.training and torch.equal(torch.get_rng_state(), dice)
        near(model.head(whole.hidden), torch.cat([first, second]))
    near(torch.cat([part.hidden for part in parts]), whole.hidden)
    for ours, theirs in zip(tree_leaves(whole.final), tree_leaves(final), strict=True):
        near(ours, theirs)


@pytest.mark.parametrize("span", [1, 5, 1000])
def test_attention_is_kept_by_how_far_back_it_looks(span: int) -> None:
    model, tokens = model_of(cell="gru", attention_span=span), text(300)
    recording = read(model, tokens)
    assert model.attention is not None and recording.weights is not None
    with torch.no_grad():
        _, _, weights = model.attention(recording.layers[-1].after().h)
    for t in range(300):
        seen = min(span, t + 1)
        near(recording.weights[t, 0, :seen], weights[t, 0].flip(0)[299 - t :][:seen])
        assert not recording.weights[t, 0, seen:].any()


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("span", [4, 1000])
def test_every_map_is_what_its_definition_says(
    kind: dict[str, Any], span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maps, "ROWS", 3)  # windows that are read again side by side: the last ones have a full memory
    model, tokens = model_of(**kind), text(12)
    recording, (T, K) = read(model, tokens), (12, min(span, 12))
    found = connectivity(model, recording, tokens, span)
    x = inputs(model, tokens).detach().requires_grad_()
    logits, symbols = logits_of(model, x), found["symbols"]
    assert (symbols == logits.argmax(-1).numpy()).all() and found["span"] == K
    near(found["probability"], logits.softmax(-1).amax(-1).detach())
    for t in range(T):
        (gradient,) = torch.autograd.grad(logits[t, symbols[t]], x, retain_graph=True)
        for back in range(K):
            if back > t:
                assert not any(found[name][t, back] for name in ("norm", "signed", "occlusion"))
                continue
            near(found["norm"][t, back], gradient[t - back].norm())
            near(found["signed"][t, back], gradient[t - back] @ x[t - back].detach())
            without = x.detach().clone()
            without[t - back] = 0
            near(found["occlusion"][t, back], (logits[t] - logits_of(model, without)[t])[symbols[t]].detach())
    near(found["total"], found["norm"].sum(1))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_gradients_are_what_a_small_change_does(kind: dict[str, Any]) -> None:
    model, tokens, step = model_of(**kind), text(8), 1e-5
    found = connectivity(model, read(model, tokens), tokens)
    x, symbol = inputs(model, tokens).detach(), found["symbols"][-1]
    for back in (0, 3, 7):
        up, down = x.clone(), x.clone()
        up[7 - back] *= 1 + step
        down[7 - back] *= 1 - step
        change = (logits_of(model, up) - logits_of(model, down))[-1, symbol] / (2 * step)
        # Taylor: step² = 1e-10 times a third derivative; rounding: 1e-16 / step
        assert found["signed"][-1, back] == pytest.approx(change.item(), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("span", [4, 1000])
def test_integrated_gradients_add_up_to_what_the_span_brings(kind: dict[str, Any], span: int) -> None:
    """Quadrature with 16 nodes is exact to degree 31. What is left falls with that power of the distance of the nearest
    pole, which tanh and σ have: it is 1e-8 at most in these models, and a hundred times that is allowed."""
    model, tokens = model_of(**kind), text(12)
    found = connectivity(model, read(model, tokens), tokens, span)
    for row, values in zip(found["integrated"]["rows"], found["integrated"]["values"], strict=True):
        x = inputs(model, tokens).detach()
        symbol, whole = found["symbols"][row], logits_of(model, x)[row]
        x[max(0, row + 1 - span) : row + 1] = 0
        brought = (whole - logits_of(model, x)[row])[symbol].item()
        assert values.sum() == pytest.approx(brought, abs=1e-6) and not values[row + 1 :].any()
    assert found["integrated"]["rows"].max() == 11


def test_a_linear_model_has_one_map_for_all_ways_to_ask() -> None:
    """Where z is linear in x, gradient × input, integrated gradients and occlusion are one."""
    model, tokens = model_of(cell="rnn", activation="identity", embedding_size=4), text(40)
    for parameter in (model.recurrent.cells[0].weight_hh, model.recurrent.cells[0].weight_ih):
        parameter.data /= 3  # or values would grow from step to step
    found = connectivity(model, read(model, tokens), tokens, span=10)
    # sums of some hundred products near 1, in float64, and differences of them
    near(found["signed"], found["occlusion"], 1e-12)
    near(found["integrated"]["values"], found["occlusion"][found["integrated"]["rows"]], 1e-12)
    table = {(row["map"], row["against"]): row["spearman"] for row in agreement(found)}
    assert table["signed", "occlusion"] == pytest.approx(1) == table["integrated", "occlusion"]
    nearness = [spearman(found["norm"][row, : row + 1], -np.arange(10.0)[: row + 1]) for row in range(9, 40)]
    assert table["norm", "recency"] == pytest.approx(np.mean(nearness)) and table["norm", "recency"] > 0.5


def test_the_sentence_has_the_figures_in_it() -> None:
    table = [{"map": name, "against": "occlusion", "spearman": s} for name, s in (("norm", 0.14), ("recency", 0.54))]
    assert "at 0.14 (Spearman), and plain nearness at 0.54" in sentence(table) and "no better" in sentence(table)
    assert "foretells better" in sentence([table[0] | {"spearman": 0.6}, table[1]])


def test_rank_statistics_are_what_they_are_called() -> None:
    rng = np.random.default_rng(0)
    assert ranks(np.array([3.0, 1, 3, 2])).tolist() == [3.5, 1, 3.5, 2]
    a, b = rng.normal(size=(2, 50))
    assert spearman(a, np.exp(a)) == pytest.approx(1) == -spearman(a, -(a**3))
    assert spearman(a, b) == pytest.approx(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])
    assert spearman(a, np.ones(50)) == 0
    values, flags = rng.integers(0, 5, (40, 3)).astype(float), rng.random(40) < 0.3
    pairs = values[flags][:, None] - values[~flags][None]  # every pair of a flagged step and another
    np.testing.assert_allclose(area_under_curve(values, flags), ((pairs > 0) + (pairs == 0) / 2).mean((0, 1)))


def test_the_half_life_is_that_of_the_forget_gates() -> None:
    """An LSTM whose forget gates are σ(bias) whatever it reads: c loses half in ln ½ / ln σ(bias) steps, and its path
    is the only one."""
    model, bias = LanguageModel(V, hidden_size=H).double(), torch.linspace(-2, 5, H, dtype=torch.float64)
    (cell,) = model.recurrent.cells
    for parameter in cell.parameters():
        parameter.data.zero_()
    cell.bias_ih.data[H : 2 * H] = bias
    statistics = gate_statistics(read(model, text(30)))
    assert statistics is not None
    (layer,) = statistics["layers"]
    f = torch.sigmoid(bias).numpy()
    near(layer["half_life"], np.log(0.5) / np.log(f), 1e-11)  # up to 100 steps long
    near(f ** layer["half_life"], np.full(H, 0.5))
    near(layer["mean_forget"], np.full(30, f.mean()))
    near(layer["predicted_decay"], [np.sqrt((f ** (2 * k)).mean()) for k in range(30)])
    near(layer["measured_decay"], layer["predicted_decay"])
    assert layer["left"]["i"].tolist() == [0] * H == layer["right"]["i"].tolist()  # ½ all the time
    assert layer["left"]["f"].tolist() == (f < 0.1).tolist() and layer["right"]["f"].tolist() == (f > 0.9).tolist()
    assert (f > 0.9).any() and not (f < 0.1).all()
    assert half_life(torch.tensor([0.0, 1.0])).tolist() == [0, torch.inf]
    forget = torch.tensor([[0.9], [0.5], [0.25]])
    assert decay(forget).tolist() == [1, 0.25, 0.125]  # of the last step, of the last two


def test_what_gates_have_and_what_they_have_not() -> None:
    rows, names = read(model_of(cell="gru"), text(9)), {"lstm": ["i", "f", "o"], "gru": ["r", "z"]}
    statistics = gate_statistics(rows)
    assert statistics is not None and statistics["layers"][0]["names"] == names["gru"]
    assert statistics["layers"][0]["half_life"] is None and gate_statistics(read(model_of(cell="rnn"), text(9))) is None
    layers = gate_statistics(read(model_of(**KINDS[0]), text(9)))
    assert layers is not None and [layer["names"] for layer in layers["layers"]] == [names["lstm"]] * 2
    (z,) = (layer["right"]["z"] for layer in statistics["layers"])
    recorded = rows.layers[0]
    h, before = recorded.after().h[:, 0], recorded.before().h[:, 0]
    assert z.shape == (H,) and ((z > 0) <= ((h - before).abs().amin(0) < 0.2).numpy()).all()  # a shut door moves little


def test_a_unit_that_is_the_property_is_found_and_has_an_area_of_one() -> None:
    model, tokens, rng = model_of(**KINDS[0]), text(200), np.random.default_rng(0)
    values, untrained = rng.normal(size=(2, 200, 2, H))
    holds = rng.random(200) < 0.3
    values[:, 1, 3] = np.where(holds, 1, -1) + rng.uniform(-0.9, 0.9, 200)
    values[:, 0, 2] = np.where(holds, -5, 5)  # low where it holds
    undefined = np.where(rng.random(200) < 0.2, np.nan, holds)
    depth = np.where(holds, rng.uniform(5, 9, 200), rng.uniform(0, 5, 200))
    tracked = {"planted": holds, "in parts": undefined, "rare": np.arange(200) == 7, "never": np.zeros(200)}
    found = ranked(model, tokens, values, untrained, tracked)
    assert {row["tracks"] for row in found} == {"planted", "in parts"} and len(found) == 6
    best = [row for row in found if row["auc"] == 1]
    assert {(row["layer"], row["unit"]) for row in best} == {(1, 3), (0, 2)} and len(best) == 4
    assert found[:4] == best and all(0.35 < row["untrained_auc"] < 0.65 for row in found)  # 100 steps: 0.5 ± 0.06
    assert all(row["auc"] < 0.7 for row in found[4:])
    above = depth > np.median(depth)
    (graded, *_) = ranked(model, tokens, above[:, None, None] + values / 10, untrained, {"deep": depth})
    assert graded["auc"] > 0.9


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_silenced_unit_is_one_that_nothing_reads(kind: dict[str, Any]) -> None:
    """The same as taking its column out of every matrix that reads it, over more than one window."""
    model, tokens = model_of(**kind), text(300)
    layers = len(model.recurrent.layers())
    units = [(0, 2), (layers - 1, 4)]
    rises = silenced(model, tokens, units)

    def loss(of: LanguageModel, without: int | None = None) -> float:
        with torch.no_grad():
            hidden, _ = of.recurrent(inputs(of, tokens[:-1, None]))
            hidden[..., without if without is not None else []] = 0
            logits = of.head(of.attention(hidden)[0] if of.attention else hidden)
            return F.cross_entropy(logits[:, 0], tokens[1:]).item()

    for (layer, unit), rise in zip(units, rises, strict=True):
        other, is_last = model_of(**kind), layer + 1 == layers
        other.recurrent.cells[layer].weight_hh.data[:, unit] = 0
        if not is_last:
            other.recurrent.cells[layer + 1].weight_ih.data[:, unit] = 0
        expected = loss(other, unit if is_last else None) - loss(model)
        assert rise == pytest.approx(expected, abs=ROUNDING) and abs(rise) > 1e-6


PYTHON = 'def f(a):  # don\'t "x\n    s = r"(\\"" + \'[\'\n\tif a: """b\n(c"""\n'
INSIDE = {
    "inside a string": ['"(\\"', "'[", '"""b\n(c""'],
    "inside a comment": ["# don't \"x"],
    "inside brackets": ["(a"],
    "in the white space that begins a line": ["    ", "\t"],
}


@pytest.mark.parametrize("tracks", INSIDE)
def test_what_a_text_has_at_each_character(tracks: str) -> None:
    expected, at = np.zeros(len(PYTHON), bool), 0
    for part in INSIDE[tracks]:
        at = PYTHON.index(part, at)
        expected[at : at + len(part)] = True
        at += len(part)
    assert (properties(list(PYTHON))[tracks] == expected).all()


def test_an_apostrophe_begins_no_string_and_lines_have_depths() -> None:
    found = properties("don't say 'no' or\nwon't\n\n  he's (x)]\n  a\n")
    inside = [i for i, holds in enumerate(found["inside a string"]) if holds]
    assert inside == [10, 11, 12]
    assert found["inside brackets"].sum() == 2
    deeper, indented = (found[f"in {name}"] for name in ("a line deeper than the one above", "an indented line"))
    assert (
        np.isnan(deeper[:18]).all() and (deeper[18:25] == 0).all() and deeper[27] == 1 and np.isnan(deeper[25:27]).all()
    )
    assert deeper[-2] == 0 and indented[-2] == 1 and indented[0] == 0 and np.isnan(indented[25:27]).all()
    assert found["far in the line"][:20].tolist() == [*range(18), 0, 1]


SYMBOLS = list("abc\n (x")
KEYS = {
    "about": {"cell", "layers", "hidden_size", "parameters", "vocab_size", "length", "compared"}
    | {"embedding_size", "attention_span", "tied", "dropout"},
    "losses": {"models", "guess"},
    "flow": {"bins", "models", "over_epochs"},
    "connectivity": {"span", "symbols", "predicted", "probability", "norm", "total", "signed", "occlusion"}
    | {"integrated", "agreement", "sentence"},
    "units": {"kind", "activations", "top", "ranked"},
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_report_has_all_that_a_page_shows(kind: dict[str, Any]) -> None:
    told: list[str] = []
    model, untrained, tokens = model_of(**kind).float(), LanguageModel(V, hidden_size=3).eval(), text(80)
    report = analyse(model, untrained, tokens, SYMBOLS, compared=LanguageModel(V, "rnn").eval(), progress=told.append)
    assert told == ["reading the text", "gradient flow", "connectivity", "units", "gates"]
    for part, keys in KEYS.items():
        assert report[part].keys() == keys
    assert report["text"] == [SYMBOLS[number] for number in tokens] and report["about"]["compared"]["cell"] == "rnn"
    assert report["about"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert report["connectivity"]["norm"].shape == (80, 80) and len(report["connectivity"]["predicted"]) == 80
    layers = model.hparams["num_layers"]
    values = report["units"]["activations"]
    assert values.shape == (layers, 80, H) and values.dtype == np.float32 and np.abs(values).max() <= 1
    assert report["units"]["kind"] == ("tanh(c)" if kind["cell"] == "lstm" else "h")
    for row, predicted in zip(report["units"]["top"], report["connectivity"]["predicted"], strict=True):
        assert len(row) == 5 and row[0][0] == predicted and sum(p for _, p in row) <= 1 + 1e-6  # float32
    assert [of["name"] for of in report["flow"]["models"]] == ["trained", "untrained", "compared"]
    assert (report["gates"] is None) == (kind["cell"] == "rnn")
    assert (report["attention"] is None) == ("attention_span" not in kind)
    if report["attention"]:
        near(report["attention"]["weights"].sum(1), np.ones(80), 1e-6)  # float32


def test_the_largest_activation_of_a_net_without_bounds_is_one() -> None:
    model = model_of(cell="rnn", activation="identity")
    recording = read(model, text(50))
    assert recording.layers[0].after().h.abs().max() > 1 and np.abs(activations(recording)[1]).max() == 1


def test_mistakes_are_told_in_one_line() -> None:
    model, other = LanguageModel(V).eval(), LanguageModel(V + 1).eval()
    with pytest.raises(ValueError, match=r"^the text has 1 symbols: give at least 2$"):
        analyse(model, model, text(1), SYMBOLS)
    with pytest.raises(ValueError, match=r"^the text has symbol 7, but the model knows 0 to 6$"):
        analyse(model, model, torch.tensor([1, 7]), [*SYMBOLS, "y"])
    with pytest.raises(ValueError, match=r"different sizes: trained 7, untrained 7, compared 8; take models"):
        analyse(model, model, text(5), SYMBOLS, compared=other)
    with pytest.raises(ValueError, match=r"^the text has no symbols: give at least 1$"):
        analyse_text(Classifier(V, 3).eval(), text(0), SYMBOLS)


def test_two_symbols_are_enough() -> None:
    for kind in KINDS:
        report = analyse(model_of(**kind), model_of(**kind), text(2), SYMBOLS)
        assert report["connectivity"]["norm"].shape == (2, 2) and not report["units"]["ranked"]


def test_a_classifier_is_shown_with_what_it_looked_at() -> None:
    torch.manual_seed(0)
    classifier = Classifier(V, 3, dropout=0.5, word_dropout=0.5).double().eval()
    report = analyse_text(classifier, text(9), SYMBOLS, ["bad", "so so", "good"])
    logits, pooling = classifier(text(9)[:, None], torch.tensor([9]))
    near(report["probabilities"], logits[0].softmax(-1).detach())
    near(report["pooling"], pooling[:, 0].detach())
    assert report["labels"] == ["bad", "so so", "good"] and report["gradient"].shape == (9,)
    assert analyse_text(classifier, text(9), SYMBOLS)["labels"] == ["class 0", "class 1", "class 2"]


def test_padding_bears_on_nothing() -> None:
    torch.manual_seed(0)
    classifier, tokens = Classifier(V, 3).double().eval(), text(18).view(9, 2)
    _, pooling, gradient = read_backwards(classifier, tokens, torch.tensor([4, 9]))
    assert not gradient[4:, 0].any() and not pooling[4:, 0].any() and gradient[:4, 0].all() and gradient[:, 1].all()
    _, alone, by_itself = read_backwards(classifier, tokens[:4, :1], torch.tensor([4]))
    near(pooling[:4, 0], alone[:, 0])
    near(gradient[:4, 0], by_itself[:, 0])
