// Everything about one artifact or record. What a record says is only ever shown as text.

import { bytes, copyButton, facts, h, link, number, seconds, show, time } from "./dom.js";
import { button } from "./lineage.js";
import { look, metric, subtitle, title } from "./marks.js";
import { go } from "./page.js";

/** `choose` is told the id of another node; `close` closes the panel. */
export function panel(node, { choose, close }) {
  const body = node.restricted ? veiled() : node.type === "record" ? aboutRecord(node, choose) : aboutArtifact(node, choose);
  return h(
    "div",
    {},
    h("div", { class: "head" }, h("span", { class: `dot ${look(node)}` }), h("h2", {}, title(node)), h("button", { type: "button", class: "quiet", title: "Close (Esc)", "aria-label": "Close", onclick: close }, "✕")),
    h("p", { class: "address" }, h("code", {}, `sha256:${node.id}`), copyButton(`sha256:${node.id}`)),
    body,
  );
}

function veiled() {
  return h("p", { class: "muted" }, "This comes from a DAG that you may not read. Ask an administrator for access to it.");
}

function aboutArtifact(node, choose) {
  const imported = node.imported ?? {};
  return [
    revocation(node),
    node.labels.length ? h("ul", { class: "labels" }, node.labels.map((label) => h("li", { class: node.aliases.length ? "used" : "" }, label))) : null,
    h("div", { class: "actions" },
      h("button", { type: "button", onclick: () => go({ reference: `sha256:${node.id}` }) }, "Lineage of this"),
      ["model", "adapter"].includes(node.kind) ? h("button", { type: "button", onclick: () => go({ view: "compare", a: `sha256:${node.id}` }) }, "Compare …") : null,
    ),
    facts([
      ["Measured", metric(node, number)],
      ["Imported from", imported.reference],
      ["Licence", imported.licence],
      ["In the store", node.stored ? `${bytes(node.size)} in ${number(node.files.length)} files` : node.collected_by ? "collected: its record says what it was" : "its bytes are gone"],
      ["At", h("code", {}, node.uri)],
    ]),
    section("Made by", node.maker ? [nodeButton(node.maker, choose)] : null, true),
    section("Evaluations", node.measurements.map((one) => nodeButton(one, choose))),
    section("Went into", node.used_by.map((one) => nodeButton(one, choose))),
    section("Cost of its whole ancestry", costs(node.cost), true),
    section("Files", node.stored ? [h("table", { class: "facts files" }, node.files.map((file) => h("tr", {}, h("th", { scope: "row" }, file.path), h("td", {}, bytes(file.size)))))] : null),
  ];
}

function aboutRecord(node, choose) {
  const { record } = node;
  const { airflow, environment } = record;
  return [
    revocation(node),
    h("div", { class: "actions" }, link(node.links.airflow, "Airflow task"), link(node.links.mlflow, "MLflow run")),
    node.hit_of ? h("p", {}, "Answered from the step cache; the work was done by ", h("button", { type: "button", class: "inline", onclick: () => choose(node.hit_of) }, node.hit_of.slice(0, 12)), ".") : null,
    facts([
      ["Finished", time(record.finished)],
      ["Triggered by", airflow?.user],
      ["Run", airflow ? `${airflow.dag_id} · ${airflow.run_id}` : "command line"],
      ["Task", airflow ? `${airflow.task_id}${airflow.map_index >= 0 ? ` [${airflow.map_index}]` : ""}, try ${airflow.try_number}` : null],
      ["Answered later jobs", node.hits || null],
    ]),
    section("Result", summary(record), true),
    section("Inputs", node.inputs.map((entry) => nodeButton(entry, choose, entry.name)), true),
    section("Outputs", node.outputs.map((entry) => nodeButton(entry, choose, entry.name)), true),
    section("Metrics", table(record.metrics)),
    section("Config", table(flat(record.config))),
    section("Code", [facts([["Git commit", record.code.git_commit], ["Source digest", h("code", {}, record.code.sha256.slice(0, 12))], ["Seed", record.seed]])]),
    section("Environment", [facts([["Python", environment.python], ["Device", environment.device], ["Platform", environment.platform]]), ...(table(environment.packages) ?? [])]),
    section("Cost", costs(node.cost)),
  ];
}

function revocation(node) {
  if (node.revocation) {
    const { who, time: when, reason, why } = node.revocation;
    return h("p", { class: "banner bad" }, h("b", {}, "Revoked. "), reason ?? why ?? "", h("br", {}), h("small", {}, Object.values(who ?? {}).join(", "), " ", when ? time(when) : ""));
  }
  return node.tainted ? h("p", { class: "banner bad" }, "Descends from something that was revoked: the gate refuses it.") : null;
}

function summary({ summary: found }) {
  const { outcome, reasons, table: rows, ...others } = found;
  const parts = [];
  if (outcome) parts.push(h("p", {}, h("span", { class: `badge ${outcome}` }, outcome)));
  if (Array.isArray(reasons)) parts.push(h("ul", { class: "reasons" }, reasons.map((reason) => h("li", {}, show(reason)))));
  const plain = Object.entries(others).filter(([, value]) => ["string", "number", "boolean"].includes(typeof value));
  if (plain.length) parts.push(facts(plain.map(([name, value]) => [words(name), value])));
  return parts;
}

function costs(cost) {
  const saved = cost.saved?.cpu_seconds;
  return [
    facts([
      ["Records", cost.records > 1 ? `${cost.records}${cost.hits ? ` (${cost.hits} from the cache)` : ""}` : null],
      ["Wall", seconds(cost.wall_seconds)],
      ["CPU", seconds(cost.cpu_seconds)],
      ["Device", cost.device_seconds ? seconds(cost.device_seconds) : null],
      ["Peak memory", bytes(cost.peak_rss_bytes)],
      ["Device memory", cost.peak_device_bytes ? bytes(cost.peak_device_bytes) : null],
      ["Read and written", cost.bytes_read || cost.bytes_written ? `${bytes(cost.bytes_read)} and ${bytes(cost.bytes_written)}` : null],
      ["Saved by the cache", saved ? `${seconds(saved)} CPU` : null],
      ["Money", cost.money === null ? null : `${number(cost.money)} ${cost.currency ?? ""}`],
    ]),
  ];
}

function nodeButton(node, choose, name = "") {
  return h("div", { class: "neighbour" }, name ? h("small", {}, name) : null, button(title(node), subtitle(node, number), () => choose(node.id), look(node)));
}

function section(name, parts, open = false) {
  return parts?.length ? h("details", { open }, h("summary", {}, name), parts) : null;
}

function table(values) {
  const rows = Object.entries(values ?? {});
  return rows.length ? [facts(rows)] : null;
}

function flat(values, path = "") {
  return Object.fromEntries(
    Object.entries(values).flatMap(([name, value]) => (value && typeof value === "object" && !Array.isArray(value) ? Object.entries(flat(value, `${path}${name}.`)) : [[path + name, value]])),
  );
}

function words(name) {
  return name.replaceAll("_", " ");
}
