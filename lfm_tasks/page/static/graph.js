// The drawing: cytoscape on a canvas, placed by dagre in a worker. Nodes and edges are the API's; filters hide kinds and steps.

import { number } from "./dom.js";
import { KINDS, look, STEP, subtitle, title } from "./marks.js";
import { color, onTheme } from "./theme.js";
import cytoscape from "./vendor/cytoscape.esm.min.mjs";

const SIZE = { artifact: { width: 192, height: 48 }, record: { width: 168, height: 44 } };
const READABLE = 0.62; // below that zoom, labels are too small to read
const OVERVIEW = 0.25; // below that zoom, a node is a spot of its kind's colour
const NAMED = 12; // of more edges at a node, the names would cover each other
const MANY = 600; // above that many nodes, a picture of them is moved while the person pans

export class GraphView {
  /** `onSelect` is told the id of the node that was chosen, or null. */
  constructor(container, onSelect) {
    this.container = container;
    this.onSelect = onSelect;
    this.worker = new Worker(new URL("layout-worker.js", import.meta.url), { type: "module" });
    this.job = 0;
    this.data = { nodes: [], edges: [], roots: [] };
    this.hidden = new Set();
    this.cy = null;
    onTheme(() => this.cy?.style(sheet()));
  }

  close() {
    this.worker.terminate();
    this.cy?.destroy();
    this.cy = null;
  }

  /** Draw `data`; resolves when it is placed, with the milliseconds that placing took. */
  async show(data) {
    this.data = data;
    return this.draw();
  }

  /** Hide the kinds and steps in `hidden`; what they connect stays connected. */
  async filter(hidden) {
    this.hidden = hidden;
    return this.draw();
  }

  async draw() {
    const { nodes, edges } = contracted(this.data, this.hidden);
    const job = ++this.job;
    const sized = nodes.map((node) => ({ id: node.id, ...SIZE[node.type] }));
    const answer = new Promise((resolve) => {
      this.worker.onmessage = ({ data }) => data.job === job && resolve(data);
    });
    this.worker.postMessage({ job, nodes: sized, edges });
    const { places, milliseconds } = await answer;
    if (job !== this.job) return null;
    this.cy?.destroy();
    this.isFar = false;
    this.cy = cytoscape({
      container: this.container,
      elements: [
        ...nodes.map((node) => ({ group: "nodes", data: drawn(node), position: places[node.id], classes: classes(node, this.data.roots) })),
        ...edges.map((edge, place) => ({ group: "edges", data: { id: `edge ${place}`, ...edge } })),
      ],
      layout: { name: "preset" },
      style: sheet(),
      minZoom: 0.02,
      maxZoom: 2.5,
      autoungrabify: true,
      boxSelectionEnabled: false,
      textureOnViewport: nodes.length > MANY,
      hideEdgesOnViewport: nodes.length > MANY,
      pixelRatio: nodes.length > MANY ? 1 : "auto",
    });
    this.cy.on("tap", "node", (event) => this.select(event.target.id()));
    this.cy.on("tap", (event) => event.target === this.cy && this.select(null));
    this.cy.on("zoom", () => this.overview());
    this.home();
    return milliseconds;
  }

  select(id, tell = true) {
    this.cy.elements().removeClass("chosen near named far");
    const node = id && this.cy.getElementById(id);
    if (node?.nonempty()) {
      const line = node.union(node.predecessors()).union(node.successors());
      this.cy.elements().difference(line).addClass("far");
      node.addClass("chosen");
      const edges = node.connectedEdges().addClass("near");
      if (edges.length <= NAMED) edges.addClass("named");
    }
    if (tell) this.onSelect(id);
  }

  overview() {
    const far = this.cy.zoom() < OVERVIEW;
    if (far === this.isFar) return;
    this.isFar = far;
    this.cy.nodes().toggleClass("overview", far);
  }

  /** Bring a node into view. */
  reveal(id) {
    const node = this.cy.getElementById(id);
    if (node.nonempty()) this.cy.animate({ center: { eles: node }, zoom: Math.max(this.cy.zoom(), 0.9) }, { duration: 200 });
  }

  /** All of a small graph; of a larger one, what is around its roots, large enough to read. */
  home() {
    this.fit();
    if (this.cy.zoom() >= READABLE) return;
    this.cy.zoom(READABLE);
    this.cy.center(this.cy.nodes(".root"));
  }

  fit() {
    this.cy.resize();
    this.cy.fit(undefined, 28);
    if (this.cy.zoom() > 1.1) {
      this.cy.zoom(1.1);
      this.cy.center();
    }
  }

  zoom(factor) {
    this.cy.zoom({ level: this.cy.zoom() * factor, renderedPosition: { x: this.cy.width() / 2, y: this.cy.height() / 2 } });
  }
}

/** The graph without what is hidden; what a path of hidden nodes joins is joined by an edge. */
export function contracted({ nodes, edges }, hidden) {
  const isHidden = (node) => hidden.has(look(node)) || (node.step !== null && hidden.has(`step:${node.step}`));
  const shown = new Set(nodes.filter((node) => !isHidden(node)).map((node) => node.id));
  if (shown.size === nodes.length) return { nodes, edges: edges.map(({ from, to, name }) => ({ source: from, target: to, name })) };
  const after = new Map();
  for (const { from, to } of edges) after.set(from, [...(after.get(from) ?? []), to]);
  const joined = [];
  for (const source of shown) {
    const seen = new Set();
    const waiting = [...(after.get(source) ?? [])];
    while (waiting.length) {
      const node = waiting.pop();
      if (seen.has(node)) continue;
      seen.add(node);
      if (shown.has(node)) joined.push({ source, target: node, name: "" });
      else waiting.push(...(after.get(node) ?? []));
    }
  }
  return { nodes: nodes.filter((node) => shown.has(node.id)), edges: joined };
}

function drawn(node) {
  const star = node.aliases?.length ? "★ " : "";
  const reused = node.hits ? `  ↺${node.hits}` : "";
  const second = subtitle(node, (value) => number(Number(value.toPrecision(3))));
  const room = node.type === "record" ? 21 : 25;
  return { id: node.id, look: look(node), said: node.said ?? "", label: clip(`${star}${title(node)}${reused}`, room) + (second ? `\n${clip(second, room)}` : ""), ...SIZE[node.type] };
}

/** Short enough for its box: of an address its end is kept, of other text its beginning. */
function clip(text, room) {
  if (text.length <= room) return text;
  return text.includes("://") ? `…${text.slice(1 - room)}` : `${text.slice(0, room - 1)}…`;
}

function classes(node, roots) {
  const more = (node.more?.ancestors ?? 0) + (node.more?.descendants ?? 0);
  const found = { root: roots.includes(node.id), revoked: node.revoked, tainted: node.tainted, used: node.aliases?.length, restricted: node.restricted, more };
  return [node.type, ...Object.keys(found).filter((name) => found[name])];
}

function sheet() {
  const surface = color("surface");
  const kinds = [...KINDS, STEP].map((kind) => ({
    selector: `node[look = "${kind}"]`,
    style: {
      "border-color": color(kind),
      "background-fill": "linear-gradient",
      "background-gradient-direction": "to-right",
      "background-gradient-stop-colors": kind === STEP ? [color("step-fill"), color("step-fill")] : [color(kind), color(kind), surface, surface],
      "background-gradient-stop-positions": kind === STEP ? [0, 100] : [0, 3, 3, 100],
    },
  }));
  return [
    {
      selector: "node",
      style: {
        width: "data(width)",
        height: "data(height)",
        label: "data(label)",
        color: color("text"),
        "background-color": surface,
        "border-width": 1,
        "border-color": color("line"),
        "font-family": "Inter, -apple-system, BlinkMacSystemFont, Segoe UI, Helvetica, Arial, sans-serif",
        "font-size": 13,
        "line-height": 1.3,
        "text-wrap": "wrap",
        "text-valign": "center",
        "text-halign": "center",
        "min-zoomed-font-size": 6,
        shape: "round-rectangle",
        "corner-radius": 6,
      },
    },
    ...kinds,
    { selector: "node.record", style: { "corner-radius": 22, color: color("text") } },
    { selector: 'node[said = "promote"]', style: { "border-color": color("good"), color: color("good") } },
    { selector: 'node[said = "reject"]', style: { "border-color": color("bad"), color: color("bad") } },
    { selector: 'node[said = "ask"]', style: { "border-color": color("warn"), color: color("warn") } },
    { selector: "node.more", style: { "border-style": "double", "border-width": 4 } },
    { selector: "node.used", style: { "border-width": 2, "font-weight": 600 } },
    { selector: "node.tainted", style: { "border-color": color("bad"), "border-style": "dashed" } },
    { selector: "node.revoked", style: { "border-color": color("bad"), "border-width": 3 } },
    { selector: "node.restricted", style: { "background-fill": "solid", "background-color": color("page"), color: color("muted"), "border-style": "dotted" } },
    { selector: "node.root", style: { "outline-width": 3, "outline-color": color("accent-soft"), "outline-offset": 2 } },
    { selector: "node.chosen", style: { "outline-width": 3, "outline-color": color("accent"), "outline-offset": 2 } },
    {
      selector: "edge",
      style: {
        width: 1.2,
        "line-color": color("edge"),
        "target-arrow-color": color("edge"),
        "target-arrow-shape": "triangle",
        "arrow-scale": 0.8,
        "curve-style": "bezier",
        "control-point-step-size": 30,
      },
    },
    { selector: "edge.near", style: { width: 2, "line-color": color("accent"), "target-arrow-color": color("accent") } },
    { selector: "edge.named", style: { label: "data(name)", "font-size": 10, color: color("muted"), "text-background-color": color("page"), "text-background-opacity": 0.9, "text-background-padding": 2, "text-rotation": "autorotate" } },
    ...[...KINDS, STEP].map((kind) => ({ selector: `node.overview[look = "${kind}"]`, style: { "background-fill": "solid", "background-color": color(kind), "border-width": 0 } })),
    { selector: ".far", style: { opacity: 0.28 } },
  ];
}
