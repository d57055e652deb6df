"""MQuAKE (Zhong et al. 2023, arXiv 2305.14795): chains of facts, some of them edited, and questions at their end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def mquake(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A fact for each rewrite. The chain's questions (``multi_hop``) hold once *all* of its rewrites are made; they go with the first."""
    hops = [{"prompt": question, "answers": [row["new_answer"], *row.get("new_answer_alias", [])]} for question in row["questions"]]
    rewrites = row["requested_rewrite"]
    for place, rewrite in enumerate(rewrites):
        yield {
            "id": f"mquake-{row['case_id']}-{place}",
            "subject": rewrite["subject"],
            "prompt": rewrite["prompt"],
            "target_new": rewrite["target_new"]["str"],
            "target_true": rewrite["target_true"]["str"],
            "relation": rewrite.get("relation_id", ""),
            "paraphrases": [rewrite["question"]] if rewrite.get("question") else [],
            "portability": {"multi_hop": hops} if place == 0 else {},
            "source": "mquake",
        }
