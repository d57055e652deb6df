"""What teachers behind an API have answered: ``answers/<key>.json``, shared by all jobs of a store. An answer is paid for once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lfm_tasks.artifacts.hashing import sha256_bytes
from lfm_tasks.artifacts.store import Store
from lfm_tasks.config import canonical_json
from lfm_tasks.errors import IntegrityError, ReferenceRefused


@dataclass(frozen=True)
class StoreAnswers:
    """Implements :class:`lfm_tasks.step.Answers`. Safe in several threads: each answer is one object, whole or absent."""

    store: Store

    def get(self, key: str) -> dict[str, Any] | None:
        """Raises :class:`IntegrityError` for an answer that is not what was put."""
        data = self.store.backend.get_bytes(f"answers/{key}.json")
        if data is None:
            return None
        try:
            kept = json.loads(data)
            answer, digest = kept["answer"], kept["sha256"]
        except (ValueError, KeyError, TypeError):
            answer, digest = None, ""
        if sha256_bytes(canonical_json(answer)) != digest:
            raise IntegrityError(f"The answer answers/{key}.json was changed after it was written. Delete it to ask again.")
        return answer

    def put(self, key: str, answer: Mapping[str, Any]) -> None:
        content = {"answer": dict(answer), "sha256": sha256_bytes(canonical_json(dict(answer)))}
        self.store.backend.put_bytes(f"answers/{key}.json", canonical_json(content))


class KeptAnswers(StoreAnswers):
    """For a replay, which asks nobody: an answer that is not there is refused."""

    def get(self, key: str) -> dict[str, Any]:
        answer = super().get(key)
        if answer is None:
            raise ReferenceRefused(f"The answer answers/{key}.json is not in the store, and a replay asks no teacher anew.")
        return answer
