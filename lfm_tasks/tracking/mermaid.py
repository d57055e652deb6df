"""A page of lineage as a Mermaid flow chart, which Markdown viewers draw."""

from __future__ import annotations

from typing import Any

SHAPES = {"artifact": ('["', '"]'), "record": ('(["', '"])')}


def flow_chart(page: dict[str, Any]) -> str:
    """``page`` is what :meth:`lfm_tasks.tracking.index.LineageIndex.neighbourhood` answers."""
    names = {node["id"]: f"n{place}" for place, node in enumerate(page["nodes"])}
    lines = ["flowchart LR"]
    for node in page["nodes"]:
        begin, end = SHAPES[node["type"]]
        lines.append(f"  {names[node['id']]}{begin}{_text(node)}{end}")
    lines += [f"  {names[edge['from']]} -->|{_escape(edge['name'])}| {names[edge['to']]}" for edge in page["edges"]]
    marked = {"root": page["roots"], "revoked": [node["id"] for node in page["nodes"] if node["revoked"]]}
    styles = {"root": "stroke-width:3px", "revoked": "stroke:#c00,stroke-width:3px"}
    for name, members in marked.items():
        if members:
            lines += [f"  classDef {name} {styles[name]}", f"  class {','.join(names[member] for member in members)} {name}"]
    return "\n".join(lines)


def _text(node: dict[str, Any]) -> str:
    metric = node["metric"]
    words = [node["kind"] or node["step"], node["method"], node["short"], node["label"]]
    words += [f"{metric['name']} {metric['value']:.4g}" if metric else None, f"reused {node['hits']}x" if node["hits"] else None]
    return "<br/>".join(_escape(word) for word in words if word)


def _escape(text: str) -> str:
    """No character that Mermaid or HTML gives a meaning to."""
    return "".join(one if one.isalnum() or one in " ._-/:@+" else f"#{ord(one)};" for one in text)
