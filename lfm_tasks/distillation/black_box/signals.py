"""Answers of an API with the log-probabilities that came along, the top k at each place and what is left for all other tokens
together: an artifact of kind ``signals``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lfm_tasks.distillation.black_box.reply import Place

FORMAT = 2
FORM = "answers"
TABLE = "signals.parquet"
SCHEMA = pa.schema(
    [
        ("request_sha256", pa.string()),
        ("prompt", pa.string()),
        ("text", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
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


@dataclass(frozen=True)
class Told:
    """An answer as the teacher gave it; ``text[start:end]`` is what became the completion of ``prompt``."""

    request_sha256: str
    prompt: str
    text: str
    start: int
    end: int
    places: tuple[Place, ...]


def write_signals(answers: Iterable[Told], directory: Path, described: dict[str, object]) -> int:
    """Write ``signals.parquet`` with ``signals.json`` beside it; the number of places.

    Tokens are the teacher's own, as texts: they are bound to no vocabulary of ids.
    """
    rows = [
        {
            "request_sha256": one.request_sha256,
            "prompt": one.prompt,
            "text": one.text,
            "start": one.start,
            "end": one.end,
            "tokens": [place.token for place in one.places],
            "logprob": [place.logprob for place in one.places],
            "top_tokens": [[token for token, _ in place.top] for place in one.places],
            "top_logprobs": [[value for _, value in place.top] for place in one.places],
            "tail": [tail(value for _, value in place.top) for place in one.places],
        }
        for one in answers
    ]
    directory.mkdir(parents=True)
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pq.write_table(table, directory / TABLE, compression="zstd", store_schema=False)
    count = sum(len(row["tokens"]) for row in rows)
    access = ["text", "probabilities"]
    described = {"format": FORMAT, "form": FORM, "access": access, "answers": len(rows), "places": count, **described}
    (directory / "signals.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
    return count
