"""What an OpenAI-compatible API sends back, read strictly: text, cost, and log-probabilities where they were asked for."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

ROUNDING = 1e-2
"""By so much the probabilities that an API gives may be more than 1 together: it rounds their logarithms."""


class Garbage(Exception):
    """A reply that is not what the API promises; the message says in which way."""


@dataclass(frozen=True)
class Place:
    """One token of an answer, its log-probability (nats), and the likeliest tokens at its place with theirs."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Reply:
    """``requests`` says how many were needed to get it; ``model`` is what the API says answered."""

    text: str
    finish: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    places: tuple[Place, ...] = ()
    requests: int = 1

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def parse_reply(body: str, api: str) -> Reply:
    """Raises :class:`Garbage` for what is not JSON, lacks a field, or holds a value of another kind. An empty text is an answer."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise Garbage("the reply is not JSON") from None
    choice = _field(_field(document, "choices", list, "choices"), 0, dict, "choices[0]")
    if api == "chat":
        message = _field(choice, "message", dict, "choices[0].message")
        text = _field(message, "content", str, "choices[0].message.content")
    else:
        text = _field(choice, "text", str, "choices[0].text")
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text=_encodable(text),
        finish=str(choice.get("finish_reason") or ""),
        model=str(document.get("model") or ""),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        places=_places(choice.get("logprobs"), api),
    )


def _places(given: Any, api: str) -> tuple[Place, ...]:
    if given is None:
        return ()
    try:
        if api == "chat":
            entries = [
                (one["token"], one["logprob"], [(t["token"], t["logprob"]) for t in one["top_logprobs"]]) for one in given["content"]
            ]
        else:
            tops = [list(top.items()) for top in given["top_logprobs"]]
            entries = list(zip(given["tokens"], given["token_logprobs"], tops, strict=True))
        places = tuple(_place(token, float(logprob), top) for token, logprob, top in entries)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Garbage("its log-probabilities are not in the API's form") from None
    if any(not (place.logprob <= ROUNDING and sum(math.exp(value) for _, value in place.top) <= 1 + ROUNDING) for place in places):
        raise Garbage("its log-probabilities are not of probabilities")
    return places


def _place(token: str, logprob: float, top: list[tuple[str, Any]]) -> Place:
    return Place(_encodable(token), logprob, tuple((_encodable(other), min(float(value), ROUNDING)) for other, value in top))


def _field(holder: Any, key: Any, kind: type, name: str) -> Any:
    try:
        value = holder[key]
    except (KeyError, IndexError, TypeError):
        raise Garbage(f"{name} is missing") from None
    if not isinstance(value, kind):
        raise Garbage(f"{name} is a {type(value).__name__}")
    return value


def _count(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and math.isfinite(value) and value > 0 else 0


def _encodable(text: str) -> str:
    """JSON can spell half of a surrogate pair, which is no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Garbage("its text holds half a surrogate pair") from None
    return text
