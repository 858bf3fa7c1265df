"use strict";
// What the page does: it colours texts by numbers that lie packed inside it, and moves what the epoch's slider moves.

const given = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

async function unpacked({ kind, bytes }) {
  const compressed = Uint8Array.from(atob(bytes), (sign) => sign.charCodeAt(0));
  const stream = new Blob([compressed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new globalThis[kind](await new Response(stream).arrayBuffer());
}

function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

// White space that would not be seen, as signs.
const visible = (symbol) => symbol.replaceAll("\n", "↵").replaceAll("\t", "→").replace(/^ +$/, (s) => "␣".repeat(s.length));

function number(value) {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 0.01 || size >= 10000) return value.toExponential(1).replace("e+", "e").replace("-", "−").replace("e-", "e−");
  return (size >= 100 ? value.toFixed(0) : value.toPrecision(2)).replace("-", "−");
}
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;

// The colour of a value, and of a sign upon it: from 0 to 1 on the scale "leaning", from −1 to 1 on "signed".
function colour(value, scale) {
  const colours = given.scales[scale];
  const share = scale === "signed" ? (value + 1) / 2 : value;
  return colours[Math.round(clamp(share, 0, 1) * (colours.length - 1))];
}

function gradient(scale) {
  const stops = Array.from({ length: 33 }, (_, n) => colour(scale === "signed" ? n / 16 - 1 : n / 32, scale)[0]);
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

function legend(id, scale, from, to) {
  const [first, bar, last] = byId(id).children;
  [first.textContent, bar.style.background, last.textContent] = [from, gradient(scale), to];
}

// A text whose symbols can be pointed at, by mouse, finger or keys. `pointed` learns which one is; `keys` may take more.
function reader(id, symbols, pointed, keys = {}) {
  const box = byId(`${id}-text`);
  const signs = symbols.map((symbol, n) => {
    const text = symbol.replaceAll("\n", "↵\n").replaceAll("\t", "→\t");
    const sign = make("span", { id: `${id}-${n}`, textContent: text, role: "option", className: text === symbol ? "" : "white" });
    sign.dataset.n = n;
    return sign;
  });
  box.append(...signs);
  let now = 0;
  function point(n, scroll) {
    signs[now].classList.remove("now");
    signs[now].setAttribute("aria-selected", "false");
    now = clamp(n, 0, signs.length - 1);
    signs[now].classList.add("now");
    signs[now].setAttribute("aria-selected", "true");
    box.setAttribute("aria-activedescendant", signs[now].id);
    if (scroll) signs[now].scrollIntoView({ block: "nearest", inline: "nearest" });
    pointed(now);
  }
  function line(direction) {
    const { offsetTop: top, offsetLeft: left } = signs[now];
    let n = now;
    while (signs[n] && Math.abs(signs[n].offsetTop - top) < 3) n += direction;
    if (!signs[n]) return now;
    const other = signs[n].offsetTop;
    let best = n;
    for (; signs[n] && Math.abs(signs[n].offsetTop - other) < 3; n += direction)
      if (Math.abs(signs[n].offsetLeft - left) < Math.abs(signs[best].offsetLeft - left)) best = n;
    return best;
  }
  const moves = {
    ArrowLeft: () => now - 1, ArrowRight: () => now + 1, ArrowUp: () => line(-1), ArrowDown: () => line(1),
    Home: () => 0, End: () => signs.length - 1,
  };
  box.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys || event.key in moves)) return;
    event.preventDefault();
    if (event.key in keys) keys[event.key]();
    else point(moves[event.key](), true);
  });
  for (const kind of ["pointerover", "pointerdown"])
    box.addEventListener(kind, ({ target }) => target.dataset.n && point(Number(target.dataset.n), false));
  return { signs, point, again: () => pointed(now) };
}

function paint(sign, value, scale) {
  [sign.style.background, sign.style.color] = value === null ? ["", ""] : colour(value, scale);
}

function bar(share) {
  const filled = make("i");
  filled.style.width = percent(share);
  return make("span", { className: "bar" }, filled);
}
const code = (symbol, className = "") => make("code", { textContent: visible(symbol), className });

// A map's values of one row: [t̃, steps back]. Row r of a map that has only some is of the text's `rows[r]`.
async function opened(map) {
  const [most, steps] = [await unpacked(map.most), await unpacked(map.steps)];
  const value = (row, back) => {
    const step = steps[row * map.span + back];
    return step && Math.sign(step) * most[row] * 10 ** ((Math.abs(step) / map.levels - 1) * map.decades);
  };
  return { ...map, most, value, mostOfAll: most.reduce((a, b) => Math.max(a, b), 0) };
}

// How much of a colour a value has: its share of the most, or how far down three powers of ten it lies.
function share(value, most, steps) {
  if (!value || !most) return 0;
  const size = Math.abs(value) / most;
  return Math.sign(value) * (steps === "log" ? clamp(1 + Math.log10(size) / 3, 0, 1) : size);
}

// What the prediction of each symbol leaned on, coloured. The symbol at n is predicted by row n − 1.
async function leaning(id, packedMaps) {
  const maps = {};
  for (const [name, map] of Object.entries(packedMaps)) maps[name] = await opened(map);
  const chosen = (what, otherwise) => byId(`${id}-${what}`)?.value ?? otherwise;
  let coloured = [];
  let target = null;
  function show(n) {
    const map = maps[chosen("map", Object.keys(maps)[0])];
    const [range, steps] = [chosen("range", "row"), chosen("steps", "linear")];
    for (const sign of coloured) paint(sign, null);
    target?.classList.remove("predicted");
    const at = n - 1;
    const row = map.rows ? map.rows.indexOf(at) : at;
    const [panel, some] = [byId(`${id}-panel`), []];
    panel.replaceChildren();
    coloured = [];
    if (at < 0) return panel.append(make("p", { textContent: "Nothing was read before the first symbol." }));
    target = text.signs[at + 1];
    target.classList.add("predicted");
    const said = make("p", {}, "Expected here: ", code(given.predicted[at], "predicted"), ` ${percent(given.probability[at])}`);
    if (at + 1 < given.symbols.length) said.append("; the text has ", code(given.symbols[at + 1]));
    said.append(".");
    if (row < 0) return panel.append(said, elsewhere(map, at));
    const most = range === "all" ? map.mostOfAll : map.most[row];
    for (let back = 0; back < Math.min(map.span, at + 1); back++) {
      const value = map.value(row, back);
      paint(text.signs[at - back], share(value, most, steps), map.scale);
      coloured.push(text.signs[at - back]);
      some.push([value, back]);
    }
    const least = steps === "log" ? number(most / 1000) : "0";
    if (map.scale === "leaning") legend(`${id}-legend`, map.scale, least, `${number(most)} ${map.unit}`);
    else legend(`${id}-legend`, map.scale, number(-most), `${number(most)} ${map.unit}; in the middle ${least}`);
    const total = some.reduce((sum, [value]) => sum + Math.abs(value), 0);
    const sum = number(id === "connectivity" && map === maps.norm ? given.total[at] : total);
    said.append(` The sizes of this row's values (${map.name}) add up to ${sum} ${map.unit}.`);
    some.sort(([a], [b]) => Math.abs(b) - Math.abs(a));
    const most5 = some.slice(0, 5).filter(([value]) => value);
    panel.append(said, make("ul", {}, ...most5.map(([value, back]) =>
      make("li", {}, code(given.symbols[at - back]), ` ${number(value)}, ${back} back`))));
  }
  // A map that has only some predictions stays at the chosen symbol, and says where it has values.
  function elsewhere(map, at) {
    legend(`${id}-legend`, map.scale, "not computed here", "");
    const before = map.rows.filter((t) => t < at).slice(-1);
    const after = map.rows.filter((t) => t > at).slice(0, 1);
    const buttons = [...before, ...after].map((t) => {
      const button = make("button", { type: "button" }, code([...given.symbols, "▢"][t + 1]), ` at ${t + 1}`);
      button.addEventListener("click", () => text.point(t + 1, true));
      return make("li", {}, button);
    });
    const told = `The map of ${map.name} was computed for ${map.rows.length} predictions, which are underlined, and not for this one. The nearest:`;
    return make("div", {}, make("p", { textContent: told }), make("ul", {}, ...buttons));
  }
  const text = reader(id, [...given.symbols, "▢"], show);
  for (const what of ["map", "range", "steps"])
    byId(`${id}-${what}`)?.addEventListener("change", () => {
      const rows = new Set(maps[chosen("map")]?.rows?.map((row) => row + 1));
      text.signs.forEach((sign, n) => sign.classList.toggle("there", rows.has(n)));
      text.again();
    });
  text.point(Math.min(given.symbols.length, 60), false);
}

// The text coloured by what each symbol cost a model, or by how much more it cost one model than another.
function losses({ models, guess }) {
  const select = byId("loss-model");
  const [first, compared] = [models[0], models.find(({ name }) => name.startsWith("compared"))];
  const choices = models.map(({ name, nats }) => ({ name, nats, scale: "leaning" }));
  if (compared) {
    const more = first.nats.map((nats, n) => (nats === null ? null : compared.nats[n] - nats));
    choices.push({ name: `${compared.name} less ${first.name}`, nats: more, scale: "signed" });
  }
  select.append(...choices.map(({ name }, n) => make("option", { textContent: name, value: n })));
  const inNats = (value) => `${value.toFixed(2).replace("-", "−")} nats`;
  const text = reader("loss", given.symbols, (n) => {
    const told = models.map(({ name, nats }) => make("li", {
      textContent: nats[n] === null ? `${name}: –` : `${name}: ${inNats(nats[n])}, probability ${percent(Math.exp(-nats[n]))}`,
    }));
    const where = make("p", {}, code(given.symbols[n]));
    if (n) where.append(` at ${n}; likeliest here: `, code(given.predicted[n - 1]), ` ${percent(given.probability[n - 1])}`);
    else where.append(" Nothing was read before the first symbol: it has no loss.");
    byId("loss-panel").replaceChildren(where, make("ul", {}, ...told));
  });
  function show() {
    const { nats, scale } = choices[Number(select.value)];
    text.signs.forEach((sign, n) => {
      paint(sign, nats[n] === null ? null : nats[n] / guess, scale);
      sign.classList.toggle("worse", scale === "leaning" && nats[n] !== null && nats[n] >= guess);
    });
    if (scale === "leaning") legend("loss-legend", scale, "0 nats", `${guess.toFixed(2)} nats or more`);
    else legend("loss-legend", scale, `−${guess.toFixed(2)} nats: costs less`, `${guess.toFixed(2)} nats: costs more`);
    const costliest = nats.map((value, n) => [value, n]).filter(([value]) => value !== null);
    costliest.sort(([a], [b]) => b - a);
    byId("costliest").replaceChildren(...costliest.slice(0, 8).map(([value, n]) => {
      const button = make("button", { type: "button" }, code(given.symbols[n]), ` ${inNats(value)} at ${n}`);
      button.addEventListener("click", () => text.point(n, true));
      return make("li", {}, button);
    }));
    text.again();
  }
  select.addEventListener("change", show);
  show();
}

async function units({ kind, values: packedValues, top }) {
  const values = await unpacked(packedValues);
  const [layer, unit] = [byId("unit-layer"), byId("unit-number")];
  const [length, size] = [given.symbols.length, Number(unit.max) + 1];
  const value = (n) => values[(Number(layer.value) * size + Number(unit.value)) * length + n] / 127;
  const buttons = [...document.querySelectorAll("button[data-unit]")];
  function show() {
    unit.value = clamp(Math.round(Number(unit.value)) || 0, 0, size - 1);
    const known = buttons.filter(({ dataset }) => dataset.layer === layer.value && dataset.unit === unit.value);
    byId("unit-tracks").textContent = known.map((button) => button.textContent).join(", ");
    text.signs.forEach((sign, n) => paint(sign, value(n), "signed"));
    text.again();
  }
  function step(by) {
    const place = Number(layer.value) * size + Number(unit.value) + by;
    if (place < 0 || place >= size * layer.length) return;
    [layer.value, unit.value] = [Math.floor(place / size), place % size];
    show();
  }
  const text = reader("units", given.symbols, (n) => {
    byId("units-panel").replaceChildren(
      make("p", {}, code(given.symbols[n]), ` ${kind} = ${value(n).toFixed(2).replace("-", "−")}. Expected next:`),
      make("ul", {}, ...top[n].map(([symbol, chance]) =>
        make("li", {}, code(symbol), ` ${percent(chance)}`, bar(chance)))));
  }, { ArrowUp: () => step(-1), ArrowDown: () => step(1) });
  for (const control of [layer, unit]) control.addEventListener("input", show);
  byId("unit-before").addEventListener("click", () => step(-1));
  byId("unit-after").addEventListener("click", () => step(1));
  for (const button of buttons)
    button.addEventListener("click", () => {
      [layer.value, unit.value] = [button.dataset.layer, button.dataset.unit];
      show();
      byId("units-text").focus({ preventScroll: true });
      byId("units").querySelector(".controls").scrollIntoView({ block: "start" });
    });
  legend("units-legend", "signed", "−1", "1");
  text.point(0, false);
  if (buttons.length) [layer.value, unit.value] = [buttons[0].dataset.layer, buttons[0].dataset.unit];
  show();
}

// A figure says the values of the point that is nearest to the pointer, or that the arrow keys have reached.
const figures = {};
const exact = (value) => (Number.isInteger(value) ? String(value) : Math.abs(value) < 0.001 || Math.abs(value) >= 1e5
  ? number(value) : String(Number(value.toPrecision(3)))).replace("-", "−");

async function valuesOf(name, said) {
  const box = byId(`${name}-figure`);
  const svg = box.querySelector("svg");
  const [left, top, right, bottom] = said.box;
  const series = said.grid ? await rowsOf(said.grid) : said.series;
  const along = (value, [from, to, log], low, high) => {
    const on = log ? Math.log10 : (of) => of;
    return low + ((on(value) - on(from)) / (on(to) - on(from))) * (high - low);
  };
  // Where a point is drawn, or nothing if it is not.
  function place({ x, y }, n) {
    if (x[n] === null || y[n] === null) return null;
    const [across, down] = [along(x[n], said.x, left, right), along(y[n], said.y, bottom, top)];
    return across > left - 1 && across < right + 1 && down > top - 1 && down < bottom + 1 ? [across, down] : null;
  }
  function nearest(across, down, among) {
    let [best, distance] = [null, Infinity];
    for (const line of among)
      for (let n = 0; n < series[line].x.length; n++) {
        const at = place(series[line], n);
        const square = at ? (at[0] - across) ** 2 + (at[1] - down) ** 2 : Infinity;
        if (square < distance) [best, distance] = [[line, n], square];
      }
    return best;
  }
  const mark = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  for (const [attribute, value] of Object.entries({ r: 4.5, fill: "none", stroke: "currentColor", "stroke-width": 1.5 }))
    mark.setAttribute(attribute, value);
  let now = null;
  function show(point) {
    if (!point) return;
    now = point;
    const [line, n] = point;
    const { label, x, y, value } = series[line];
    const at = place(series[line], n);
    mark.remove();
    if (at) {
      [mark.cx.baseVal.value, mark.cy.baseVal.value] = at;
      svg.append(mark);
    }
    const which = said.each ? `${label}, ${said.each} ${n}` : label;
    byId(`${name}-value`).textContent =
      `${which}: ${said.names[0]} ${exact(x[n])}, ${said.names[1]} ${exact(value ? value[n] : y[n])}`;
  }
  for (const kind of ["pointermove", "pointerdown"])
    box.addEventListener(kind, ({ clientX, clientY }) => {
      const [drawn, { width, height }] = [svg.getBoundingClientRect(), svg.viewBox.baseVal];
      const across = ((clientX - drawn.left) / drawn.width) * width;
      show(nearest(across, ((clientY - drawn.top) / drawn.height) * height, series.keys()));
    });
  box.addEventListener("keydown", (event) => {
    const [by, up] = [{ ArrowLeft: -1, ArrowRight: 1 }[event.key], { ArrowUp: 1, ArrowDown: -1 }[event.key]];
    if (event.ctrlKey || event.metaKey || event.altKey || !(by || up)) return;
    event.preventDefault();
    if (!now) return show(nearest(left, bottom, series.keys()));
    let [line, n] = now;
    if (by) {
      do n += by; while (n >= 0 && n < series[line].x.length && !place(series[line], n));
      if (n >= 0 && n < series[line].x.length) show([line, n]);
    } else if (series[line + up]) show(nearest(...(place(series[line], n) ?? [left, bottom]), [line + up]));
  });
  figures[name] = { series, again: () => show(now) };
}

// A map's rows, from the powers of ten that are packed in thousandths.
async function rowsOf({ rows, columns, powers }) {
  const values = await unpacked(powers);
  const x = Array.from({ length: columns }, (_, n) => n);
  return rows.map((epoch, row) => ({
    label: `epoch ${exact(epoch)}`, x, y: x.map(() => row),
    value: x.map((n) => 10 ** (values[row * columns + n] / 1000)),
  }));
}

// The ridges are the figure's own lines: each begins at the height of its foot, and has a point for each bin.
async function training({ epochs, clipped, lift, bins, layers }) {
  const [slider, table] = [byId("epoch"), byId("epoch-table")];
  const frames = await Promise.all(layers.map((layer) => unpacked(layer.frames)));
  const lines = layers.map((_, n) => [...document.querySelectorAll(`g[id^="epochs-${n}-histograms-ridge-"] path`)].map((path) => ({
    path,
    level: Number(path.parentNode.id.split("-").pop()),
    points: path.getAttribute("d").match(/-?[\d.]+ -?[\d.]+/g).map((point) => point.split(" ").map(Number)),
  })));
  const marks = [...document.querySelectorAll('g[id^="epochs-"][id$="-mark"]')];
  function show() {
    const now = Number(slider.value);
    byId("epoch-now").textContent = epochs[now];
    slider.setAttribute("aria-valuetext", `epoch ${epochs[now]}`);
    for (const mark of marks) mark.style.transform = `translateY(${now * mark.getBBox().height}px)`;
    lines.forEach((ridges, n) => {
      const foot = (level) => ridges.find((ridge) => ridge.level === level)?.points[0][1];
      const pitch = foot(0) - (foot(1) ?? foot(0) - 20);
      for (const { path, level, points } of ridges) {
        const start = (now * ridges.length + level) * bins;
        const counts = frames[n].subarray(start, start + bins);
        const between = points.slice(1, bins + 1).map(([x], bin) => `L${x} ${points[0][1] - (lift * pitch * counts[bin]) / 255}`);
        path.setAttribute("d", `M${points[0].join(" ")}${between.join("")}L${points[bins + 1].join(" ")}Z`);
        const of = figures[`epochs-${n}-histograms`].series[level];
        const all = Math.max(1, counts.reduce((sum, count) => sum + count, 0));
        of.y = Array.from(counts, (count) => level + (lift * count) / 255);
        of.value = Array.from(counts, (count) => count / all);
      }
      figures[`epochs-${n}-histograms`].again();
    });
    byId("epoch-caption").textContent = `After epoch ${epochs[now]}; ${percent(clipped[now])} of the updates before it were clipped.`;
    table.tBodies[0].replaceChildren(...layers.map((layer, n) => make("tr", {}, make("th", { scope: "row", textContent: n }),
      ...["spectral_radius", "largest_singular_value", "mean_slope", "mean_forget"].map((name) =>
        make("td", { textContent: layer[name] ? layer[name][now].toFixed(3) : "–" })))));
  }
  [slider.max, slider.value] = [epochs.length - 1, epochs.length - 1];
  slider.addEventListener("input", show);
  show();
}

// A classifier's text, coloured by each word's share.
function reading(shares) {
  const map = byId("reading-map");
  const most = () => Math.max(...shares[map.value]);
  const text = reader("reading", given.symbols.map((symbol) => `${symbol} `), (n) => {
    const items = Object.entries(shares).map(([name, values]) => make("li", { textContent: `${name} ${number(values[n])}` }));
    byId("reading-panel").replaceChildren(make("p", {}, code(given.symbols[n])), make("ul", {}, ...items));
  });
  function show() {
    text.signs.forEach((sign, n) => paint(sign, shares[map.value][n] / most(), "leaning"));
    legend("reading-legend", "leaning", "0", number(most()));
  }
  map.addEventListener("change", show);
  show();
  text.point(0, false);
}

function theme() {
  const root = document.documentElement;
  const dark = () => (root.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const tell = () => (byId("theme").textContent = dark() ? "Light" : "Dark");
  byId("theme").addEventListener("click", () => {
    root.style.colorScheme = dark() ? "light" : "dark";
    tell();
  });
  tell();
}

// Links lead to what is below the bar that stays at the top: as far below as the bar is high on this screen.
function belowTheBar() {
  const bar = document.querySelector("nav");
  const measure = () => (document.documentElement.style.scrollPaddingTop = `${bar.offsetHeight + 12}px`);
  new ResizeObserver(measure).observe(bar);
  measure();
}

// A table that is wider than the screen says so, and can be scrolled with the keys.
function wideTables() {
  for (const wide of document.querySelectorAll(".wide")) {
    const [hint, scrolls] = wide.children;
    const measure = () => {
      const { right } = scrolls.getBoundingClientRect();
      const columns = [...scrolls.querySelectorAll("thead th")];
      const hidden = columns.filter((column) => column.getBoundingClientRect().right > right + 1).length;
      const cut = scrolls.scrollWidth > scrolls.clientWidth + 1;
      wide.classList.toggle("cut", cut);
      hint.hidden = !cut;
      hint.textContent = hidden ? `Scroll sideways: ${hidden} of ${columns.length} columns are to the right →` : "← Scroll back";
      if (cut) scrolls.tabIndex = 0;
      else scrolls.removeAttribute("tabindex");
    };
    scrolls.addEventListener("scroll", measure, { passive: true });
    new ResizeObserver(measure).observe(scrolls);
    measure();
  }
}

async function begin() {
  theme();
  belowTheBar();
  wideTables();
  await Promise.all(Object.entries(given.figures).map(([name, said]) => valuesOf(name, said)));
  if (given.shares) return reading(given.shares);
  losses(given.losses);
  await leaning("connectivity", given.maps.connectivity);
  if (given.maps.attention) await leaning("attention", given.maps.attention);
  await units(given.units);
  if (given.epochs) await training(given.epochs);
}
const ready = begin();
