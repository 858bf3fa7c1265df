"""The page of "See inside": numbers that survive, a text that stays text, and one line for each mistake."""

import base64
import hashlib
import json
import re
import sys
import zlib
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import explore
from datamodules.labelled import Encoder
from datamodules.tokenizers import CharacterTokenizer, make_tokenizer
from models.classifier import Classifier
from models.insight.connectivity import NAMES
from models.insight.figures import LEANING, SIGNED, colours, ink_on, pictures, ridge_plot, svg
from models.insight.page import DECADES, LARGEST, LEVELS, packed_map, page, plain, room
from models.language_model import LanguageModel

TEXT = "<script>hacked = 1</script>\n\tdef f(x):  # </div> & \"quotes\" $x$\n    return 'x' + f(x - 1)\x1b[0m\n" * 2


def made_up_report(text: str = TEXT, layers: int = 2, size: int = 6, span: int = 20, epochs: int = 5) -> dict[str, Any]:
    """What `models.insight.report.analyse` could give of an LSTM with attention, drawn at random."""
    dice, steps, bins, T = np.random.default_rng(0), 16, 48, len(text)
    began = np.arange(T)[:, None] >= np.arange(span)
    sizes = np.exp(-0.3 * np.arange(span) + dice.normal(size=(T, span))).astype(np.float32) * began
    signed, occlusion = (sizes * np.sign(dice.normal(size=sizes.shape)).astype(np.float32) for _ in range(2))
    rows = np.array([span, T // 2, T - 1])
    top = [[[symbol, 0.5**n] for n, symbol in enumerate(text[n] + "<&\n ", 1)] for n in range(T)]

    def counts(*shape: int) -> Any:
        return dice.integers(0, 100, (*shape, bins)).astype(np.uint16)

    def norms(*shape: int) -> Any:
        return np.exp(-dice.random() * np.arange(shape[-1]) + dice.normal(size=shape))

    def state() -> dict[str, Any]:
        return {"norm": norms(steps), "histogram": counts(steps), "zeros": np.zeros(steps, int)}

    def model(name: str, cell: str, layers: int) -> dict[str, Any]:
        losses = {
            loss: {
                "back": np.arange(steps),
                "layers": [
                    {"h": state(), "c": state() if cell == "lstm" else None, "jacobian": norms(steps)}
                    for _ in range(layers)
                ],
            }
            for loss in ("last", "every")
        }
        weights = {name: dice.random(layers).tolist() for name in WEIGHTS}
        return {"name": name, "cell": cell, "losses": losses, **weights}

    followed = [
        {"h": np.log10(norms(epochs, steps)), "c": np.log10(norms(epochs, steps)), "histograms": counts(epochs, steps)}
        | {name: dice.random(epochs) for name in (*WEIGHTS, "mean_forget")}
        for _ in range(layers)
    ]
    gate = {
        side: {name: dice.random(size) / 2 for name in "ifo"} for side in ("left", "right")
    }  # shares of time, that together are no more than all of it
    decays = {name: norms(span) for name in ("predicted_decay", "measured_decay")}
    gates = {"names": list("ifo"), "mean_forget": dice.random(T), "half_life": np.append(dice.random(size - 1), np.inf)}
    about = {"cell": "lstm", "layers": layers, "hidden_size": size, "parameters": 12345, "embedding_size": 8}
    about["vocab_size"] = 99
    losses = [
        {"name": name, "cell": cell, "nats": np.append(np.nan, dice.exponential(2, T - 1)), "mean": 2.0, "right": 0.4}
        for name, cell in (("trained", "lstm"), ("untrained", "lstm"), ("compared", "rnn"))
    ]
    gate_table = [
        {"model": "trained", "layer": 0, "gate": "f", "mean": 0.7, "shut": 0.1, "open": 0.4, "half_life": 2.5},
        {"model": "trained", "layer": 0, "gate": "o", "mean": 0.7, "shut": 0.1, "open": 0.4, "half_life": None},
    ]
    return {
        "runs": {"trained": made_up_run("lstm/version_0"), "compared": made_up_run("<b>rnn</b>/version_3")},
        "losses": {"models": losses, "guess": 4.6},
        "gate_table": gate_table,
        "about": about | {"length": T, "compared": about | {"cell": "rnn", "layers": 1}},
        "text": list(text),
        "flow": {
            "bins": np.linspace(-20, 4, bins + 1),
            "models": [
                model("trained", "lstm", layers), model("untrained", "lstm", layers), model("compared", "rnn", 1)
            ],
            "over_epochs": {"epochs": np.arange(epochs), "layers": followed, "clipped": dice.random(epochs)},
        },
        "connectivity": {
            "span": span, "predicted": [*text[1:], "</script><script>hacked = 1</script>"],
            "probability": dice.random(T), "norm": sizes,
            "total": sizes.sum(1), "signed": signed, "occlusion": occlusion,
            "integrated": {"rows": rows, "values": signed[rows]},
            "agreement": [{"map": "norm", "against": "recency", "spearman": 0.5}], "sentence": "What <b>maps</b> show.",
        },
        "units": {
            "kind": "tanh(c)", "activations": dice.uniform(-1, 1, (layers, T, size)).astype(np.float32), "top": top,
            "ranked": [
                {"layer": layers - 1, "unit": 3, "tracks": "quotes", "auc": 0.9, "untrained_auc": 0.6, "silenced": -0.1}
            ],
        },
        "gates": {"layers": [gates | gate | decays] * layers},
        "attention": {"kind": "causal", "weights": sizes / sizes.sum(1, keepdims=True)},
    }  # fmt: skip


def made_up_run(name: str, points: int = 50) -> dict[str, Any]:
    updates = 10 * np.arange(1, points + 1)
    losses = {part: {"updates": updates, "nats": 1 + of / updates} for part, of in (("train", 9), ("held out", 12))}
    return {
        "name": name, "checkpoint": f"runs/{name}/checkpoints/best.ckpt", "written": "2026-12-01 09:30",
        "epoch": 4, "update": 400, "held_out": 1.5,
        "losses": losses,
    }  # fmt: skip


WEIGHTS = ("spectral_radius", "largest_singular_value", "mean_slope")


class Tags(HTMLParser):
    """What a browser would find: tags with their attributes, and all ids."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def html() -> str:
    return page(made_up_report(), "made up")


def test_a_text_cannot_become_markup(html: str) -> None:
    assert html.count("<script") == html.count("</script") == 2, "the data and the program"
    assert "What &lt;b&gt;maps&lt;/b&gt; show." in html
    data = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[0])
    assert "".join(data["symbols"]) == TEXT.replace("\x1b", "\\x1b")


def test_nothing_but_the_program_may_run_and_nothing_is_asked_for(html: str) -> None:
    program = re.findall(r"<script>(.*?)</script>", html, re.S)[0]
    allowed = base64.b64encode(hashlib.sha256(program.encode()).digest()).decode()
    policy = next(of["content"] for tag, of in Tags(html).found if of.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and f"default-src 'none'; script-src 'sha256-{allowed}';" in policy
    for tag, attributes in Tags(html).found:
        assert not any(name.startswith("on") for name in attributes), tag
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_no_two_elements_have_one_id(html: str) -> None:
    ids = [attributes["id"] for _, attributes in Tags(html).found if "id" in attributes]
    assert len(ids) == len(set(ids)) > 50


def test_a_figure_takes_the_ink_of_the_page_and_its_text_stays_text() -> None:
    drawn = list(pictures(made_up_report()))
    assert len({picture.name for picture in drawn}) == len(drawn) == 1 + 11 + 7 + 1 + 7, (
        "losses, flow, training, connectivity, gates"
    )
    for picture in drawn:
        code = svg(picture)
        assert "currentColor" in code and "<text" in code and "#1b212c" not in code and "#fefefe" not in code


def decoded(map: dict[str, Any]) -> Any:
    most, steps = (
        np.frombuffer(zlib.decompress(base64.b64decode(map[name]["bytes"])), dtype)
        for name, dtype in (("most", "<f4"), ("steps", "<i2"))
    )
    steps = steps.reshape(len(most), map["span"])
    return np.sign(steps) * most[:, None] * 10.0 ** ((np.abs(steps) / LEVELS - 1) * DECADES) * (steps != 0)


def test_a_map_keeps_its_values_but_for_half_a_level() -> None:
    dice = np.random.default_rng(1)
    values = (dice.normal(size=(30, 40)) * 10.0 ** dice.uniform(-3, 0, (30, 40))).astype(np.float32)
    values[3], values[4, 7] = 0, 0
    kept = decoded(packed_map(values, "signed"))
    seen = np.abs(values) >= np.abs(values).max(1, keepdims=True) * 10.0 ** (0.5 * DECADES / LEVELS - DECADES)
    half = 10 ** (DECADES / LEVELS / 2) - 1 + 1e-6  # 1e-6: float32
    assert (np.abs(kept - values)[seen] <= half * np.abs(values)[seen]).all()
    assert (kept[values == 0] == 0).all() and seen[5:].mean() > 0.9


@pytest.mark.parametrize("theme, paper", [("light", "#ffffff"), ("dark", "#14171c")])
@pytest.mark.parametrize("scale", [LEANING, SIGNED], ids=["leaning", "signed"])
def test_a_coloured_sign_can_be_read(scale: dict[str, list[str]], theme: str, paper: str) -> None:
    def luminance(colour: str) -> float:
        red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for colour in colours(scale[theme]):
        share = int(colour[7:9], 16) / 255
        mixed = [
            round(share * int(colour[at : at + 2], 16) + (1 - share) * int(paper[at : at + 2], 16)) for at in (1, 3, 5)
        ]
        ground, ink = luminance("#" + "".join(f"{c:02x}" for c in mixed)), luminance(ink_on(colour, paper))
        assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) >= 4.5, f"{colour}: WCAG 2.2 asks for 4.5"


def test_a_page_with_as_much_text_as_there_is_room_for_is_not_too_large() -> None:
    model = LanguageModel(99, hidden_size=256, num_layers=2)
    assert room(model) >= 2000
    report = made_up_report((TEXT * 60)[: room(model)], size=256, span=100)
    report["attention"] = None
    assert len(page(report, "made up").encode()) <= LARGEST


def test_numbers_are_json_that_every_reader_takes() -> None:
    given = {"a": np.array([0.1, np.nan, np.inf]), "b": [np.float32(1 / 3), np.int64(2), "c", None], "d": 1 / 3}
    assert plain(given) == {"a": [0.1, None, None], "b": [0.333333, 2, "c", None], "d": 0.333333}


# The script, with small models that nobody trained.


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """explore.py with these arguments, in a folder of its own; gives the page."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["explore.py", *arguments])
        explore.main()
        return Path("report.html").read_text(encoding="utf-8")

    return run


def saved(path: Path, cell: str = "lstm", tokenizer: Any = None, **more: Any) -> str:
    tokenizer = tokenizer or CharacterTokenizer.of(TEXT)
    model = LanguageModel(tokenizer.vocab_size, cell, hidden_size=5, **more)
    state = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state | {"TextDataModule": {"tokenizer": tokenizer.state()}, "config": {"seed_everything": 3}}, path)
    return str(path)


def saved_classifier(path: Path) -> str:
    encoder = Encoder("word", True, ["good", "is", "it"], ["bad", "<good>"])
    model = Classifier(encoder.vocab_size, 2, embedding_size=3, hidden_size=2)
    state = {"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}
    torch.save(state | {"LabelledDataModule": {"encoder": encoder.state()}}, path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell, more", [("rnn", {}), ("gru", {"num_layers": 2}), ("lstm", {"attention_span": 4, "embedding_size": 3})]
)
def test_every_model_has_its_page_its_figures_and_its_numbers(
    cell: str, more: dict[str, Any], call: Callable[..., str], tmp_path: Path
) -> None:
    html = call(
        "--checkpoint", saved(tmp_path / "a.ckpt", cell, **more), "--text", TEXT, "--png", "png", "--json", "a.json"
    )
    ids = {attributes.get("id") for _, attributes in Tags(html).found}
    assert ("gates" in ids) == (cell != "rnn") and ("attention" in ids) == ("attention_span" in more)
    numbers = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert "".join(numbers["text"]) == TEXT and np.shape(numbers["units"]["activations"])[1] == len(TEXT)
    figures = {path.stem for path in (tmp_path / "png").iterdir()}
    assert figures >= {"flow-0-last", "flow-0-trained", "connectivity-by-distance", "connectivity", "unit"}


def test_a_file_is_read_and_cut_and_compared(call: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT + "ÿ", encoding="utf-8")
    ours, other = saved(tmp_path / "a.ckpt"), saved(tmp_path / "b.ckpt", "gru")
    html = call("--checkpoint", ours, "--text", "text.txt", "--length", "50", "--compare", other, "--unknown", "skip")
    assert "reading 50 symbols" in html and "The text: text.txt." in html and "GRU, 1 × 5 units" in html
    assert "compared GRU" in html


@pytest.mark.parametrize(
    "text, length, told",
    [
        ("abcabc", None, ""),
        ("aÄbcÖÄ", None, ", without 3 of its first 6 symbols, which the vocabulary does not have: 'Ä', 'Ö'"),
        ("aÄbcÖÄ", 2, ", without 1 of its first 3 symbols, which the vocabulary does not have: 'Ä'"),
        ("ÄÖÜabc", 1, ", without 3 of its first 4 symbols, which the vocabulary does not have: 'Ä', 'Ö', 'Ü'"),
    ],
)
def test_symbols_that_are_left_out_are_named(text: str, length: int | None, told: str) -> None:
    tokenizer = CharacterTokenizer.of("abc ")
    kept = len(tokenizer.encode(text, "skip")[:length])
    assert explore.left_out(tokenizer, text, kept) == told


def test_words_that_are_left_out_are_named() -> None:
    tokenizer = make_tokenizer("word", ["the cat sat on the mat\n" * 9], 100)
    text = "the cat ate the mouse"
    told = explore.left_out(tokenizer, text, len(tokenizer.encode(text, "skip")))
    assert told.endswith("which the vocabulary does not have: 'ate', 'mouse'") and ", without 2 of its first 5" in told
    assert explore.left_out(make_tokenizer("byte", [], 0), "Ä\0", 3) == ""


def test_cells_that_never_forget_have_no_half_life() -> None:
    report = made_up_report()
    report["gates"]["layers"][0]["half_life"][:] = np.inf
    assert "half-life" not in {picture.name for picture in pictures(report)}


def test_without_a_text_the_model_writes_one(call: Callable[..., str], tmp_path: Path) -> None:
    ours = saved(tmp_path / "a.ckpt")
    pages = [call("--checkpoint", ours, "--length", "40") for _ in range(2)]
    assert "reading 40 symbols" in pages[0] and "the model wrote it itself" in pages[0]
    assert pages[0] == pages[1], "the same model, the same page"


def test_a_text_with_unknown_symbols_says_so_on_the_page_and_on_the_terminal(
    call: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    html = call("--checkpoint", saved(tmp_path / "a.ckpt"), "--text", TEXT + "ÄÖÄ", "--unknown", "skip")
    told = f"without 3 of its first {len(TEXT) + 3} symbols, which the vocabulary does not have: "
    assert f"{told}&#39;Ä&#39;, &#39;Ö&#39;" in html and f"{told}'Ä', 'Ö'" in capsys.readouterr().err


def test_a_map_has_one_name_everywhere(html: str) -> None:
    for name in ("norm", "signed", "occlusion", "integrated"):
        option, in_data = f'<option value="{name}">{NAMES[name]}</option>', f'"name":"{NAMES[name]}"'
        assert option in html and in_data in html and f">{NAMES[name]}</text>" in html, "menu, colours, figure"
    assert f'<th scope="row">{NAMES["norm"]}</th><td>{NAMES["recency"]}</td>' in html, "table"


@pytest.mark.parametrize("count", range(1, 10))
def test_a_ridge_plot_is_filled(count: int) -> None:
    """Most of its width holds entries, and its highest ridge nearly reaches the top."""
    bins, dice = np.linspace(-20, 4, 49), np.random.default_rng(count)
    middle = dice.uniform(-16, 0)
    histograms = np.stack([np.histogram(dice.normal(middle, 1, 999), bins)[0] for _ in range(4 * count)])
    histograms[:, 0] += 1  # an entry that is nearly 0 makes no room for itself
    axes = ridge_plot("flow", "a", "", histograms, histograms[None], bins, "#000000").figure.axes[0]
    assert axes.get_xlim()[1] - axes.get_xlim()[0] <= 7, "six standard deviations, and half a bin at each end"
    highest = max(patch.get_path().vertices[:, 1].max() for patch in axes.patches)
    assert axes.get_ylim()[1] == pytest.approx(highest + 0.4)


def test_what_training_recorded_is_found_beside_the_checkpoint(call: Callable[..., str], tmp_path: Path) -> None:
    ours = saved(tmp_path / "run" / "checkpoints" / "best.ckpt")
    assert 'id="epoch"' not in call("--checkpoint", ours, "--text", TEXT)
    of = made_up_report(layers=1)["flow"]["over_epochs"]
    arrays = {f"layers.0.{name}": values for name, values in of["layers"][0].items()}
    np.savez(tmp_path / "run" / "flow.npz", epochs=of["epochs"], clipped=of["clipped"], **arrays)
    assert 'id="epoch"' in call("--checkpoint", ours, "--text", TEXT)


def test_the_page_has_the_losses_of_both_runs(call: Callable[..., str], tmp_path: Path) -> None:
    paths = [saved(tmp_path / name / "version_0" / "checkpoints" / "best.ckpt", name) for name in ("gru", "rnn")]
    (tmp_path / "rnn" / "version_0" / "metrics.csv").write_text("step,train_loss,val_loss\n9,3.0,\n9,,2.5\n")
    html = call("--checkpoint", paths[0], "--compare", paths[1], "--text", TEXT)
    assert "compared, held out" in html and "trained, held out" not in html, "what lies beside the checkpoints"
    assert "gru/version_0" in html and "2.5000 nats" in html and "compared RNN" in html
    assert "No loss curves" in call("--checkpoint", paths[0], "--text", TEXT)


def test_the_untrained_twin_has_the_weights_that_its_run_began_with(tmp_path: Path) -> None:
    torch.manual_seed(3)
    path = saved(tmp_path / "a.ckpt", forget_bias=1.0)
    before = torch.random.get_rng_state()
    twin = explore.untrained(torch.load(path))
    assert all((values == twin.state_dict()[name]).all() for name, values in torch.load(path)["state_dict"].items())
    assert (torch.random.get_rng_state() == before).all()


def test_a_classifier_shows_what_it_read(call: Callable[..., str], tmp_path: Path) -> None:
    html = call("--checkpoint", saved_classifier(tmp_path / "a.ckpt"), "--text", "It <i>is</i> GOOD")
    assert "&lt;good&gt;" in html and html.count('class="bar"') == 2
    data = json.loads(re.findall(r'id="data">(.*?)</script>', html, re.S)[0])
    assert data["symbols"] == ["It", "<", "i", ">", "is", "<", "/", "i", ">", "GOOD"], "as it is written"
    assert len(data["shares"]["pooling"]) == len(data["shares"]["gradient"]) == 10


MISTAKES = {
    "no checkpoint": (["--checkpoint", "none.ckpt"], "none.ckpt: no such checkpoint"),
    "no argument": ([], "checkpoint"),
    "no file": (["--checkpoint", "a.ckpt", "--text", "none.txt"], "none.txt"),
    "no text": (
        ["--checkpoint", "a.ckpt", "--text", "bytes.bin"],
        "bytes.bin: byte 0 is not utf-8; name its encoding with --encoding",
    ),
    "too short": (["--checkpoint", "a.ckpt", "--text", "x"], "give a longer one"),
    "too short when cut": (["--checkpoint", "a.ckpt", "--text", TEXT, "--length", "1"], "give a longer one"),
    "nothing known": (["--checkpoint", "a.ckpt", "--text", "ÄÖÜ", "--unknown", "skip"], "give a longer one"),
    "too long": (["--checkpoint", "a.ckpt", "--text", TEXT * 99], "--length {room}"),
    "too long to write": (["--checkpoint", "a.ckpt", "--length", "99999999"], "--length {room}"),
    "unknown symbols": (["--checkpoint", "a.ckpt", "--text", "xÄ"], "the vocabulary has no 'Ä': --unknown skip"),
    "another vocabulary": (["--checkpoint", "a.ckpt", "--text", TEXT, "--compare", "b.ckpt"], "another vocabulary"),
    "a classifier beside": (["--checkpoint", "a.ckpt", "--text", TEXT, "--compare", "c.ckpt"], "a classifier's"),
    "a classifier without a text": (["--checkpoint", "c.ckpt"], "--text FILE"),
    "a classifier's figures": (["--checkpoint", "c.ckpt", "--text", "it", "--png", "png"], "without figures"),
    "too long for a classifier": (["--checkpoint", "c.ckpt", "--text", "it is " * 10_001], "--length 20000"),
}


@pytest.mark.parametrize("arguments, told", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(
    arguments: list[str], told: str, call: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "a.ckpt")
    saved(tmp_path / "b.ckpt", tokenizer=CharacterTokenizer.of("abc"))
    saved_classifier(tmp_path / "c.ckpt")
    (tmp_path / "bytes.bin").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SystemExit) as exit:
        call(*arguments)
    error = capsys.readouterr().err
    at_most = room(LanguageModel(5, hidden_size=5))
    assert exit.value.code == 2 and error.startswith("explore.py: ") and error.count("\n") == 1
    assert told.format(room=at_most) in error and not (tmp_path / "report.html").exists()
