// The lineage view: what is around a reference, a DAG run or a task; search, filters, zoom; a panel about what is chosen.

import { get } from "./api.js";
import { h, number } from "./dom.js";
import { GraphView } from "./graph.js";
import { KINDS, look, STEP, subtitle, title } from "./marks.js";
import { fail, go, say } from "./page.js";
import { panel } from "./panel.js";

const SUBJECT = ["reference", "dag_id", "run_id", "task_id", "map_index"];
const DIRECTIONS = { both: "Both ways", ancestors: "Made from", descendants: "Went into" };
const LIMITS = [100, 300, 1000, 2000, 5000];

export async function lineageView({ state, main, tools }) {
  tools.append(searchBox());
  const subject = Object.fromEntries(SUBJECT.filter((name) => state[name]).map((name) => [name, state[name]]));
  if (!subject.reference && !subject.dag_id) return welcome(main);
  const direction = state.direction in DIRECTIONS ? state.direction : "both";
  const limit = LIMITS.includes(Number(state.limit)) ? Number(state.limit) : 300;
  const canvas = h("div", { id: "graph", role: "img", "aria-label": "Lineage graph. The command line says the same: lfm lineage REF" });
  const aside = h("aside", { hidden: true, "aria-label": "About the chosen node" });
  const bar = h("div", { id: "filters" });
  const status = h("p", { id: "status", role: "status" }, "Reading the store …");
  main.append(bar, h("div", { id: "stage" }, canvas, zoomButtons(() => view), status, aside));
  const view = new GraphView(canvas, select);
  const keys = (event) => onKey(event, view, select);
  document.addEventListener("keydown", keys);
  const closed = { close: () => (document.removeEventListener("keydown", keys), view.close()) };

  let asked = 0;
  async function select(id) {
    const mine = ++asked;
    if (aside.hidden !== (id === null)) {
      aside.hidden = id === null;
      view.cy.resize();
    }
    if (id === null) return;
    aside.replaceChildren(h("p", { class: "muted" }, "Reading …"));
    try {
      const node = await get(`node/${id}`);
      if (mine !== asked) return;
      say(node.notices);
      aside.replaceChildren(panel(node, { choose, close: () => view.select(null) }));
      aside.scrollTop = 0;
    } catch (error) {
      fail(error);
    }
  }

  function choose(id) {
    const inside = view.cy.getElementById(id).nonempty();
    if (!inside) return go({ reference: `sha256:${id}`, direction });
    view.select(id);
    view.reveal(id);
  }

  try {
    const data = await get("graph", { ...subject, direction, limit });
    say(data.notices);
    bar.append(
      h("h1", {}, heading(subject, data)),
      choice("Direction", DIRECTIONS, direction, (value) => go({ ...subject, direction: value, limit: String(limit) })),
      chips(data.nodes, (hidden) => view.filter(hidden).catch(fail)),
    );
    status.textContent = `Placing ${number(data.nodes.length)} nodes …`;
    const milliseconds = await view.show(data);
    canvas.dataset.placed = String(Math.round(milliseconds));
    canvas.dataset.nodes = String(data.nodes.length);
    const larger = LIMITS.find((one) => one > limit);
    status.replaceChildren(...(data.truncated ? cut(limit, larger, () => go({ ...subject, direction, limit: String(larger) })) : []));
    const chosen = data.nodes.find((node) => node.id === state.node) ?? (data.roots.length === 1 ? data.nodes.find((node) => node.id === data.roots[0]) : null);
    if (chosen) {
      view.select(chosen.id);
      view.home();
    }
  } catch (error) {
    status.textContent = "";
    fail(error);
  }
  return closed;
}

async function welcome(main) {
  main.append(
    h("div", { class: "welcome" }, h("h1", {}, "Lineage"), h("p", {}, "For any model in use: what was it made from, by which step, with which code, and who let it through."), h("div", { id: "models" })),
  );
  const { models, notices } = await get("models");
  const { nodes } = await get("search", { text: "", limit: 12 });
  say(notices);
  const inUse = models.flatMap(({ name, aliases }) => Object.entries(aliases).map(([alias, held]) => [`models:/${name}@${alias}`, `version ${held.version}`, held.sha256]));
  main.querySelector("#models").append(
    h("h2", {}, "Registered models"),
    inUse.length ? h("ul", { class: "cards" }, inUse.map(([reference, version]) => h("li", {}, button(reference, version, () => go({ reference }))))) : h("p", { class: "muted" }, "Nothing is registered yet. Trigger lfm_adapt."),
    h("h2", {}, "Newest"),
    h("ul", { class: "cards" }, nodes.map((node) => h("li", {}, button(title(node), subtitle(node, number), () => go({ reference: `sha256:${node.id}` }), look(node))))),
  );
}

function heading(subject, data) {
  if (subject.task_id) return `Task ${subject.task_id} of ${subject.run_id}`;
  if (subject.dag_id) return `${subject.dag_id} · ${subject.run_id}`;
  const root = data.nodes.find((node) => data.roots.includes(node.id));
  return root ? [title(root), root.label].filter(Boolean).join(" · ") : subject.reference;
}

function cut(limit, larger, more) {
  const shown = `The ${number(limit)} nearest nodes are shown; a double border has more behind it. `;
  return larger ? [shown, h("button", { type: "button", class: "quiet", onclick: more }, `Show ${number(larger)}`)] : [shown];
}

function searchBox() {
  const list = h("ul", { id: "found", hidden: true });
  const input = h("input", { type: "search", id: "search", placeholder: "Hash, models:/NAME@ALIAS, step, run …  ( / )", "aria-label": "Search", autocomplete: "off", oninput: later, onkeydown: enter });
  let timer = 0;
  function later() {
    clearTimeout(timer);
    timer = setTimeout(look_up, 180);
  }
  async function look_up() {
    const text = input.value.trim();
    list.hidden = !text;
    if (!text) return;
    try {
      const { nodes } = await get("search", { text, limit: 12 });
      list.replaceChildren(...nodes.map((node) => h("li", {}, button(title(node), subtitle(node, number), () => open(`sha256:${node.id}`), look(node)))), ...(nodes.length ? [] : [h("li", { class: "muted" }, "Nothing found.")]));
    } catch (error) {
      fail(error);
    }
  }
  function enter(event) {
    if (event.key === "Enter" && input.value.trim()) open(input.value.trim());
    if (event.key === "Escape") list.hidden = true;
  }
  function open(reference) {
    list.hidden = true;
    go({ reference });
  }
  return h("div", { class: "search" }, input, list);
}

function chips(nodes, apply) {
  const hidden = new Set();
  const kinds = [...KINDS, STEP].filter((kind) => nodes.some((node) => look(node) === kind));
  const steps = [...new Set(nodes.map((node) => node.step).filter(Boolean))];
  const chip = (key, text, kind, count) => {
    const made = h("button", { type: "button", class: `chip ${kind}`, "aria-pressed": "true", onclick: toggle }, text, h("span", { class: "count" }, number(count)));
    function toggle() {
      hidden.has(key) ? hidden.delete(key) : hidden.add(key);
      made.setAttribute("aria-pressed", String(!hidden.has(key)));
      apply(hidden);
    }
    return made;
  };
  const counted = (test) => nodes.filter(test).length;
  return h(
    "div",
    { class: "chips", role: "group", "aria-label": "Shown kinds and steps" },
    kinds.filter((kind) => kind !== STEP).map((kind) => chip(kind, kind, kind, counted((node) => look(node) === kind))),
    h("span", { class: "gap" }),
    kinds.includes(STEP) ? chip(STEP, "all steps", STEP, counted((node) => look(node) === STEP)) : null,
    steps.length > 1 ? steps.map((step) => chip(`step:${step}`, step, STEP, counted((node) => node.step === step))) : null,
  );
}

function choice(label, options, selected, onchange) {
  const items = Object.entries(options).map(([value, text]) => h("option", { value, selected: value === selected }, text));
  return h("select", { "aria-label": label, onchange: (event) => onchange(event.target.value) }, items);
}

function zoomButtons(view) {
  const make = (text, name, act) => h("button", { type: "button", title: name, "aria-label": name, onclick: act }, text);
  return h("div", { id: "zoom" }, make("+", "Zoom in", () => view().zoom(1.4)), make("−", "Zoom out", () => view().zoom(1 / 1.4)), make("fit", "Fit (f)", () => view().fit()));
}

function onKey(event, view) {
  if (event.target.matches("input, select, textarea") || event.ctrlKey || event.metaKey || !view.cy) return;
  const actions = { "/": () => document.querySelector("#search").focus(), f: () => view.fit(), "+": () => view.zoom(1.4), "-": () => view.zoom(1 / 1.4), Escape: () => view.select(null) };
  if (event.key in actions) {
    event.preventDefault();
    actions[event.key]();
  }
}

export function button(first, second, onclick, kind = "") {
  return h("button", { type: "button", class: `node ${kind}`, onclick }, h("b", {}, first), second ? h("small", {}, second) : null);
}
