"""How a person or a step names an artifact. This is the only place that parses references; everything else is refused.

``sha256:…`` · ``models:/NAME@alias`` · ``models:/NAME/3`` · ``starter://NAME`` · ``hf://ORG/NAME[@revision]`` ·
``s3://…`` and ``file://…`` below an allowed prefix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lfm_tasks.errors import ReferenceRefused
from lfm_tasks.names import NAME_PATTERN

Scheme = Literal["sha256", "models", "starter", "hf", "s3", "file"]
SCHEMES = (
    "sha256:<64 hex digits>, models:/NAME@ALIAS, models:/NAME/VERSION, starter://NAME, hf://ORG/NAME, "
    "s3://… or file://… below an allowed prefix"
)
_NAME = NAME_PATTERN[1:-1]
_HUB_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"


@dataclass(frozen=True)
class Reference:
    """A parsed reference. ``name`` is the address, model name, starter name, ``ORG/NAME`` or whole URI, by scheme."""

    scheme: Scheme
    text: str
    name: str
    alias: str | None = None
    version: str | None = None
    revision: str | None = None


def parse_reference(text: str, prefixes: tuple[str, ...] = ()) -> Reference:
    """Parse ``text``; raises :class:`ReferenceRefused` unless it is one of the known forms and, for URIs, allowed."""
    if not isinstance(text, str) or len(text) > 1024:
        raise ReferenceRefused(f"A reference is a text of at most 1024 characters, one of {SCHEMES}.")
    if match := re.fullmatch(r"sha256:([0-9a-f]{64})", text):
        return Reference("sha256", text, match[1])
    if match := re.fullmatch(rf"models:/({_NAME})@([a-z][a-z0-9_-]{{0,31}})", text):
        return Reference("models", text, match[1], alias=match[2])
    if match := re.fullmatch(rf"models:/({_NAME})/([1-9][0-9]{{0,8}})", text):
        return Reference("models", text, match[1], version=match[2])
    if match := re.fullmatch(rf"starter://({_NAME})", text):
        return Reference("starter", text, match[1])
    if match := re.fullmatch(rf"hf://({_HUB_PART}/{_HUB_PART})(?:@({_HUB_PART}))?", text):
        return Reference("hf", text, match[1], revision=match[2])
    if match := re.fullmatch(r"(s3|file)://\S*", text):
        return Reference(match[1], text, below_prefix(text, prefixes, "LFM_ALLOWED_PREFIXES"))  # type: ignore[arg-type]
    raise ReferenceRefused(f"{text!r} is not a reference. Use one of {SCHEMES}.")


def below_prefix(uri: str, prefixes: tuple[str, ...], setting: str) -> str:
    """``uri``; raises :class:`ReferenceRefused` unless it is one of ``prefixes``, which ``setting`` holds, or below one."""
    if ".." in uri.split("/") or re.search(r"[\x00-\x20\x7f\\%?#]", uri):
        raise ReferenceRefused(
            f"{uri!r} holds '..', escapes, blanks or control characters. Write the plain path of one object or directory."
        )
    for prefix in prefixes:
        base = prefix.rstrip("/")
        if uri == base or uri.startswith(base + "/"):
            return uri
    allowed = ", ".join(prefixes) or "none is configured"
    raise ReferenceRefused(f"{uri!r} is outside the allowed prefixes ({allowed}). An administrator extends {setting}.")
