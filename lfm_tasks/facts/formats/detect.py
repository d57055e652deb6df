"""Which published format a row has, and its facts as canonical rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from lfm_tasks.errors import DataError
from lfm_tasks.facts.config import Format, ZsreTarget
from lfm_tasks.facts.formats.counterfact import counterfact
from lfm_tasks.facts.formats.knowedit import knowedit
from lfm_tasks.facts.formats.mquake import mquake
from lfm_tasks.facts.formats.rippleedits import rippleedits
from lfm_tasks.facts.formats.zsre import zsre

Row = Mapping[str, Any]
SIGNS: dict[Format, tuple[frozenset[str], ...]] = {
    "canonical": (frozenset({"prompt", "target_new", "subject"}),),
    "counterfact": (frozenset({"case_id", "requested_rewrite"}),),
    "zsre": (frozenset({"src", "subject", "alt"}), frozenset({"src", "subject", "answers"})),
    "knowedit": tuple(
        frozenset({text, target, subject})
        for text in ("prompt", "text")
        for target in ("target_new", "labels")
        for subject in ("subject", "concept")
    ),
    "mquake": (frozenset({"requested_rewrite", "questions"}),),
    "rippleedits": (frozenset({"edit"}),),
}
"""Keys that a row of each format has at least one set of."""


def detect(row: Any) -> Format:
    """Raises :class:`DataError` that lists the keys of the row."""
    keys = set(row) if isinstance(row, Mapping) else set()
    fitting: list[Format] = [name for name, signs in SIGNS.items() if any(sign <= keys for sign in signs)]
    if "mquake" in fitting:
        return "mquake"
    if "canonical" in fitting:
        return "canonical" if "{}" in str(row["prompt"]) else "knowedit"
    if not fitting:
        raise DataError(
            f"the keys {', '.join(sorted(keys)) or 'are none'} are those of no known format. Known: "
            + "; ".join(f"{name} ({', '.join(sorted(signs[0]))})" for name, signs in SIGNS.items())
            + "."
        )
    return fitting[0]


def canonical_rows(rows: Iterable[tuple[str, Any]], given: Format | None, target: ZsreTarget) -> tuple[list[tuple[str, Any]], list[str]]:
    """(where, canonical row) of every fact, and what cannot be read, each with its place. ``given`` None finds each row's format.

    A row of MQuAKE holds several facts, and two rows may share one: its questions are then put together.
    """
    convert: dict[Format, Callable[[Row], Iterator[dict[str, Any]]]] = {
        "canonical": lambda row: iter([dict(row)]),
        "counterfact": counterfact,
        "zsre": lambda row: zsre(row, target),
        "knowedit": knowedit,
        "mquake": mquake,
        "rippleedits": rippleedits,
    }
    found: list[tuple[str, Any]] = []
    shared: dict[tuple[Any, ...], dict[str, Any]] = {}
    problems = []
    for where, row in rows:
        try:
            format_ = given or detect(row)
            for made in convert[format_](row):
                key = tuple(made.get(name) for name in ("subject", "prompt", "target_new"))
                if format_ == "mquake" and key in shared:
                    _add_questions(shared[key], made)
                else:
                    shared[key] = made
                    found.append((where, made))
        except DataError as error:
            problems.append(f"{where}: {error}")
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            problems.append(f"{where}: no row of the format '{given or format_}' ({type(error).__name__}: {error}). Name the right format.")
    return found, problems


def _add_questions(fact: dict[str, Any], again: dict[str, Any]) -> None:
    for kind, probes in again.get("portability", {}).items():
        fact.setdefault("portability", {}).setdefault(kind, []).extend(probes)
