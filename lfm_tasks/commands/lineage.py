"""``lfm lineage``, ``impact``, ``cost`` and ``diff``: what was made from what, at what cost, and what tells two models apart."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from lfm_tasks.commands.references import HELP, find_address, open_index
from lfm_tasks.commands.tables import byte_count, duration, interval, money, number, print_table
from lfm_tasks.settings import settings

if TYPE_CHECKING:
    from lfm_tasks.tracking.index import LineageIndex

LARGEST_DRAWING = 2000


def register(commands: Any) -> None:
    lineage = commands.add_parser("lineage", help="what an artifact was made from")
    lineage.add_argument("reference", help=HELP)
    direction = lineage.add_mutually_exclusive_group()
    direction.add_argument("--ancestors", action="store_const", dest="direction", const="ancestors", help="what it was made from (default)")
    direction.add_argument("--descendants", action="store_const", dest="direction", const="descendants", help="what was made from it")
    form = lineage.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--mermaid", action="store_true", help="a Mermaid flow chart, for Markdown")
    lineage.set_defaults(call=_lineage, direction="ancestors")

    impact = commands.add_parser("impact", help="which models in use contain a data set or a model, and through which steps")
    impact.add_argument("reference", help=HELP)
    impact.add_argument("--json", action="store_true")
    impact.set_defaults(call=_impact)

    cost = commands.add_parser("cost", help="what an artifact and everything that it was made from cost")
    cost.add_argument("reference", help=HELP)
    cost.add_argument("--json", action="store_true")
    cost.set_defaults(call=_cost)

    diff = commands.add_parser("diff", help="what tells two models apart: config, data, code, environment, metrics, weights")
    diff.add_argument("first", help=HELP)
    diff.add_argument("second")
    diff.add_argument("--no-weights", action="store_true", help="leave the weights unread")
    diff.add_argument("--json", action="store_true")
    diff.set_defaults(call=_diff)


def _open(reference: str) -> tuple[LineageIndex, str]:
    index = open_index()
    return index, find_address(reference, index.snapshot.store, [*index.graph.artifacts, *index.graph.records])


def _lineage(options: argparse.Namespace) -> int:
    index, address = _open(options.reference)
    graph, labels = index.graph, {sha256: names[0] for sha256, names in index.snapshot.labels.items()}
    if options.mermaid:
        from lfm_tasks.tracking.mermaid import flow_chart

        print(flow_chart(index.neighbourhood(address, options.direction, LARGEST_DRAWING)))
    elif options.json:
        print(json.dumps(graph.to_json(address, options.direction, labels), indent=2))
    else:
        print("\n".join(graph.tree(address, options.direction, labels)))
    return 0


def _impact(options: argparse.Namespace) -> int:
    from lfm_tasks.tracking.impact import models_in_use

    index, address = _open(options.reference)
    found = models_in_use(index.snapshot, address)
    if options.json:
        print(json.dumps(found, indent=2))
        return 0
    for use in found:
        steps = " → ".join(" ".join(filter(None, (step["step"], step["method"]))) for step in use["steps"]) or "the model itself"
        print(f"{use['model']}@{use['alias']}  version {use['version']}  sha256:{use['sha256'][:12]}  through {steps}")
    print(f"{len(found)} aliases in use name a model that contains {index.graph.artifacts.get(address, 'record')} {address[:12]}.")
    return 0


def _cost(options: argparse.Namespace) -> int:
    from lfm_tasks.tracking.cost import BYTES, Prices, total

    index, address = _open(options.reference)
    graph, prices = index.graph, Prices.of(settings())
    inside = graph.ancestors(address) | {address}
    records = [(one, record) for one, record in graph.records.items() if one in inside]
    summed = total([record for _, record in records], prices)
    if options.json:
        rows = [{"record": one, "step": record["step"], **total([record], prices)} for one, record in records]
        print(json.dumps({"address": address, "total": summed, "records": rows}, indent=2))
        return 0
    rows = []
    for step in dict.fromkeys(record["step"] for _, record in records):
        rows.append((step, total([record for _, record in records if record["step"] == step], prices)))
    table = [
        (
            name,
            f"{row['records']}" + (f" ({row['hits']} reused)" if row["hits"] else ""),
            *(duration(row[f"{clock}_seconds"]) for clock in ("wall", "cpu", "device")),
            byte_count(row["peak_rss_bytes"]),
            byte_count(sum(row[each] for each in BYTES)),
            duration(row["saved"]["cpu_seconds"]),
            money(row["money"], row["currency"]),
        )
        for name, row in [*rows, ("total", summed)]
    ]
    print_table(("step", "records", "wall", "CPU", "device", "peak memory", "moved", "CPU saved", "money"), table)
    return 0


def _diff(options: argparse.Namespace) -> int:
    from lfm_tasks.tracking.differences import diff

    index, first = _open(options.first)
    store = index.snapshot.store
    second = find_address(options.second, store, list(index.graph.artifacts))
    found = diff(store, index, first, second, weights=not options.no_weights)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        _print_diff(found)
    return 0


def _print_diff(found: dict[str, Any]) -> None:
    for side in ("first", "second"):
        print(f"{side:<7} {found[side]['kind']} sha256:{found[side]['id']}  {found[side]['label'] or ''}".rstrip())
    if found["same"]:
        print("They are one and the same.")
        return
    for step in found["steps"]:
        makers = [step[side] and f"{step[side]['step']} {step[side]['method'] or ''}".strip() for side in ("first", "second")]
        rows = [("made by", *(maker or "nothing recorded" for maker in makers))] if makers[0] != makers[1] else []
        rows += [(change["field"], change["first"], change["second"]) for change in step["config"]]
        rows += [(change["field"], change["first"], change["second"]) for change in step["environment"]]
        if step["code"]:
            rows.append(("code", *(f"{side['sha256'][:12]} ({side['git_commit'] or 'no commit'})" for side in step["code"].values())))
        if rows:
            print_table((f"{step['place']}: {makers[0] or makers[1]}", "first", "second"), rows)
    if found["data"]:
        sides = ("first", "second")
        print_table(("input", *sides), [(entry["place"], *(_named(entry[side]) for side in sides)) for entry in found["data"]])
    if found["metrics"]:
        rows = [(m["name"], m["dataset"][:12], interval(m["first"]), interval(m["second"]), _change(m)) for m in found["metrics"]]
        print_table(("metric", "on data set", "first", "second", "difference"), rows)
    _print_weights(found["weights"])


def _named(node: dict[str, Any] | None) -> str:
    return "" if node is None else f"{node['kind']} {node['short']} {node['label'] or ''}".strip()


def _change(metric: dict[str, Any]) -> str:
    if metric["difference"] is None:
        return ""
    unit = " (log ratio)" if metric["scale"] == "log_ratio" else ""
    return f"{metric['difference']:+.4g} [{metric['low']:+.4g}, {metric['high']:+.4g}]{unit}"


def _print_weights(weights: dict[str, Any] | None) -> None:
    if weights is None:
        return
    if "not_compared" in weights:
        print(f"weights: {weights['not_compared']}")
        return
    if weights["products"]:
        rows = [(product["name"], number(product["relative"])) for product in weights["products"]]
        print_table(("what the adapter adds to", "relative change"), rows)
    else:
        rows = [(layer["name"], number(layer["relative"]), layer["tensors"]) for layer in weights["layers"]]
        print_table(("layer", "relative change", "tensors"), [*rows, ("all", number(weights["relative"]), len(weights["tensors"]))])
    for entry in weights["reshaped"]:
        print(f"{entry['name']} has the shape {entry['first']} in the first and {entry['second']} in the second.")
    for side in ("first", "second"):
        if names := weights[f"only_in_{side}"]:
            print(f"{len(names)} tensors are only in the {side}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}")
