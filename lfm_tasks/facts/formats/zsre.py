"""zsRE in the split of MEND (Levy et al. 2017, arXiv 1706.04115; Mitchell et al. 2021, arXiv 2110.11309)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lfm_tasks.facts.config import ZsreTarget
from lfm_tasks.facts.formats.prompts import with_place


def zsre(row: Mapping[str, Any], target: ZsreTarget) -> Iterator[dict[str, Any]]:
    """``alt`` writes a counterfactual answer, as MEND does; ``answers`` writes the true one, as ROME does. Their tables do not compare."""
    true = row["answers"][0] if row.get("answers") else None
    yield {
        "subject": row["subject"],
        "prompt": with_place(row["src"], row["subject"]),
        "target_new": row["alt"] if target == "alt" else row["answers"][0],
        "target_true": true if target == "alt" else None,
        "paraphrases": [row["rephrase"]] if row.get("rephrase") else [],
        "locality": [{"prompt": row["loc"], "answers": [row["loc_ans"]]}] if row.get("loc") else [],
        "source": f"zsre ({target})",
    }
