// What kinds of nodes look like, in one place: the graph, the legend, the panel and the lists agree.

export const KINDS = ["dataset", "model", "adapter", "signals", "statistics", "report"];
export const STEP = "step";

export function look(node) {
  return node.type === "record" ? STEP : node.kind ?? "report";
}

/** First line: what it is. */
export function title(node) {
  if (node.restricted) return node.type === "record" ? "a step you may not see" : `${node.kind ?? "artifact"} ${node.short.slice(0, 8)}`;
  if (node.type === "record") return [node.step, node.method].filter(Boolean).join(" · ");
  return `${node.kind} ${node.short.slice(0, 8)}`;
}

/** Second line: its name, or the number that a person looks for first. */
export function subtitle(node, number) {
  if (node.restricted) return "";
  if (node.type === "record") return node.said ?? metric(node, number) ?? node.short.slice(0, 8);
  return node.label?.replace(/ version (\d+)/, " v$1") ?? metric(node, number) ?? "";
}

// What the most frequent numbers are called where there is little room.
const BRIEFLY = {
  validation_loss_best: "validation loss",
  train_loss_final: "training loss",
  "rows/kept": "rows",
  "choice/accuracy": "accuracy",
  "classification/accuracy": "accuracy",
  "generation/exact_match": "exact match",
};

export function metric(node, number) {
  return node.metric ? `${BRIEFLY[node.metric.name] ?? node.metric.name.replace(/[_/]/g, " ")} ${number(node.metric.value)}` : null;
}
