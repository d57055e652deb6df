"""Config of the step *import_facts*. Light to import."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from lfm_tasks.config import Config

Format = Literal["canonical", "counterfact", "zsre", "knowedit", "mquake", "rippleedits"]
ZsreTarget = Literal["alt", "answers"]


class ImportFactsConfig(Config):
    format: Literal["auto", "canonical", "counterfact", "zsre", "knowedit", "mquake", "rippleedits"] = Field(
        "auto",
        description="What the files hold; auto finds it row by row.",
        json_schema_extra={
            "section": "Files",
            "labels": {
                "auto": "Find out",
                "canonical": "Facts of this platform",
                "counterfact": "CounterFact, MultiCounterFact",
                "zsre": "zsRE (MEND)",
                "knowedit": "KnowEdit",
                "mquake": "MQuAKE",
                "rippleedits": "RippleEdits",
            },
        },
    )
    facts: list[dict[str, Any]] = Field(
        [],
        max_length=200,
        description='Facts typed in: [{"subject": "France", "prompt": "The capital of {} is", "target_new": "Rome"}].',
        json_schema_extra={"section": "Facts"},
    )
    zsre_target: ZsreTarget = Field(
        "alt",
        description="zsRE: write the counterfactual answer (MEND, EasyEdit) or the true one (ROME). Their tables do not compare.",
        json_schema_extra={"section": "Files", "labels": {"alt": "Counterfactual", "answers": "True"}, "advanced": True},
    )
    problems: Literal["refuse", "drop"] = Field(
        "refuse",
        description="What to do when facts cannot be used, are there twice, or contradict each other.",
        json_schema_extra={"section": "Files", "labels": {"refuse": "Refuse the data", "drop": "Drop the facts and count them"}},
    )
    max_facts: int = Field(
        0, ge=0, le=10_000_000, description="Keep at most so many, the first; 0 keeps all.", json_schema_extra={"section": "Files"}
    )
