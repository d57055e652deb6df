"""Texts with ``{column}`` where a row's value is to stand: exact replacement, nothing is evaluated. Light to import."""

from __future__ import annotations

import re
from collections.abc import Mapping

PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]{0,63})\}")
TEMPLATE_LANGUAGE = ("{{", "{%", "{#", "${")
COLUMN = r"^[^\{\}\x00-\x1f]{1,128}$"


def columns_of(template: str) -> list[str]:
    """The columns that ``template`` names, in the order of their first use."""
    return list(dict.fromkeys(PLACEHOLDER.findall(template)))


def fill(template: str, values: Mapping[str, str]) -> str:
    """``template`` with each ``{column}`` replaced once; what the values hold is not looked at again."""
    return PLACEHOLDER.sub(lambda match: values[match[1]], template)


def without_template_language(text: str) -> str:
    """``text`` as it is; raises :class:`ValueError` where it looks like code of a template language, which is not run."""
    found = [mark for mark in TEMPLATE_LANGUAGE if mark in text]
    if found:
        raise ValueError(f"holds {found[0]!r}; template code is not run. Write {{column}} where a row's value is to stand")
    return text
