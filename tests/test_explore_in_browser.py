"""The page in a real browser: it asks nobody, does what it says by mouse and by keys, and shows a text as text."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.insight.figures import ridges
from models.insight.page import DECADES, LEVELS, page, text_page
from tests.test_explore import TEXT, made_up_report, made_up_run

pytestmark = [pytest.mark.browser, pytest.mark.slow]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
REPORT = made_up_report()
OF_A_TEXT = {
    "text": ["It", "<script>", "works"],
    "labels": ["bad", "<good>"],
    "probabilities": np.array([0.25, 0.75]),
    "pooling": np.array([0.1, 0.2, 0.7]),
    "gradient": np.array([3.0, 2.0, 1.0]),
    "about": REPORT["about"] | {"bidirectional": True},
    "runs": {"trained": made_up_run("sentiment/version_0")},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])  # it may run as root
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    pages = {"report": page(REPORT, "made up"), "text": text_page(OF_A_TEXT, "made up")}
    for name, html in pages.items():
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in pages}


@pytest.fixture
def opened(browser: Any, files: dict[str, Path]) -> Iterator[Callable[..., Any]]:
    """Opens a page. At the end, whatever was done with it: nothing in the console, and nothing asked for."""
    pages, told, asked = [], [], []

    def open_page(name: str = "report", width: int = 1280, theme: str = "light") -> Any:
        tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
        tab.set_default_timeout(120_000)
        tab.on("console", lambda message: told.append(message.text))
        tab.on("pageerror", lambda error: told.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(files[name].as_uri())
        tab.evaluate("ready")
        pages.append(tab)
        return tab

    yield open_page
    for tab in pages:
        tab.close()
    assert told == []
    assert [url for url in asked if not url.startswith("data:")] == [tab.url.split("#")[0] for tab in pages]


def sign(tab: Any, id: str, n: int) -> Any:
    return tab.locator(f"#{id}-{n}")


def ground(tab: Any, id: str, n: int) -> str:
    assert sign(tab, id, n).evaluate("sign => getComputedStyle(sign).opacity") == "1"
    return str(sign(tab, id, n).evaluate("sign => getComputedStyle(sign).backgroundColor"))


def painted(tab: Any, value: float, scale: str) -> str:
    """The colour that a value should have, as the browser writes it."""
    return str(
        tab.evaluate(
            "([value, scale]) => { const one = document.createElement('span'); document.body.append(one);"
            "one.style.background = colour(value, scale)[0]; const found = getComputedStyle(one).backgroundColor;"
            "one.remove(); return found; }",
            [value, scale],
        )
    )


@pytest.mark.parametrize("name", ["report", "text"])
def test_a_page_is_no_wider_than_a_phone(name: str, opened: Callable[..., Any]) -> None:
    assert opened(name, width=360).evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_the_bar_at_the_top_hides_nothing_that_a_link_or_a_button_leads_to(
    width: int, opened: Callable[..., Any]
) -> None:
    tab = opened(width=width)

    def below_the_bar(selector: str) -> bool:
        bar, part = (
            tab.locator(of).first.evaluate("part => part.getBoundingClientRect().toJSON()") for of in ("nav", selector)
        )
        return bool(bar["bottom"] <= part["top"] < 800)

    for link in tab.locator("nav a").all():
        link.click()
        to = link.get_attribute("href")
        assert below_the_bar(f"h3{to}, {to} h2"), link.inner_text()
    tab.locator("button[data-unit]").first.click()
    assert below_the_bar("#unit-number"), "the controls of the unit that the button shows"
    for control in ("#epoch", "#unit-number", "#unit-layer", "#connectivity-map"):
        tab.evaluate("scrollTo(0, document.body.scrollHeight)")
        tab.locator(control).focus()
        assert below_the_bar(control), control


def test_a_table_that_is_cut_off_says_that_it_scrolls(opened: Callable[..., Any]) -> None:
    hint = ".wide:has([aria-labelledby=ranked-caption]) > .hint"
    phone = opened(width=390)
    assert re.fullmatch(r"Scroll sideways: \d of 6 columns are to the right →", phone.locator(hint).inner_text())
    region = phone.locator("[role=region][aria-labelledby=ranked-caption]")
    region.evaluate("region => region.scrollTo(region.scrollWidth, 0)")
    phone.wait_for_function(f"document.querySelector('{hint}').textContent === '← Scroll back'")
    first, box = (of.bounding_box() for of in (region.locator("tbody th").first, region))
    assert first["x"] >= box["x"], "the name of the row stays"
    assert not opened(width=1280).locator(hint).is_visible()


@pytest.mark.parametrize("width", [1280, 800])
def test_no_figure_is_alone_in_a_row_of_several(width: int, opened: Callable[..., Any]) -> None:
    groups = opened(width=width).evaluate("""() => [...document.querySelectorAll(".figures")].map((group) =>
        [group.getBoundingClientRect().right, [...group.children].map((figure) => {
            const { top, right } = figure.getBoundingClientRect();
            return [Math.round(top), right];
        })])""")
    for edge, figures in groups:
        if len(figures) > 1:
            last_of_rows = {top: right for top, right in figures}
            assert all(abs(right - edge) < 2 for right in last_of_rows.values()), "every row is as wide as the page"


def test_a_script_in_the_text_is_text(opened: Callable[..., Any]) -> None:
    for name, id, text in (("report", "connectivity", "<script>hacked = 1</script>"), ("text", "reading", "<script>")):
        tab = opened(name)
        assert text in tab.locator(f"#{id}-text").inner_text()
        assert tab.evaluate("typeof hacked") == "undefined"
        assert tab.locator("script").count() == 2


def test_pointing_at_a_symbol_shows_what_its_prediction_leaned_on(opened: Callable[..., Any]) -> None:
    tab, of, n = opened(), REPORT["connectivity"], 40
    sign(tab, "connectivity", n).hover()
    row = of["norm"][n - 1]
    shares = row / row.max()
    for back in (0, int(row.argmax()), of["span"] - 1):
        assert ground(tab, "connectivity", n - 1 - back) == painted(tab, float(shares[back]), "leaning")
    assert ground(tab, "connectivity", n - 1 - of["span"]) == "rgba(0, 0, 0, 0)", "beyond the span"
    assert "predicted" in str(sign(tab, "connectivity", n).get_attribute("class"))
    told = tab.locator("#connectivity-panel").inner_text()
    assert f"{of['predicted'][n - 1]} {100 * of['probability'][n - 1]:.0f}%" in told
    assert f"values (gradient norm) add up to {of['total'][n - 1]:.2g} logits per unit of x" in told
    assert f"{row.max():.2g}, {row.argmax()} back" in told


def test_a_text_is_coloured_by_what_each_symbol_cost(opened: Callable[..., Any]) -> None:
    tab, of = opened(), REPORT["losses"]
    nats, guess = of["models"][0]["nats"], of["guess"]
    for n in (1, int(np.nanargmax(nats)), 30):
        assert ground(tab, "loss", n) == painted(tab, nats[n] / guess, "leaning")
        assert ("worse" in str(sign(tab, "loss", n).get_attribute("class"))) == (nats[n] >= guess)
    assert tab.locator("#loss-legend").inner_text().split("\n") == ["0 nats", f"{guess:.2f} nats or more"]
    sign(tab, "loss", 30).hover()
    assert f"trained LSTM: {nats[30]:.2f} nats" in tab.locator("#loss-panel").inner_text()
    sign(tab, "loss", 0).hover()
    assert "it has no loss" in tab.locator("#loss-panel").inner_text() and ground(tab, "loss", 0) == "rgba(0, 0, 0, 0)"
    tab.locator("#costliest button").first.click()
    costliest = sign(tab, "loss", int(np.nanargmax(nats)))
    assert costliest.get_attribute("aria-selected") == "true", "the first button leads to the largest loss"
    tab.select_option("#loss-model", label="compared RNN less trained LSTM")
    more = of["models"][2]["nats"][30] - nats[30]
    assert ground(tab, "loss", 30) == painted(tab, more / guess, "signed")


def test_nothing_ahead_of_a_prediction_is_coloured(opened: Callable[..., Any]) -> None:
    tab = opened()
    sign(tab, "connectivity", 30).hover()
    sign(tab, "connectivity", 10).hover()
    assert {ground(tab, "connectivity", n) for n in range(11, 60)} == {"rgba(0, 0, 0, 0)"}


def test_colours_span_a_row_or_all_in_linear_or_logarithmic_steps(opened: Callable[..., Any]) -> None:
    tab, n = opened(), 40
    row, most = REPORT["connectivity"]["norm"][n - 1], REPORT["connectivity"]["norm"].max()
    sign(tab, "connectivity", n).hover()
    tab.select_option("#connectivity-range", "all")
    assert ground(tab, "connectivity", n - 3) == painted(tab, float(row[2] / most), "leaning")
    assert tab.locator("#connectivity-legend").inner_text().split() == [
        "0",
        f"{most:.2g}",
        *"logits per unit of x".split(),
    ]
    tab.select_option("#connectivity-steps", "log")
    level = 1 + np.log10(row[2] / most) / 3
    assert ground(tab, "connectivity", n - 3) == painted(tab, float(level), "leaning")
    tab.select_option("#connectivity-range", "row")
    assert ground(tab, "connectivity", n - 1 - int(row.argmax())) == painted(tab, 1.0, "leaning")


def test_the_other_maps_have_signs_and_integrated_gradients_their_rows(
    opened: Callable[..., Any],
) -> None:
    tab, of = opened(), REPORT["connectivity"]
    for name in ("signed", "occlusion"):
        tab.select_option("#connectivity-map", name)
        sign(tab, "connectivity", 41).hover()
        row = of[name][40]
        assert ground(tab, "connectivity", 40) == painted(tab, float(row[0] / np.abs(row).max()), "signed")
    tab.select_option("#connectivity-map", "integrated")
    rows = of["integrated"]["rows"]
    elsewhere = int(rows[1]) + 3
    sign(tab, "connectivity", elsewhere).hover()
    assert "predicted" in str(sign(tab, "connectivity", elsewhere).get_attribute("class")), "the chosen one"
    assert {ground(tab, "connectivity", n) for n in range(elsewhere)} == {"rgba(0, 0, 0, 0)"}
    assert "computed for 3 predictions" in tab.locator("#connectivity-panel").inner_text()
    tab.locator("#connectivity-panel button").first.click()
    assert "predicted" in str(sign(tab, "connectivity", int(rows[1]) + 1).get_attribute("class")), "the one before"
    row = of["integrated"]["values"][1]
    assert ground(tab, "connectivity", int(rows[1])) == painted(tab, float(row[0] / np.abs(row).max()), "signed")
    assert "there" in str(sign(tab, "connectivity", int(rows[2]) + 1).get_attribute("class"))


def test_arrow_keys_step_through_a_text(opened: Callable[..., Any]) -> None:
    tab = opened()
    box = tab.locator("#connectivity-text")
    sign(tab, "connectivity", 5).click()
    box.focus()

    def now() -> int:
        return int(str(box.get_attribute("aria-activedescendant")).removeprefix("connectivity-"))

    for key, where in (("ArrowRight", 6), ("ArrowLeft", 5), ("ArrowLeft", 4), ("Home", 0), ("ArrowLeft", 0)):
        box.press(key)
        assert now() == where and sign(tab, "connectivity", where).get_attribute("aria-selected") == "true", key
    lines = TEXT.split("\n")
    sign(tab, "connectivity", 5).click()
    box.press("ArrowDown")
    assert len(lines[0]) < now() <= len(lines[0]) + 1 + len(lines[1]), "in the next line"
    box.press("ArrowUp")
    assert now() <= len(lines[0])
    box.press("End")
    assert now() == len(TEXT), "what comes after the last symbol"


def test_arrow_keys_step_through_units_and_colour_the_text(opened: Callable[..., Any]) -> None:
    tab, values = opened(), REPORT["units"]["activations"]
    box, best = tab.locator("#units-text"), REPORT["units"]["ranked"][0]
    box.focus()

    def coloured_as(layer: int, unit: int) -> bool:
        shown = [round(127 * float(values[layer, n, unit])) / 127 for n in (0, 7, 50)]
        return [ground(tab, "units", n) for n in (0, 7, 50)] == [painted(tab, value, "signed") for value in shown]

    assert coloured_as(best["layer"], best["unit"]), "the best one first"
    assert tab.locator("#unit-tracks").inner_text() == "quotes"
    for key, layer, unit in (("ArrowDown", 1, 4), ("ArrowUp", 1, 3), ("ArrowUp", 1, 2)):
        box.press(key)
        assert coloured_as(layer, unit), key
    tab.fill("#unit-number", "0")
    box.press("ArrowUp")
    assert coloured_as(0, values.shape[2] - 1), "the last of the layer below"
    tab.locator("button[data-unit]").click()
    assert coloured_as(best["layer"], best["unit"])
    box.press("Home")
    box.press("ArrowRight")
    told = re.split(r"\s+", tab.locator("#units-panel").inner_text())
    assert f"{values[best['layer'], 1, best['unit']]:.2f}".replace("-", "−") + "." in told and "50%" in told


def test_the_slider_moves_ridges_marks_and_table(opened: Callable[..., Any]) -> None:
    tab, of = opened(), REPORT["flow"]["over_epochs"]
    ridge = tab.locator("#epochs-1-histograms-ridge-0 path")
    slider = tab.locator("#epoch")

    def heights() -> Any:
        points = np.array(
            [pair.split(" ") for pair in re.findall(r"-?[\d.]+ -?[\d.]+", ridge.get_attribute("d"))], float
        )
        return points[0, 1] - points[1:-1, 1]

    slider.focus()
    for key, epoch in (("End", 4), ("ArrowLeft", 3), ("Home", 0)):
        slider.press(key)
        counts = of["layers"][1]["histograms"][epoch, ridges(16)[0]]
        shape = heights() / heights().max()
        assert np.abs(shape - counts / counts.max()).max() < 0.01, "255 levels, and a tenth of a pixel"
        assert tab.locator("#epoch-now").inner_text() == str(epoch)
        radius = of["layers"][1]["spectral_radius"][epoch]
        assert f"{radius:.3f}" in tab.locator("#epoch-table").inner_text()
        image, mark = (
            tab.locator(f"#epochs-0-h {of}").first.evaluate("part => part.getBoundingClientRect().toJSON()")
            for of in ("image", "g[id$=mark] path")
        )
        assert abs(mark["top"] - image["top"] - epoch * image["height"] / 5) < 1, "a pixel"


def point_at(tab: Any, name: str, line: int, n: int) -> str:
    """Moves the pointer to where a figure should have this point of this line; what the figure says then."""
    said = tab.evaluate("name => given.figures[name]", name)
    of = tab.evaluate("([name, line]) => figures[name].series[line]", [name, line])
    left, top, right, bottom = said["box"]

    def along(value: float, limits: list[Any], low: float, high: float) -> float:
        at, first, last = (float(np.log10(of)) if limits[2] else float(of) for of in (value, *limits[:2]))
        return low + (at - first) / (last - first) * (high - low)

    x, y = along(of["x"][n], said["x"], left, right), along(of["y"][n], said["y"], bottom, top)
    box = tab.locator(f"#{name}-figure svg")
    box.scroll_into_view_if_needed()
    drawn = box.bounding_box()
    scale = drawn["width"] / 309.6  # 4.3 inches of 72
    tab.mouse.move(drawn["x"] + x * scale, drawn["y"] + y * scale)
    return str(tab.locator(f"#{name}-value").inner_text())


def test_a_figure_says_the_values_at_the_pointer(opened: Callable[..., Any]) -> None:
    tab, flow = opened(), REPORT["flow"]
    norm = flow["models"][0]["losses"]["last"]["layers"][1]["jacobian"][7]
    told = point_at(tab, "flow-1-jacobian", 0, 7)
    assert told.startswith("trained LSTM: steps back 7, ‖∂h_T/∂h_t‖_2 ")
    assert abs(float(told.split()[-1].replace("−", "-")) / norm - 1) < 0.06, "two digits or three"
    counts = flow["models"][0]["losses"]["last"]["layers"][0]["h"]["histogram"]
    row = int(ridges(16)[2])
    told = point_at(tab, "flow-0-trained", 2, int(counts[row].argmax()))
    assert f"{row} steps back: " in told and f"share of the entries {counts[row].max() / counts[row].sum():.3g}" in told
    lives = REPORT["gates"]["layers"][0]["half_life"]
    heights = tab.evaluate("figures['half-life'].series[0].y")
    assert sum(heights) == np.isfinite(lives).sum()
    told = point_at(tab, "half-life", 0, int(np.argmax(heights)))
    assert re.fullmatch(r"layer [01]: half-life of about [\d.]+, units \d", told)
    left, right = (REPORT["gates"]["layers"][1][side]["f"][4] for side in ("left", "right"))
    assert point_at(tab, "gate-f", 1, 4).endswith(f"unit 4: share of time shut {left:.3g}, open {right:.3g}")
    power = flow["over_epochs"]["layers"][0]["c"][2, 9]
    told = point_at(tab, "epochs-0-c", 2, 9)
    assert told.startswith("epoch 2: steps back 9, ‖∂L/∂c‖ ")
    assert abs(float(told.split()[-1]) / 10**power - 1) < 0.01, "three digits"


def test_every_figure_says_values_by_keys_too(opened: Callable[..., Any]) -> None:
    tab = opened()
    names = tab.evaluate("Object.keys(given.figures)")
    assert len(names) == tab.locator("figure").count() > 20
    for name in names:
        figure = tab.locator(f"#{name}-figure")
        figure.press("ArrowRight")
        first = tab.locator(f"#{name}-value").inner_text()
        for key in ("ArrowRight", "ArrowUp"):
            figure.press(key)
        assert first and tab.locator(f"#{name}-value").inner_text() != first, name
        assert tab.locator(f"#{name}-figure circle").count() == 1


def test_the_slider_moves_the_values_of_the_ridges(opened: Callable[..., Any]) -> None:
    tab, of = opened(), REPORT["flow"]["over_epochs"]["layers"][0]["histograms"]
    tab.locator("#epoch").press("Home")
    counts = of[0, ridges(16)[0]]
    best = int(counts.argmax())
    told = point_at(tab, "epochs-0-histograms", 0, best)
    assert abs(float(told.split()[-1]) - counts[best] / counts.sum()) < 0.003, "255 levels"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_more_of_a_value_never_looks_like_less(theme: str, opened: Callable[..., Any]) -> None:
    """How far a colour is from the page, in CIELAB, where distances are as large as they look."""
    tab = opened(theme=theme)
    seen = tab.evaluate("""() => {
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const look = (value, scale) => {
            const one = document.createElement("span");
            document.body.append(one);
            one.style.background = colour(value, scale)[0];
            for (const element of [document.body, one]) {
                canvas.fillStyle = getComputedStyle(element).backgroundColor;
                canvas.fillRect(0, 0, 1, 1);
            }
            one.remove();
            return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        const values = [...Array(101).keys()].map((n) => n / 100);
        const of = (scale, by) => values.map((value) => look(by * value, scale));
        return [of("leaning", 1), of("signed", 1), of("signed", -1)];
    }""")
    for name, colours in zip(("leaning", "positive", "negative"), seen, strict=True):
        distance = np.linalg.norm(cielab(colours) - cielab(colours[:1]), axis=1)
        fallen = np.maximum.accumulate(distance) - distance
        assert distance[-1] > 70 and fallen.max() < 1, f"{name}: a distance of 1 is what an eye can just tell"


def cielab(colours: list[list[int]]) -> Any:
    """(n, 3) of sRGB's 0 to 255 to L*, a*, b* (CIE 15; white point D65)."""
    rgb = np.array(colours) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    ratio = linear @ to_xyz.T / to_xyz.sum(1)
    x, y, z = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def test_the_numbers_arrive_as_they_were_packed(opened: Callable[..., Any]) -> None:
    tab, truth = opened(), REPORT["connectivity"]["signed"]
    seen = tab.evaluate("""async () => {
        const map = await opened(given.maps.connectivity.signed);
        return given.symbols.map((_, row) => Array.from({ length: map.span }, (_, back) => map.value(row, back)));
    }""")
    half = 10 ** (DECADES / LEVELS / 2) - 1 + 1e-6  # a level, and float32
    kept = np.abs(truth) > 10.0**-DECADES * np.abs(truth).max(1, keepdims=True) * 1.01
    assert (np.abs(np.array(seen) - truth)[kept] <= half * np.abs(truth)[kept]).all()


def test_the_theme_is_the_systems_until_one_chooses(opened: Callable[..., Any]) -> None:
    def paper(tab: Any) -> str:
        return str(tab.evaluate("getComputedStyle(document.body).backgroundColor"))

    light, dark = opened(theme="light"), opened(theme="dark")
    assert paper(light) == "rgb(255, 255, 255)" != paper(dark)
    light.click("#theme")
    dark.click("#theme")
    assert paper(dark) == "rgb(255, 255, 255)" != paper(light) and dark.locator("#theme").inner_text() == "Dark"


def test_what_has_the_focus_is_seen(opened: Callable[..., Any]) -> None:
    tab, names = opened(), []
    while not names or names[-1]:
        tab.keyboard.press("Tab")
        name, style = tab.evaluate(
            "() => { const { activeElement: at, body } = document;"
            "return [at === body ? '' : at.id || at.textContent, getComputedStyle(at).outlineStyle]; }"
        )
        assert style == "solid" or not name, name
        names.append(name)
    assert names[0] == "Run"
    assert {"theme", "epoch", "connectivity-map", "connectivity-text", "attention-text", "units-text", "quotes"} <= {
        *names
    }


def test_attention_is_drawn_likewise(opened: Callable[..., Any]) -> None:
    tab, row = opened(), REPORT["attention"]["weights"][39]
    sign(tab, "attention", 40).hover()
    assert ground(tab, "attention", 38) == painted(tab, float(row[1] / row.max()), "leaning")


def test_a_classifiers_words_are_coloured_by_what_they_counted(opened: Callable[..., Any]) -> None:
    tab = opened("text")
    assert [ground(tab, "reading", n) for n in range(3)] == [painted(tab, v / 0.7, "leaning") for v in (0.1, 0.2, 0.7)]
    tab.select_option("#reading-map", "gradient")
    assert [ground(tab, "reading", n) for n in range(3)] == [painted(tab, v / 3, "leaning") for v in (3, 2, 1)]
    sign(tab, "reading", 1).hover()
    assert tab.locator("#reading-panel").inner_text().split() == ["<script>", "pooling", "0.20", "gradient", "2.0"]
