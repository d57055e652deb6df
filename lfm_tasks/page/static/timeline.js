// The history of a registered model: what moved its aliases, what did not, who decided, and on which evidence.

import { get } from "./api.js";
import { h, number, time } from "./dom.js";
import { button } from "./lineage.js";
import { subtitle, title } from "./marks.js";
import { go, say } from "./page.js";

const SAID = {
  promotion: "moved",
  rollback: "rolled back",
  rejected: "rejected",
  "timed out": "timed out: nobody answered",
  "not decided": "left to a person",
  "dry run": "dry run",
};

export async function timelineView({ state, main, tools }) {
  const { models, notices } = await get("models");
  say(notices);
  const names = models.map((model) => model.name);
  const name = state.name ?? names[0];
  if (!name) {
    main.append(h("div", { class: "welcome" }, h("h1", {}, "Promotions"), h("p", { class: "muted" }, "No model is registered yet. A DAG run that promotes one begins its history here.")));
    return;
  }
  tools.append(h("select", { "aria-label": "Registered model", onchange: (event) => go({ view: "timeline", name: event.target.value }) }, [...new Set([name, ...names])].map((one) => h("option", { value: one, selected: one === name }, one))));
  const found = await get(`models/${encodeURIComponent(name)}`);
  main.append(
    h("div", { class: "column" },
      h("h1", {}, name),
      h("div", { class: "cards" }, Object.entries(found.aliases).map(([alias, { version, sha256 }]) => button(`★ ${alias}`, `version ${version}`, () => go({ reference: `models:/${name}@${alias}` }), "model"))),
      chain(found),
      h("ol", { class: "timeline" }, found.events.map((event) => item(event))),
    ),
  );
}

function chain({ events, problems, name }) {
  const moves = events.filter((event) => event.n).length;
  if (problems.length) return h("ul", { class: "banner bad" }, problems.map((problem) => h("li", {}, problem)));
  return h("p", { class: "muted" }, `${number(moves)} ledger ${moves === 1 ? "entry" : "entries"}; the hash chain in the store holds together. `, h("code", {}, `lfm ledger ${name} --verify`), " also compares the database.");
}

function item(event) {
  const kind = event.type.replaceAll(" ", "-");
  return h("li", { class: kind },
    h("div", { class: "when" }, time(event.time), event.n ? h("small", { class: "muted" }, `entry ${event.n}`) : null),
    h("div", { class: "what" },
      h("p", { class: "move" }, h("span", { class: `badge ${kind}` }, SAID[event.type]), event.alias ? h("b", {}, event.alias) : null, versions(event)),
      event.restricted ? h("p", { class: "muted" }, "It was moved by a DAG that you may not read.") : [who(event), answered(event), event.why ? h("p", { class: "why" }, event.why) : null],
      h("div", { class: "cards" }, evidence(event)),
    ),
  );
}

function versions({ from, to }) {
  if (!to) return null;
  return h("span", {}, from ? `version ${from} → ` : "first version ", h("b", {}, to));
}

function who({ who: found }) {
  const by = found.user || (found.dag_id ? "" : "command line");
  return h("p", { class: "muted" }, by ? `by ${by} ` : null, found.dag_id ? h("button", { type: "button", class: "inline", onclick: () => go({ dag_id: found.dag_id, run_id: found.run_id }) }, `${found.dag_id} · ${found.run_id}`) : null);
}

function answered({ answer, returns_to: entry }) {
  if (entry) return h("p", {}, `Back to where entry ${entry} had put it.`);
  if (!answer) return null;
  if (answer.timed_out) return h("p", { class: "answer" }, "A person was asked, and nobody answered in time.");
  const verb = answer.chosen === "approve" ? "Approved" : "Rejected";
  return h("p", { class: "answer" }, `${verb} by ${answer.by || "somebody"}${answer.reason ? `: ${answer.reason}` : "."}`);
}

function evidence({ artifact, evidence: decision, record }) {
  const shown = (node, name) => (node ? h("div", { class: "neighbour" }, h("small", {}, name), button(title(node), subtitle(node, number), () => go({ reference: `sha256:${node.id}` }), node.kind ?? "report")) : null);
  return [shown(artifact, "model"), shown(decision, "evidence"), record ? h("div", { class: "neighbour" }, h("small", {}, "record"), button("the step", record.slice(0, 8), () => go({ reference: `sha256:${record}` }), "step")) : null];
}
