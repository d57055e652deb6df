"""Facts to and from ``facts.jsonl``: one JSON object a line, whose keys are the fields of :class:`~lfm_tasks.facts.record.Fact`.

Whatever is wrong with a set is said at once, each problem with its row and its value.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

from lfm_tasks.errors import DataError, unknown_name
from lfm_tasks.facts.record import Change, Fact, Probe

FACTS_FILE = "facts.jsonl"
PROBLEMS_SHOWN = 20
_REQUIRED = ("subject", "prompt", "target_new")
_TEXTS = ("id", *_REQUIRED, "target_true", "change", "relation", "source")
_LISTS = ("paraphrases", "generation_prompts")
_PROBES = ("neighbours", "locality")


def read_facts(directory: Path) -> list[Fact]:
    """Raises :class:`DataError` that names every row that cannot be used, every duplicate and every conflict."""
    path = directory / FACTS_FILE
    if not path.is_file():
        raise DataError(f"The data set has no {FACTS_FILE}, so it holds no facts. Make it by the step 'import_facts'.")
    return parse_facts(read_objects(path))


def write_facts(facts: Iterable[Fact], directory: Path) -> None:
    """Equal facts give equal bytes; fields that are empty are left out."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(fact_row(fact), ensure_ascii=False) + "\n" for fact in facts]
    (directory / FACTS_FILE).write_text("".join(lines), encoding="utf-8")


def fact_row(fact: Fact) -> dict[str, Any]:
    return {name: value for name, value in asdict(fact).items() if value}


def read_objects(path: Path) -> list[tuple[str, Any]]:
    """(where, value) of every line of a ``.jsonl`` file, or of every member of the list in a ``.json`` file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start:,}. Convert it."
        ) from None
    if path.suffix == ".json":
        members = _parse(text, path.name)
        if not isinstance(members, list):
            raise DataError(f"{path.name} holds a {type(members).__name__}; a list of facts is needed. Put the facts in one JSON list.")
        return [(f"{path.name}, fact {number}", one) for number, one in enumerate(members, start=1)]
    lines = ((f"{path.name}, line {number}", line) for number, line in enumerate(text.split("\n"), start=1))
    return [(where, _parse(line, where)) for where, line in lines if line.strip()]


def parse_facts(rows: Iterable[tuple[str, Any]]) -> list[Fact]:
    """Facts from (where, row); raises :class:`DataError` that lists every problem of every row and of the set."""
    facts, problems = sort_out(rows)
    refuse(problems)
    if not facts:
        raise DataError("There are no facts. Give at least one.")
    return facts


def sort_out(rows: Iterable[tuple[str, Any]]) -> tuple[list[Fact], list[str]]:
    """The facts that pass every check, the first of those that exclude each other; and what is wrong with each of the others."""
    kept: list[Fact] = []
    problems: list[str] = []
    taken: dict[tuple[str, ...], tuple[str, Fact]] = {}
    for where, row in rows:
        try:
            fact = parse_fact(row)
        except DataError as error:
            problems.append(f"{where}: {error}")
            continue
        keys = _questions(fact)
        if clash := next((key for key in keys if key in taken), None):
            problems.append(f"{where}: {_clash(fact, *taken[clash])}")
        else:
            kept.append(fact)
            taken |= dict.fromkeys(keys, (where, fact))
    return kept, problems


def refuse(problems: Sequence[str]) -> None:
    """Raise :class:`DataError` of all problems, if there are any."""
    if problems:
        more = [f"… and {len(problems) - PROBLEMS_SHOWN:,} more."] if len(problems) > PROBLEMS_SHOWN else []
        raise DataError("\n".join([*problems[:PROBLEMS_SHOWN], *more]))


def parse_fact(row: Any) -> Fact:
    """A fact from one row, checked. Raises :class:`DataError` that names the field and its value.

    A row without an id gets one that is a digest of its subject, prompt and target.
    """
    if not isinstance(row, Mapping):
        raise DataError(f'a {type(row).__name__}, not an object. Write each fact as {{"subject": …, "prompt": …, "target_new": …}}.')
    known = [field.name for field in fields(Fact)]
    if unknown := [name for name in row if name not in known]:
        raise DataError(unknown_name("field", unknown[0], known))
    if missing := [name for name in _REQUIRED if name not in row]:
        raise DataError(f"the field '{missing[0]}' is missing. A fact needs {', '.join(_REQUIRED)}.")
    values: dict[str, Any] = {name: _text(row[name], name) for name in _TEXTS if row.get(name) is not None}
    values |= {name: tuple(_text(one, name) for one in _list(row[name], name)) for name in _LISTS if name in row}
    values |= {name: _probes(row[name], name) for name in _PROBES if name in row}
    kinds = row.get("portability", {})
    if not isinstance(kinds, Mapping):
        raise DataError(f'portability holds {kinds!r}. Write {{"one_hop": [{{"prompt": …, "answers": […]}}]}}.')
    values["portability"] = {kind: _probes(probes, f"portability.{kind}") for kind, probes in kinds.items()}
    fact = Fact(**({"id": _digest(values)} | values))
    _check(fact)
    return fact


def _questions(fact: Fact) -> list[tuple[str, ...]]:
    """Two facts that share one of these exclude each other: they ask for the same thing, or go by the same id."""
    named = [("relation", _plain(fact.subject), fact.relation)] if fact.relation else []
    return [*named, ("text", _plain(fact.text)), ("id", fact.id)]


def _clash(fact: Fact, where: str, other: Fact) -> str:
    if not set(_questions(fact)[:-1]) & set(_questions(other)[:-1]):
        return f"the id {fact.id!r} is also that of {where}. Give each fact an id of its own."
    if _plain(fact.target_new) == _plain(other.target_new):
        return f"duplicate of {where} ({fact.subject!r}, target {fact.target_new!r}). Keep one."
    return (
        f"conflict with {where}: {fact.subject!r} ({fact.relation or fact.prompt}) is to be {fact.target_new!r} here and "
        f"{other.target_new!r} there. Keep one."
    )


def _check(fact: Fact) -> None:
    if not fact.subject:
        raise DataError("the subject is empty. Name what the fact is about.")
    if (count := fact.prompt.count("{}")) != 1:
        raise DataError(f"the prompt {fact.prompt!r} holds {{}} {count} times; exactly one {{}} marks the place of the subject.")
    if (count := mentions(fact.subject, fact.text)) > 1:
        raise DataError(f"the subject {fact.subject!r} is {count} times in {fact.text!r}. Word the prompt so that it is there once.")
    if not fact.target_new:
        raise DataError("target_new is empty. Give the answer that the model shall give, or leave the fact out.")
    if fact.target_true == "":
        raise DataError("target_true is empty. Leave it out where the present answer is not known.")
    if fact.target_true is not None and _plain(fact.target_new) == _plain(fact.target_true):
        raise DataError(f"target_new and target_true are both {fact.target_new!r}, so there is nothing to edit. Leave the fact out.")
    if fact.change not in get_args(Change):
        raise DataError(unknown_name("change", fact.change, get_args(Change)))


def mentions(name: str, text: str) -> int:
    """How often ``name`` stands in ``text`` as words of its own: Niger is not in Nigeria."""
    start, end = (r"(?<!\w)" if name[:1].isalnum() else "", r"(?!\w)" if name[-1:].isalnum() else "")
    return len(re.findall(start + re.escape(name) + end, text))


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name} holds {value!r}, a {type(value).__name__}. Write a text.")
    return value if name in ("prompt", *_LISTS) else value.strip()


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{name} holds {value!r}. Write a list.")
    return list(value)


def _probes(value: Any, name: str) -> tuple[Probe, ...]:
    found = []
    for one in _list(value, name):
        if not isinstance(one, Mapping) or set(one) != {"prompt", "answers"}:
            raise DataError(f'{name} holds {one!r}. Write {{"prompt": …, "answers": [at least one text]}}.')
        answers = tuple(_text(answer, f"{name}.answers") for answer in _list(one["answers"], f"{name}.answers"))
        if not answers or "" in answers:
            raise DataError(f"{name}: {one['prompt']!r} has the answers {list(answers)!r}. Give at least one, none of them empty.")
        found.append(Probe(_text(one["prompt"], "prompt"), answers))
    return tuple(found)


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256("\x1f".join(values[name] for name in _REQUIRED).encode()).hexdigest()[:12]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}).") from None
