"""CounterFact and MultiCounterFact (Meng et al. 2022, 2023; arXiv 2202.05262, 2210.07229)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def counterfact(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Neighbours are other subjects of which ``target_true`` holds; ``attribute_prompts`` (of which ``target_new`` holds) are not read."""
    rewrite = row["requested_rewrite"]
    true = rewrite["target_true"]["str"]
    yield {
        "id": f"counterfact-{row['case_id']}",
        "subject": rewrite["subject"],
        "prompt": rewrite["prompt"],
        "target_new": rewrite["target_new"]["str"],
        "target_true": true,
        "relation": rewrite.get("relation_id", ""),
        "paraphrases": row.get("paraphrase_prompts", []),
        "neighbours": [{"prompt": prompt, "answers": [true]} for prompt in row.get("neighborhood_prompts", [])],
        "generation_prompts": row.get("generation_prompts", []),
        "source": "counterfact",
    }
