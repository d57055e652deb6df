"""Top-k log-probabilities that an API gave, with what is left for all other tokens together: an artifact of kind ``signals``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lfm_tasks.distillation.black_box.reply import Place

SCHEMA = pa.schema(
    [
        ("request_sha256", pa.string()),
        ("prompt", pa.string()),
        ("tokens", pa.list_(pa.string())),
        ("logprob", pa.list_(pa.float64())),
        ("top_tokens", pa.list_(pa.list_(pa.string()))),
        ("top_logprobs", pa.list_(pa.list_(pa.float64()))),
        ("tail", pa.list_(pa.float64())),
    ]
)


def tail(logprobs: Iterable[float]) -> float:
    """log(1 − Σ exp(logprobs)): the log-probability of every other token together, −∞ where rounding leaves nothing for them.

    With it the top k are a distribution of k + 1 outcomes, whose KL divergence is at most that of the whole vocabulary.
    """
    rest = math.fsum([1.0, *(-math.exp(value) for value in logprobs)])
    return math.log(rest) if rest > 0 else -math.inf


def write_signals(answered: Iterable[tuple[str, str, tuple[Place, ...]]], directory: Path, described: dict[str, object]) -> int:
    """Write (request hash, prompt, places) as ``signals.parquet`` with ``signals.json`` beside it; the number of places.

    Tokens are the teacher's own, as texts: they are bound to no vocabulary of ids.
    """
    rows = [
        {
            "request_sha256": key,
            "prompt": prompt,
            "tokens": [place.token for place in places],
            "logprob": [place.logprob for place in places],
            "top_tokens": [[token for token, _ in place.top] for place in places],
            "top_logprobs": [[value for _, value in place.top] for place in places],
            "tail": [tail(value for _, value in place.top) for place in places],
        }
        for key, prompt, places in answered
    ]
    directory.mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, directory / "signals.parquet", compression="zstd", store_schema=False)
    count = sum(len(row["tokens"]) for row in rows)
    described = {"format": 1, "access": "text", "answers": len(rows), "places": count, **described}
    (directory / "signals.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
    return count
