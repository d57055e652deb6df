// Lays a graph out from left to right, beside the page's own thread. In: nodes with their sizes, edges. Out: centres by id.

import { Graph, layout } from "./vendor/dagre.esm.js";

const CAREFUL = 400; // above that many nodes, fewer crossings are not worth the wait

onmessage = ({ data: { job, nodes, edges } }) => {
  const graph = new Graph({ multigraph: true });
  graph.setGraph({ rankdir: "LR", nodesep: 16, ranksep: 40, ranker: "tight-tree" });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const { id, width, height } of nodes) graph.setNode(id, { width, height });
  for (const { source, target } of edges) graph.setEdge(source, target);
  const began = performance.now();
  layout(graph, { disableOptimalOrderHeuristic: nodes.length > CAREFUL });
  const places = Object.fromEntries(nodes.map(({ id }) => [id, { x: graph.node(id).x, y: graph.node(id).y }]));
  postMessage({ job, places, milliseconds: performance.now() - began });
};
