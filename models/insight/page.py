"""A report as one HTML page that needs nothing else and asks nobody: figures drawn, numbers packed, all inside."""

import base64
import hashlib
import json
import math
import zlib
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup

from models.insight.connectivity import NAMES, SPAN, UNITS
from models.insight.figures import (
    GATES,
    LEANING,
    LIFT,
    SIGNED,
    STYLE,
    Picture,
    colours,
    ink_on,
    pictures,
    ridges,
    run_losses,
    svg,
)
from models.insight.run import facts, printable
from models.language_model import LanguageModel
from models.sampling import harmless

TEMPLATES = Path(__file__).with_name("templates")
LARGEST, FIGURES = 10_000_000, 1_500_000  # bytes: of a page, and of its figures among them
COLUMNS = 256  # steps back of a map, at most; attention may look farther
DECADES, LEVELS = 4, 2000  # below the largest value of its row, what a map shows, in so many steps
SCALES = {"norm": "leaning", "signed": "signed", "occlusion": "signed", "integrated": "signed", "weights": "leaning"}


def room(model: LanguageModel) -> int:
    """How many symbols of a text a page can carry: their maps and activations must fit in."""
    of = model.hparams
    columns = 3 * SPAN + min(of["attention_span"], COLUMNS)
    of_a_symbol = (2 * columns + of["num_layers"] * of["hidden_size"]) * 4 / 3 + 330  # in base64; 330: what is expected
    return int((LARGEST - FIGURES) / of_a_symbol)


def page(report: dict[str, Any], source: str) -> str:
    """The page of what `models.insight.report.analyse` gives of a text, and where that text is from."""
    drawn = list(pictures(report))
    of, units, epochs = report["connectivity"], report["units"], report["flow"]["over_epochs"]
    maps = {name: packed_map(of[name], name) for name in ("norm", "signed", "occlusion")}
    maps["integrated"] = packed_map(of["integrated"]["values"], "integrated", of["integrated"]["rows"])
    attention = report["attention"] and {"weights": packed_map(report["attention"]["weights"], "weights")}
    data = {
        "symbols": [harmless(symbol) for symbol in report["text"]],
        "losses": symbol_losses(report["losses"]),
        "predicted": [harmless(symbol) for symbol in of["predicted"]],
        "probability": plain(of["probability"], 4),
        "total": plain(of["total"], 4),
        "maps": {"connectivity": maps, "attention": attention},
        "units": {
            "kind": units["kind"],
            "values": packed(np.rint(127 * units["activations"].transpose(0, 2, 1)).astype(np.int8)),  # (L, H, T)
            "top": [[[harmless(symbol), *plain([p], 3)] for symbol, p in row] for row in units["top"]],
        },
        "epochs": epochs and by_epoch(epochs),
    }
    figures: dict[str, list[tuple[Picture, Markup]]] = {"run": []}
    for picture in drawn:
        figures.setdefault(picture.section, []).append((picture, Markup(svg(picture))))
    abouts = {"trained": report["about"], "compared": report["about"]["compared"]}
    data["figures"] = readouts(drawn)
    head = {name: facts(run, abouts[name]) for name, run in report["runs"].items()}
    return render(
        "report.html",
        data,
        report=report,
        figures=figures,
        source=printable(source),
        head=head,
        gate_names=GATES,
        map_names=NAMES,
        map_choices=[(name, NAMES[name]) for name in maps],
    )


def readouts(drawn: list[Picture]) -> dict[str, Any]:
    """What the page says of the points of its figures, by the names of these. A map's powers of ten, steps by rows, are
    packed in thousandths."""
    found = {}
    for picture in drawn:
        said = dict(picture.readout or {})
        if grid := said.pop("grid", None):
            powers = np.rint(1000 * np.nan_to_num(grid["powers"], nan=-32, neginf=-32)).clip(-32_000, 32_000)
            said["grid"] = {"rows": grid["rows"], "columns": powers.shape[1], "powers": packed(powers.astype("<i2"))}
        found[picture.name] = plain(said, 4)
    return found


def symbol_losses(of: dict[str, Any]) -> dict[str, Any]:
    names = [f"{model['name']} {model['cell'].upper()}" for model in of["models"]]
    models = [{"name": name, "nats": plain(model["nats"], 4)} for name, model in zip(names, of["models"], strict=True)]
    return {"models": models, "guess": of["guess"]}


def text_page(report: dict[str, Any], source: str) -> str:
    """The page of what `models.insight.report.analyse_text` gives of a text, and where that text is from."""
    shares = {name: plain(report[name], 4) for name in ("pooling", "gradient") if report[name] is not None}
    data = {"symbols": [harmless(symbol) for symbol in report["text"]], "shares": shares}
    head = {name: facts(run, report["about"], "text") for name, run in report["runs"].items()}
    with mpl.rc_context(STYLE):
        drawn = list(run_losses(report["runs"]))
    figures = {"run": [(picture, Markup(svg(picture))) for picture in drawn]}
    data["figures"] = readouts(drawn)
    return render("text.html", data, report=report, source=printable(source), head=head, figures=figures)


def render(template: str, data: dict[str, Any], **more: Any) -> str:
    """The script is allowed by its hash: nothing else could run, whatever a text has in it."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    data["scales"] = {"leaning": painted(LEANING), "signed": painted(SIGNED)}
    content = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(content.replace("<", "\\u003c")),  # no text can end the element that it is in
        **more,
    )


def packed(values: np.ndarray) -> dict[str, str]:
    """As a typed array of JavaScript's, compressed."""
    assert values.dtype.str[0] in "|<"  # byte order
    kind = {"i1": "Int8Array", "u1": "Uint8Array", "i2": "Int16Array", "f4": "Float32Array"}[values.dtype.str[1:]]
    return {"kind": kind, "bytes": base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()}


def packed_map(values: np.ndarray, name: str, rows: Any = None) -> dict[str, Any]:
    """(R, K): each row's largest size, and each value's sign and place on the way down from there by `DECADES` powers
    of ten, 0 for what is smaller. `rows` are those of the text that there are; none for all."""
    sizes = np.abs(values[:, :COLUMNS].astype(np.float64))
    most = sizes.max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.nan_to_num(1 + np.log10(sizes / most[:, None]) / DECADES, nan=0.0).clip(0, 1)
    steps = np.sign(values[:, :COLUMNS]) * np.rint(LEVELS * level)
    return {
        "scale": SCALES[name],
        "name": NAMES[name],
        "unit": UNITS[name],
        "rows": plain(rows),
        "most": packed(most.astype("<f4")),
        "steps": packed(steps.astype("<i2")),
        "span": sizes.shape[1],
        "decades": DECADES,
        "levels": LEVELS,
    }


def by_epoch(of: dict[str, Any]) -> dict[str, Any]:
    """What a slider shows of one moment: a histogram for each ridge of each layer, and a table."""
    columns = ("spectral_radius", "largest_singular_value", "mean_slope", "mean_forget")
    return {
        "epochs": plain(of["epochs"], 4),
        "clipped": plain(of["clipped"], 4),
        "lift": LIFT,
        "bins": of["layers"][0]["histograms"].shape[2],
        "layers": [
            {"frames": packed(frames(layer["histograms"]))} | {name: plain(layer[name], 4) for name in columns}
            for layer in of["layers"]
        ],
    }


def frames(histograms: np.ndarray) -> np.ndarray:
    """(N, K, n), of those steps that are drawn, as shares of the highest."""
    shares = histograms[:, ridges(histograms.shape[1])] / max(1, histograms.max())
    return np.rint(255 * shares).astype(np.uint8)


def painted(stops: dict[str, list[str]]) -> list[list[str]]:
    """For each step of a scale, what is behind a sign and the sign itself, as CSS that both themes read."""
    papers = {"light": "#ffffff", "dark": "#14171c"}
    grounds = {theme: colours(stops[theme]) for theme in papers}
    inks = {theme: [ink_on(colour, papers[theme]) for colour in grounds[theme]] for theme in papers}
    return [
        [f"light-dark({a},{b})", f"light-dark({c},{d})"]
        for a, b, c, d in zip(grounds["light"], grounds["dark"], inks["light"], inks["dark"], strict=True)
    ]


def plain(value: Any, digits: int = 6) -> Any:
    """As JSON has it, with so many digits: lists of numbers; none for what is not finite, which has no word there."""
    if isinstance(value, dict):
        return {name: plain(of, digits) for name, of in value.items()}
    if isinstance(value, list | tuple):
        return [plain(of, digits) for of in value]
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist(), digits)
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value
