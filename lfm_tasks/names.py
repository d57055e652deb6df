"""Names and marks that people choose (registered models, projects): one pattern, checked everywhere they enter."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

from lfm_tasks.errors import InvalidInput

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
METRIC_PATTERN = r"^[a-z][a-z0-9_.]{0,63}/[a-z][a-z0-9_]{0,31}$"
MetricName = Annotated[str, StringConstraints(pattern=METRIC_PATTERN)]
AnswerMark = Annotated[str, StringConstraints(pattern=r"\S", max_length=200)]
"""What stands before an answer; a blank one would stand everywhere."""


def check_name(what: str, name: str) -> str:
    """Return ``name``; raise :class:`InvalidInput` unless it matches :data:`NAME_PATTERN`."""
    if not re.fullmatch(NAME_PATTERN[1:-1], name):
        raise InvalidInput(
            f"{what} {name!r} is not a valid name. Use 1 to 63 characters: lower-case letters, digits, '.', '_' and '-', "
            "beginning with a letter or a digit."
        )
    return name
