// What tells two models apart: how they were made, from what, what was measured of them, and how far their weights are apart.

import { get } from "./api.js";
import { h, number, show } from "./dom.js";
import { button } from "./lineage.js";
import { subtitle, title } from "./marks.js";
import { fail, go, say } from "./page.js";

const MOST_BARS = 64;

export async function compareView({ state, main }) {
  const { models } = await get("models");
  const proposals = models.flatMap(({ name, aliases }) => Object.keys(aliases).map((alias) => `models:/${name}@${alias}`));
  const input = (name, label) => h("label", {}, label, h("input", { id: name, list: "proposals", value: state[name] ?? "", placeholder: "sha256:… or models:/NAME@ALIAS", autocomplete: "off", spellcheck: "false" }));
  const start = h("button", { type: "submit" }, "Compare");
  const form = h("form", { class: "compare", onsubmit: submit }, input("a", "First"), input("b", "Second"), start, h("datalist", { id: "proposals" }, proposals.map((value) => h("option", { value }))));
  const result = h("div", { id: "result" });
  main.append(h("div", { class: "column wide" }, h("h1", {}, "Compare two models"), form, result));
  function submit(event) {
    event.preventDefault();
    go({ view: "compare", a: form.querySelector("#a").value.trim(), b: form.querySelector("#b").value.trim() });
  }
  if (!state.a || !state.b) return;
  start.disabled = true;
  result.append(h("p", { class: "muted busy" }, "Reading both models' weights and samples …"));
  get("diff", { a: state.a, b: state.b })
    .then((found) => (say(found.notices), result.replaceChildren(...parts(found))))
    .catch((error) => (result.replaceChildren(), fail(error)))
    .finally(() => (start.disabled = false));
}

function parts(found) {
  const side = (node, letter) => h("div", { class: "side" }, h("span", { class: `letter ${letter}` }, letter.toUpperCase()), button(title(node), subtitle(node, number), () => go({ reference: `sha256:${node.id}` }), node.kind));
  const head = h("div", { class: "sides" }, side(found.first, "a"), side(found.second, "b"));
  if (found.same) return [head, h("p", {}, "They are one and the same model.")];
  const withheld = found.steps_withheld ? h("p", { class: "muted" }, `${found.steps_withheld} steps belong to DAGs that you may not read.`) : null;
  return [
    head,
    block("Metrics", metrics(found.metrics)),
    block("Data", data(found.data)),
    ...found.steps.map(step),
    ...(withheld ? [withheld] : []),
    block("Weights", weights(found.weights)),
  ];
}

function block(name, content) {
  return h("section", {}, h("h2", {}, name), content ?? h("p", { class: "muted" }, "No difference."));
}

function metrics(rows) {
  if (!rows.length) return h("p", { class: "muted" }, "Neither model was evaluated.");
  return h("table", { class: "grid" },
    h("thead", {}, h("tr", {}, ["Metric", "A", "B", "", "Difference, 95 % interval"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.name, h("small", {}, `on ${row.dataset.slice(0, 8)}`)), h("td", {}, measured(row.first)), h("td", {}, measured(row.second)), h("td", {}, intervals(row)), h("td", {}, difference(row))))),
  );
}

function measured(value) {
  return value ? [h("b", {}, number(value.value)), h("small", {}, `${number(value.low)} to ${number(value.high)}`)] : h("span", { class: "muted" }, "not measured");
}

function difference({ difference: value, low, high, higher_is_better: up }) {
  if (value === null) return h("span", { class: "muted" }, "not on the same samples");
  if (value === 0 && low === 0 && high === 0) return h("span", { class: "muted" }, "the same");
  const settled = low > 0 || high < 0;
  const better = settled ? (value > 0) === up : null;
  const verdict = better === null ? "may be chance" : better ? "B is better" : "B is worse";
  return h("span", { class: better === null ? "muted" : better ? "good" : "bad" }, `${value > 0 ? "+" : ""}${number(value)}, ${verdict}`, h("small", {}, `${number(low)} to ${number(high)}`));
}

// Both intervals on one axis. Geometry goes into attributes of the drawing: the security policy forbids style attributes.
function intervals({ first, second }) {
  const sides = [["a", first], ["b", second]].filter(([, value]) => value);
  const low = Math.min(...sides.map(([, value]) => value.low));
  const high = Math.max(...sides.map(([, value]) => value.high));
  const x = (value) => (high > low ? 6 + (148 * (value - low)) / (high - low) : 80);
  return svg("svg", { viewBox: "0 0 160 28", width: 160, height: 28, class: "intervals", "aria-hidden": "true" },
    sides.map(([letter, value], row) => svg("g", { class: letter }, svg("line", { x1: x(value.low), x2: x(value.high), y1: 9 + 11 * row, y2: 9 + 11 * row }), svg("circle", { cx: x(value.value), cy: 9 + 11 * row, r: 3.5 }))),
  );
}

function data(rows) {
  if (!rows.length) return null;
  const cell = (node) => (node ? button(title(node), subtitle(node, number), () => go({ reference: `sha256:${node.id}` }), node.kind ?? "report") : h("span", { class: "muted" }, "nothing"));
  return h("table", { class: "grid" }, h("tbody", {}, rows.map(({ place, first, second }) => h("tr", {}, h("th", { scope: "row" }, place), h("td", {}, cell(first)), h("td", {}, cell(second))))));
}

function step({ place, first, second, config, code, environment }) {
  const maker = (side) => (side ? [side.step, side.method].filter(Boolean).join(" · ") : "nothing recorded");
  const rows = [...config.map((row) => ["Config", row]), ...environment.map((row) => ["Environment", row])];
  if (maker(first) !== maker(second)) rows.unshift(["Made by", { field: "step", first: maker(first), second: maker(second) }]);
  if (code) rows.push(["Code", { field: "source digest", first: code.first.sha256.slice(0, 12), second: code.second.sha256.slice(0, 12) }]);
  if (code && code.first.git_commit !== code.second.git_commit) rows.push(["Code", { field: "git commit", first: code.first.git_commit, second: code.second.git_commit }]);
  const content = rows.length ? h("table", { class: "grid" }, h("thead", {}, h("tr", {}, ["", "A", "B"].map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, rows.map(([group, { field, first: a, second: b }]) => h("tr", {}, h("th", { scope: "row" }, field, h("small", {}, group)), h("td", { class: "a" }, value(a)), h("td", { class: "b" }, value(b)))))) : null;
  return block(`How ${place === "model" ? "the models were" : `${place} was`} made (${maker(second ?? first)})`, content);
}

function value(given) {
  return given === null || given === undefined ? h("span", { class: "muted" }, "—") : show(given);
}

function weights(found) {
  if (!found) return null;
  if (found.not_compared) return h("p", {}, found.not_compared);
  const changed = found.layers.filter((layer) => layer.relative !== 0);
  const largest = Math.max(...found.layers.map((layer) => layer.relative ?? 0), 1e-12);
  const rows = found.layers.slice(0, MOST_BARS);
  return h("div", {},
    h("p", {}, "Relative change of all shared tensors ", h("b", {}, percent(found.relative)), `; ${number(changed.length)} of ${number(found.layers.length)} layers differ. Bars: ‖B − A‖ / ‖A‖ of each layer.`),
    h("table", { class: "bars" }, h("tbody", {}, rows.map((layer) => h("tr", {}, h("th", { scope: "row" }, layer.name), h("td", {}, bar((layer.relative ?? 0) / largest)), h("td", { class: "number" }, percent(layer.relative)))))),
    found.layers.length > MOST_BARS ? h("p", { class: "muted" }, `${found.layers.length - MOST_BARS} more layers: lfm diff A B`) : null,
    odd("Other shapes", found.reshaped.map((one) => `${one.name}: ${show(one.first)} and ${show(one.second)}`)),
    odd("Only in A", found.only_in_first),
    odd("Only in B", found.only_in_second),
  );
}

function bar(share) {
  return svg("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" }, svg("rect", { class: "track", width: 100, height: 10 }), svg("rect", { width: Math.max(100 * share, share > 0 ? 0.5 : 0), height: 10 }));
}

function odd(name, entries) {
  return entries.length ? h("details", {}, h("summary", {}, `${name} (${entries.length})`), h("ul", {}, entries.map((entry) => h("li", {}, entry)))) : null;
}

function percent(share) {
  return share === null ? "not defined" : share === 0 ? "same" : `${number(100 * share)} %`;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, given] of Object.entries(attributes)) element.setAttribute(name, String(given));
  element.append(...children.flat(Infinity));
  return element;
}
