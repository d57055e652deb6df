// The page: three views of one store. What is shown is in the address, so that it can be linked to and reloaded.

import { Refused } from "./api.js";
import { compareView } from "./compare.js";
import { h } from "./dom.js";
import { lineageView } from "./lineage.js";
import "./theme.js";
import { timelineView } from "./timeline.js";

const VIEWS = {
  lineage: { title: "Lineage", open: lineageView },
  timeline: { title: "Promotions", open: timelineView },
  compare: { title: "Compare", open: compareView },
};
const tabs = document.querySelector("#tabs");
const tools = document.querySelector("#tools");
const main = document.querySelector("#view");
const notices = document.querySelector("#notices");

let current = null;

function state() {
  return Object.fromEntries(new URLSearchParams(location.search));
}

/** Show another view or another thing: `change` is laid over nothing, so that no leftover of the old view stays. */
export function go(change, { replace = false } = {}) {
  const query = new URLSearchParams(Object.entries(change).filter(([, value]) => value));
  history[replace ? "replaceState" : "pushState"](null, "", `${location.pathname}?${query}`);
  render();
}

export function say(sentences, problem = false) {
  notices.replaceChildren(...sentences.map((sentence) => h("span", {}, sentence)));
  notices.classList.toggle("problem", problem);
}

export function fail(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof Refused)) console.error(error);
  say([error instanceof Refused ? error.message : "This page met an error of its own. Reload it."], true);
}

async function render() {
  const wanted = state();
  const name = wanted.view in VIEWS ? wanted.view : "lineage";
  tabs.replaceChildren(...Object.entries(VIEWS).map(([key, { title }]) => tab(key, title, key === name)));
  say([]);
  current?.close?.();
  current = null;
  main.className = name;
  tools.replaceChildren();
  main.replaceChildren();
  try {
    current = await VIEWS[name].open({ state: wanted, main, tools });
  } catch (error) {
    fail(error);
  }
}

function tab(key, title, selected) {
  return h("button", { type: "button", role: "tab", "aria-selected": String(selected), onclick: () => selected || go({ view: key }) }, title);
}

window.addEventListener("popstate", render);
render();
