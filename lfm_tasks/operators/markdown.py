"""The gate's decision as the page that a person reads before answering. All text is escaped: metric names, reasons, everything."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lfm_tasks.markdown import escape

COLUMNS = ("role", "champion", "challenger", "difference", "low", "high", "verdict")


def decision_page(summary: Mapping[str, Any], decision: str, run_url: str | None) -> str:
    """Markdown: what the gate said and why, its table, where to look further."""
    said = {"ask": "asks a person", "promote": "would promote", "reject": "would reject"}[summary["outcome"]]
    lines = [f"**The gate {said}.**", "", *[f"- {escape(reason)}" for reason in summary["reasons"]], ""]
    lines += [f"| metric | {' | '.join(COLUMNS)} |", "|---|---|---:|---:|---:|---:|---:|---|"]
    for row in summary["table"]:
        lines.append(f"| {escape(row['metric'])} | {' | '.join(cell(row[name]) for name in COLUMNS)} |")
    lines += ["", f"Decision `{decision}`, challenger minus champion, on the metric's own scale (a logarithm for perplexity)."]
    if run_url and re.fullmatch(r"https?://[^\s()<>]+", run_url):
        lines.append(f"[The comparison in MLflow]({run_url})")
    return "\n".join(lines)


def cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else escape(str(value).replace("_", " "))
