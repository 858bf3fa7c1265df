"""The figures of a report, each drawn once: as SVG for the page, whose ink and paper it takes, and as PNG."""

import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from models.insight.connectivity import NAMES
from models.insight.hover import readout, series, shares
from models.insight.run import thinned
from models.sampling import harmless

INK, PAPER = "#1b212c", "#fefefe"  # in an SVG, those of the page
DASHED = (0, (4, 2))
COLOURS = {"trained": "#3a78e0", "untrained": "#8b94a3", "compared": "#e2801f"}
HATCHES = ["", "////", "....", "xxxx"]  # of the bars of layers
SHAPES = "os^Dvx"  # of the markers of layers and of maps
MARKERS = {"trained": "o", "untrained": "s", "compared": "^"}  # as colour alone must not tell models apart
LIGHTER = {"trained": "#85abed", "compared": "#efb57e"}  # of a loss in training, beside that held out
LAYERS = ["#3a78e0", "#e2801f", "#2a9d6f", "#a561c9", "#c9506b", "#8b94a3"]
GATES = {"i": "input gate", "f": "forget gate", "o": "output gate", "r": "reset gate", "z": "update gate"}
BLOCKS = 120  # points of a line along a text, at most
NOTHING: dict[Any, Any] = dict.fromkeys(["Date", "Creator", "Format", "Type"])  # of what SVG files say of themselves
SMALLEST_SHARE = 0.01  # of a step's entries, that a ridge plot makes room for
RIDGES, LIFT = 14, 2.2  # of a plot, at most; how many rows the highest reaches up
STYLE: dict[Any, Any] = {
    "figure.figsize": (4.3, 2.9),
    "figure.dpi": 72,  # a pixel is a unit of the SVG
    "figure.subplot.left": 0.18,  # the same in all, so that axes beside each other line up
    "figure.subplot.right": 0.98,
    "figure.subplot.bottom": 0.175,
    "figure.subplot.top": 0.97,
    "font.size": 10,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.6,
}
# Colours of values from 0 to 1, and from −1 to 1, on a light page and on a dark one: more of a value, more of a colour.
LEANING = {
    "light": ["#b9d3f600", "#c4daf8", "#4870bd", "#b00c1c"],
    "dark": ["#24426b00", "#24426b", "#4973ac", "#ac71ab", "#ff5756"],
}
SIGNED = {
    "light": ["#2458ab", "#a3c2ee", "#ffffff00", "#f2c198", "#b5480f"],
    "dark": ["#74abff", "#274b7c", "#14171c00", "#74421a", "#ffa25e"],
}
GREEN = "#1a9a54"  # what is predicted
COLUMNS, ROWS = 76, 16  # of text in a PNG
CELL = 11 / 72 * 0.602, 0.2  # inches: of a sign of 11 points in matplotlib's own font, and of a line


class Line(NamedTuple):
    label: str
    x: Any
    y: Any
    colour: str
    dash: Any = "-"
    marker: str = ""


class Picture(NamedTuple):
    """`name` is that of its file; `says` tells those who cannot see it; `readout` is what is said of its points."""

    section: str
    name: str
    title: str
    says: str
    figure: Figure
    readout: dict[str, Any] | None = None  # as `models.insight.hover.readout` gives it


def pictures(report: dict[str, Any]) -> Iterator[Picture]:
    """The figures of what `models.insight.report.analyse` gives, in the order of the page."""
    with mpl.rc_context(STYLE):
        of, epochs = report["flow"], report["flow"]["over_epochs"]
        yield from run_losses(report["runs"])
        for layer in range(max(len(layers_of(model)) for model in of["models"])):
            yield from flow([model for model in of["models"] if layer < len(layers_of(model))], layer, of["bins"])
        if epochs:
            yield from over_epochs(epochs, of["bins"])
        yield by_distance(report)
        if report["gates"]:
            yield from gates(report["gates"]["layers"])
        if epochs and epochs["layers"][0]["mean_forget"] is not None:
            lines = of_layers(epochs["layers"], lambda layer: (epochs["epochs"], layer["mean_forget"]))
            yield curves("gates", "forget-over-epochs", "Mean forget gate while training", lines, "epoch", "f")


def svg(picture: Picture) -> str:
    """For a page: text stays text, ink and paper are the page's own."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": picture.name, "svg.id": picture.name}):
        picture.figure.savefig(buffer, format="svg", transparent=True, metadata=NOTHING)
    drawing = buffer.getvalue()
    drawing = re.sub(r' id="[\w.]+_\d+"', "", drawing[drawing.index("<svg") :])  # which every figure has
    return drawing.replace(INK, "currentColor").replace(PAPER, "var(--raised)")


def save_png(picture: Picture, folder: Path) -> None:
    """Raises OSError where it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(action="ignore"):  # of signs that the font lacks
        picture.figure.savefig(folder / f"{picture.name}.png", dpi=180, facecolor="white")


def run_losses(runs: dict[str, dict[str, Any]]) -> Iterator[Picture]:
    """The losses that training recorded, of each run that has a metrics.csv: nothing where none has."""
    lines, short = [], {"train": "training", "held out": "held out"}
    for name, run in runs.items():
        for part, of in run["losses"].items():
            marker, dash = "" if part == "train" else MARKERS[name], DASHED if name == "compared" else "-"
            at, nats = thinned(of["updates"], of["nats"])
            colour = COLOURS[name] if part == "held out" else LIGHTER[name]
            lines.append(Line(f"{name}, {short[part]}", at, nats, colour, dash, marker))
    if lines:
        yield curves("run", "losses", "Loss while training", lines, "update", "nats")


def flow(models: list[dict[str, Any]], layer: int, bins: Any) -> Iterator[Picture]:
    """One layer of every model: norms for both losses, on the same axes; the Jacobian; a ridge plot for each model."""
    both = {loss: [line for model in models for line in norms(model, loss, layer)] for loss in ("last", "every")}
    limits = reach(line.y for lines in both.values() for line in lines)
    for loss, where in (("last", "at the last step alone"), ("every", "at every step")):
        title = f"Layer {layer}, loss {where}: the gradient of each state"
        yield decay(
            "flow",
            f"flow-{layer}-{loss}",
            title,
            both[loss],
            r"$\|\partial L/\partial h_t\|$, $\|\partial L/\partial c_t\|$",
            limits,
        )
    jacobians = [
        Line(
            named(model),
            model["losses"]["last"]["back"],
            layers_of(model)[layer]["jacobian"],
            COLOURS[model["name"]],
            marker=MARKERS[model["name"]],
        )  # fmt: skip
        for model in models
    ]
    title = f"Layer {layer}: what is left of a change in h at the last step"
    yield decay(
        "flow",
        f"flow-{layer}-jacobian",
        title,
        jacobians,
        r"$\|\partial h_T/\partial h_t\|_2$",
        reach(line.y for line in jacobians),
    )
    for model in models:
        title = f"Layer {layer}, {named(model)}: how large the entries of ∂L/∂h are"
        histograms, colour = layers_of(model)[layer]["h"]["histogram"], COLOURS[model["name"]]
        yield ridge_plot("flow", f"flow-{layer}-{model['name']}", title, histograms, histograms[None], bins, colour)


def layers_of(model: dict[str, Any]) -> list[dict[str, Any]]:
    return list(model["losses"]["last"]["layers"])


def named(model: dict[str, Any]) -> str:
    return f"{model['name']} {model['cell'].upper()}"


def norms(model: dict[str, Any], loss: str, layer: int) -> Iterator[Line]:
    of = model["losses"][loss]
    for state, dash in (("h", "-"), ("c", DASHED)):
        if values := of["layers"][layer][state]:
            colour, marker = COLOURS[model["name"]], MARKERS[model["name"]]
            yield Line(f"{named(model)}, {state}", of["back"], values["norm"], colour, dash, marker)


def of_layers(layers: list[dict[str, Any]], points: Callable[[dict[str, Any]], tuple[Any, Any]]) -> list[Line]:
    """A line for each layer."""
    return [line_of(n, f"layer {n}", *points(layer)) for n, layer in enumerate(layers)]


def line_of(layer: int, label: str, x: Any, y: Any, dash: Any = "-") -> Line:
    return Line(label, x, y, LAYERS[layer % len(LAYERS)], dash, SHAPES[layer % len(SHAPES)])


def over_epochs(of: dict[str, Any], bins: Any) -> Iterator[Picture]:
    """Each layer's norms, step by epoch, all in the same colours; a ridge plot that a slider moves; W_hh."""
    maps = {(n, state): layer[state] for n, layer in enumerate(of["layers"]) for state in "hc"}
    maps = {place: values for place, values in maps.items() if values is not None}
    finite = np.concatenate([values[np.isfinite(values)] for values in maps.values()])
    for (layer, state), values in maps.items():
        yield heat_map(layer, state, values, of["epochs"], np.percentile(finite, (2, 100)))
    for n, layer in enumerate(of["layers"]):
        title, counts = f"Layer {n}, at one moment: how large the entries of ∂L/∂h are", layer["histograms"]
        yield ridge_plot("epochs", f"epochs-{n}-histograms", title, counts[-1], counts, bins, LAYERS[0])
    lines = of_layers(of["layers"], lambda layer: (of["epochs"], layer["largest_singular_value"]))
    lines = [line._replace(label=f"{line.label}, σ₁") for line in lines]
    lines += [
        line_of(n, f"layer {n}, ρ", of["epochs"], layer["spectral_radius"], DASHED)
        for n, layer in enumerate(of["layers"])
    ]
    title = "Recurrent weights: largest singular value σ₁, spectral radius ρ"
    yield curves("epochs", "epochs-weights", title, lines, "epoch", "")


def heat_map(layer: int, state: str, values: Any, epochs: Any, limits: Any) -> Picture:
    figure, axes = plot("steps back from the loss", "epoch")
    axes.grid(False)
    rows, steps = values.shape
    image = axes.imshow(
        values, aspect="auto", interpolation="none", cmap="magma", vmin=limits[0], vmax=limits[1],
        extent=(-0.5, steps - 0.5, rows - 0.5, -0.5),
    )  # fmt: skip
    mark = axes.axhspan(-0.5, 0.5, facecolor="none", edgecolor="none")  # the page moves it, and makes it seen
    mark.set_gid(f"epochs-{layer}-{state}-mark")
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    shown = np.unique(np.linspace(0, rows - 1, 6).round().astype(int))
    axes.set_yticks(shown, [f"{epochs[row]:g}" for row in shown])
    figure.colorbar(image, label="power of ten").outline.set_visible(False)
    figure.subplots_adjust(right=0.93)
    says = f"A heat map, from {limits[0]:.1f}, dark, to {limits[1]:.1f}, light."
    title = f"Layer {layer}: ‖∂L/∂{state}‖ by step and epoch"
    said = readout(figure, axes, [], "steps back", f"‖∂L/∂{state}‖") | {"grid": {"rows": epochs, "powers": values}}
    return Picture("epochs", f"epochs-{layer}-{state}", title, says, figure, said)


def ridges(steps: int) -> Any:
    """Those of so many steps that a ridge plot shows."""
    return np.unique(np.linspace(0, steps - 1, min(RIDGES, steps)).round().astype(int))


def ridge_plot(
    section: str, name: str, title: str, histograms: Any, all_counts: Any, bins: Any, colour: str
) -> Picture:
    """Histograms (K, n), the last step's at the bottom. There is room for all that may take their place (N, K, n), but
    for bins that hold less than a hundredth of every step's entries."""
    rows, x, heights = ridges(len(histograms)), (bins[:-1] + bins[1:]) / 2, histograms / max(1, all_counts.max())
    shown = all_counts[:, rows].astype(np.float64)
    seen = np.flatnonzero((shown > SMALLEST_SHARE * shown.sum(axis=-1, keepdims=True)).any(axis=(0, 1)))
    top = np.max(np.arange(len(rows)) + LIFT * shown.max(axis=(0, 2)) / max(1, all_counts.max()))
    figure, axes = plot("size of an entry, as a power of ten", "steps back")
    for level, row in enumerate(rows):
        axes.fill(
            x[[0, *range(len(x)), -1]], level + LIFT * np.pad(heights[row], 1), facecolor=PAPER, edgecolor=colour,
            linewidth=1.2, gid=f"{name}-ridge-{level}", zorder=3 - level / len(rows),
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [str(row) for row in rows])
    axes.set(xlim=(bins[seen[0]], bins[seen[-1] + 1]) if len(seen) else None, ylim=(-0.4, top + 0.4))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.grid(False, axis="y")
    first, last = (middle(histograms[row], x) for row in (rows[0], rows[-1]))
    says = f"A ridge plot: the middle entry is {first} at the last step, {last} at {rows[-1]} steps back."
    of_all = shares(histograms)
    points = [
        series(f"{row} steps back", x, level + LIFT * heights[row], of_all[row]) for level, row in enumerate(rows)
    ]
    said = readout(figure, axes, points, "power of ten", "share of the entries")
    return Picture(section, name, title, says, figure, said)


def middle(histogram: Any, x: Any) -> str:
    """Of what a histogram counts."""
    counts = np.cumsum(histogram, dtype=np.float64)
    return f"10^{x[np.searchsorted(counts, counts[-1] / 2)]:.1f}" if counts[-1] else "too small to count"


def by_distance(report: dict[str, Any]) -> Picture:
    """The mean of each map over the text, by how far back it looks, as a share of what all distances have."""
    of = report["connectivity"]
    maps = {name: of[name] for name in ("norm", "signed", "occlusion")} | {"integrated": of["integrated"]["values"]}
    if report["attention"]:
        maps["weights"] = report["attention"]["weights"]
    lines = []
    for (name, values), colour, marker in zip(maps.items(), LAYERS, SHAPES, strict=False):
        mean = np.abs(values).mean(axis=0, dtype=np.float64)
        lines.append(Line(NAMES[name], np.arange(len(mean)), mean / mean.sum(), colour, marker=marker))
    return decay("connectivity", "connectivity-by-distance", "How far back it leans, on average", lines, "share")


def gates(layers: list[dict[str, Any]]) -> Iterator[Picture]:
    """How often each unit's gates are shut and open; and, of an LSTM, how long its cells remember."""
    for gate in layers[0]["names"]:
        share = "share of time "
        figure, axes = plot(f"{share}< 0.1", f"{share}> 0.9", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        axes.plot([0, 1], [1, 0], color=INK, linewidth=0.7, alpha=0.4)
        for line in of_layers(layers, lambda layer: (layer["left"][gate], layer["right"][gate])):  # noqa: B023
            axes.plot(line.x, line.y, line.marker, color=line.colour, alpha=0.5, markersize=4, mew=0, label=line.label)
        axes.legend()
        shut, opened = (np.mean([layer[side][gate] for layer in layers]) for side in ("left", "right"))
        says = f"A point for each unit: on average shut {shut:.0%} of the time, open {opened:.0%}."
        points = [series(f"layer {n}", of["left"][gate], of["right"][gate]) for n, of in enumerate(layers)]
        said = readout(figure, axes, points, "share of time shut", "open", each="unit")
        yield Picture("gates", f"gate-{gate}", f"{GATES[gate]}: shut and open", says, figure, said)
    if layers[0]["mean_forget"] is None:
        return
    block = -(-len(layers[0]["mean_forget"]) // BLOCKS)  # symbols whose mean is drawn
    lines = of_layers(layers, lambda layer: in_blocks(layer["mean_forget"], block))
    yield curves("gates", "forget-over-time", f"Mean forget gate, {block} symbols at a time", lines, "symbol", "f")
    yield from half_lives(layers)
    lines = [
        line_of(n, f"layer {n}, {kind}", np.arange(len(layer[of])), layer[of], dash)
        for n, layer in enumerate(layers)
        for kind, of, dash in (("measured", "measured_decay", "-"), ("predicted", "predicted_decay", DASHED))
    ]
    title = "What is left of a cell's content: measured, and predicted by its gates"
    yield decay(
        "gates", "decay", title, lines, r"$\|\partial c_T/\partial c_t\|$ / √H", reach(line.y for line in lines)
    )


def in_blocks(values: Any, size: int) -> tuple[Any, Any]:
    """Where each block begins, and its mean; what is left over at the end is not shown."""
    return np.arange(0, len(values) - size + 1, size), values[: len(values) // size * size].reshape(-1, size).mean(1)


def half_lives(layers: list[dict[str, Any]]) -> Iterator[Picture]:
    """Nothing, where every gate is always open or always shut."""
    of_all = np.concatenate([layer["half_life"] for layer in layers])
    finite = of_all[np.isfinite(of_all) & (of_all > 0)]
    if not len(finite):
        return
    figure, axes = plot("symbols until half is forgotten", "units", xscale="log")
    edges = np.geomspace(finite.min() * 0.95, finite.max() * 1.05, 31).tolist()
    for n, layer in enumerate(layers):
        axes.hist(
            layer["half_life"], edges, color=LAYERS[n % len(LAYERS)], alpha=0.55,
            hatch=HATCHES[n % len(HATCHES)], edgecolor=INK, linewidth=0.4,
            label=f"layer {n}",
        )  # fmt: skip
    axes.legend()
    says = f"A histogram: the middle unit has {np.median(finite):.1f} symbols, the longest {finite.max():.0f}."
    middles = np.sqrt(np.array(edges[:-1]) * edges[1:])
    points = [series(f"layer {n}", middles, np.histogram(of["half_life"], edges)[0]) for n, of in enumerate(layers)]
    said = readout(figure, axes, points, "half-life of about", "units")
    yield Picture("gates", "half-life", "Half-life of each cell: ln ½ / ln f̄", says, figure, said)


def texts(report: dict[str, Any]) -> Iterator[Picture]:
    """What the page colours as one points at it, for those who have no page: what the prediction that looks farthest
    back leans on, and the text as the unit that tracks something best sees it."""
    of, symbols = report["connectivity"], report["text"]
    first, back = max(0, len(symbols) - COLUMNS * ROWS), np.arange(of["span"])
    rows = of["norm"][first:]
    at = first + int(np.argmax(rows @ back / np.maximum(rows.sum(axis=1), 1e-30)))
    leaning = np.zeros(len(symbols))
    leaning[max(0, at + 1 - of["span"]) : at + 1] = of["norm"][at, : at + 1][::-1]
    title = f"After {symbols[at]!r}, {of['predicted'][at]!r} is predicted ({of['probability'][at]:.0%})"
    with mpl.rc_context(STYLE):
        yield coloured_text("connectivity", title, symbols, leaning / max(leaning.max(), 1e-30), LEANING, at + 1)
        for best in report["units"]["ranked"][:1]:
            title = f"Layer {best['layer']}, unit {best['unit']}: {best['tracks']} (AUC {best['auc']:.2f})"
            values = (report["units"]["activations"][best["layer"], :, best["unit"]] + 1) / 2
            yield coloured_text("unit", title, symbols, values, SIGNED, COLUMNS * ROWS)


def coloured_text(
    name: str, title: str, symbols: list[str], values: Any, scale: dict[str, list[str]], target: int
) -> Picture:
    """The text up to the symbol that is predicted, in green, as much of its end as there is room for."""
    signs, places, line, column = [visible(symbol) for symbol in symbols[: target + 1]], [], 0, 0
    for symbol, sign in zip(symbols, signs, strict=False):
        if column + len(sign) > COLUMNS:
            line, column = line + 1, 0
        places.append((line, column))
        line, column = (line + 1, 0) if "\n" in symbol else (line, column + len(sign))
    top, table = max(0, line + 1 - ROWS), colours(scale["light"])
    height = CELL[1] * (line + 1 - top)
    figure = Figure(figsize=(CELL[0] * COLUMNS, height + 0.3))
    axes = figure.add_axes((0, 0, 1, height / (height + 0.3)), xlim=(0, COLUMNS), ylim=(line + 1, top))
    axes.axis("off")
    axes.set_title(visible(title), loc="left", fontsize=10, fontweight="bold", parse_math=False)
    for index, (sign, (row, place)) in enumerate(zip(signs, places, strict=True)):
        if row >= top:
            ground = GREEN if index == target else table[round(values[index] * (len(table) - 1))]
            axes.add_patch(Rectangle((place, row), len(sign), 1, facecolor=ground, linewidth=0))
            look: dict[str, Any] = {"family": "monospace", "fontsize": 11, "color": ink_on(ground, "#ffffff")}
            axes.text(place, row + 0.72, sign, parse_math=False, **look)
    return Picture("connectivity", name, title, title, figure)


def colours(stops: list[str]) -> list[str]:
    """Between the first and the last, 256 of them."""
    scale = LinearSegmentedColormap.from_list("", stops, 256)
    return [to_hex(colour, keep_alpha=True) for colour in scale(np.arange(256))]


def ink_on(colour: str, paper: str) -> str:
    """Black or white, whichever differs more from a colour on this paper (WCAG 2.2, relative luminance)."""
    *rgb, alpha = to_rgba(colour)
    mixed = alpha * np.array(rgb) + (1 - alpha) * np.array(to_rgb(paper))
    linear = np.where(mixed <= 0.04045, mixed / 12.92, ((mixed + 0.055) / 1.055) ** 2.4)
    return "#000000" if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else "#ffffff"


def visible(symbol: str) -> str:
    """What would not be seen, as signs."""
    return harmless(symbol).replace("\n", "↵").replace("\t", "→")


def plot(x: str, y: str, **options: Any) -> tuple[Figure, Axes]:
    axes = (figure := Figure()).subplots()
    axes.set(xlabel=x, ylabel=y, **options)
    return figure, axes


def curves(section: str, name: str, title: str, lines: list[Line], x: str, y: str, **options: Any) -> Picture:
    figure, axes = plot(x, y, **options)
    for line in lines:
        axes.plot(
            line.x, line.y, color=line.colour, linestyle=line.dash, label=line.label,
            marker=line.marker, markersize=4, markevery=max(1, len(line.x) // 8),
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.legend()
    ends = "; ".join(f"{line.label} from {line.y[0]:.2g} to {line.y[-1]:.2g}" for line in lines)
    said = readout(figure, axes, [series(line.label, line.x, line.y) for line in lines], x, y)
    return Picture(section, name, title, f"Lines: {ends}.", figure, said)


def decay(section: str, name: str, title: str, lines: list[Line], y: str, limits: Any = None) -> Picture:
    """Lines by steps back, in powers of ten."""
    limits = limits or reach(line.y for line in lines)
    return curves(section, name, title, lines, "steps back", y, yscale="log", ylim=limits)


def reach(values: Iterable[Any]) -> tuple[float, float]:
    """From the smallest that is more than 0 to the largest, with some room."""
    given = np.concatenate([np.ravel(part) for part in values])
    seen = given[np.isfinite(given) & (given > 0)]
    return (seen.min() / 2, seen.max() * 2) if len(seen) else (0.1, 1.0)
