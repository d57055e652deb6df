"""Which rows are kept, and in which split each lies: decided by content alone, never by order or by the other rows.

Law: read = kept + duplicates + empty + leaked + capped.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from operator import attrgetter

from lfm_tasks.errors import DataError
from lfm_tasks.rows.ids import content_hash
from lfm_tasks.rows.reading import SPLITS, RawRow
from lfm_tasks.seeds import derive_seed

GRAM = 13
"""Words of the n-grams that near-duplicates are found by, as in the contamination check of GPT-3 (arXiv 2005.14165, appendix C)."""


@dataclass(frozen=True)
class Row:
    """A row with its keys. ``input_key`` is equal for texts that differ in case and white space only; ``group_key`` is empty where rows
    are in no groups."""

    values: dict[str, str]
    sample_id: str
    input_key: str
    row_key: str
    order: int
    split: str
    origin: str
    group_key: str = ""

    @property
    def split_key(self) -> str:
        """What the split follows."""
        return self.group_key or self.input_key


@dataclass
class Counts:
    """What became of every row that was read."""

    read: int = 0
    kept: int = 0
    duplicates: int = 0
    empty: int = 0
    leaked: int = 0
    capped: int = 0
    conflicting: int = 0
    near_duplicates: int = 0
    truncated: int = 0
    splits: dict[str, dict[str, int]] = field(default_factory=dict)


def normalise(text: str) -> str:
    """Text for comparison: white space collapsed, case folded."""
    return " ".join(text.split()).casefold()


def make_row(
    raw: RawRow, columns: list[str], input_columns: list[str], fractions: tuple[float, float], seed: int, group_column: str = ""
) -> Row | None:
    """The row with its keys and split, or None where a value is missing or blank.

    ``fractions`` are those of validation and test. Without a split of its own the row gets one by the hash of its
    normalised input, or group, and ``seed``, so equal texts, or groups, never straddle splits, whatever their labels.
    """
    if any(value is None or not value.strip() for value in raw.values):
        return None
    values = dict(zip(columns, raw.values, strict=True))
    input_key = content_hash(normalise(values[column]) for column in input_columns)
    row_key = content_hash(normalise(value) for value in values.values())
    group_key = content_hash([normalise(values[group_column])]) if group_column else ""
    followed = group_key or input_key
    split = raw.split or split_by_hash(followed, fractions, seed)
    return Row(values, content_hash(values), input_key, row_key, derive_seed(seed, "order", followed), split, raw.origin, group_key)


def split_by_hash(key: str, fractions: tuple[float, float], seed: int) -> str:
    validation, test = fractions
    position = derive_seed(seed, "split", key) / 2**63
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


def carve(rows: list[Row], fractions: tuple[float, float], seed: int) -> list[Row]:
    """Where the data name some splits but not all, the missing ones are taken from train by hash."""
    present = {row.split for row in rows}
    missing = tuple(0.0 if name in present else fraction for name, fraction in zip(("validation", "test"), fractions, strict=True))
    return [replace(row, split=split_by_hash(row.split_key, missing, seed)) if row.split == "train" else row for row in rows]


def ordered(rows: list[Row]) -> list[Row]:
    """Rows in the order of their hashes: the order of the files changes nothing."""
    return sorted(rows, key=lambda row: (row.order, row.sample_id, row.split))


def without_duplicates(rows: list[Row]) -> list[Row]:
    """One row of those that are equal after normalisation, within their split: the first in hash order."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row.split, row.row_key), row)
    return list(first.values())


def conflicts(rows: list[Row], part_column: str = "") -> int:
    """How many inputs come with more than one output (in the same part of the loss)."""
    outputs: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        outputs[row.input_key, row.values.get(part_column, "")].add(row.row_key)
    return sum(len(keys) > 1 for keys in outputs.values())


def without_leaks(rows: list[Row], policy: str) -> list[Row]:
    """Rows whose input, and group, is in no later split (train < validation < test).

    Raises :class:`DataError` naming the rows where there are some and ``policy`` is "refuse".
    """
    apart = _apart(rows, policy, "text", attrgetter("input_key"))
    return _apart(apart, policy, "group", attrgetter("group_key")) if any(row.group_key for row in apart) else apart


def _apart(rows: list[Row], policy: str, what: str, key_of: Callable[[Row], str]) -> list[Row]:
    last: dict[str, Row] = {}
    for row in rows:
        other = last.get(key_of(row))
        if other is None or SPLITS.index(row.split) > SPLITS.index(other.split):
            last[key_of(row)] = row
    leaking = [row for row in rows if last[key_of(row)].split != row.split]
    if leaking and policy == "refuse":
        row, other = leaking[0], last[key_of(leaking[0])]
        raise DataError(
            f"{len(leaking)} rows lie in two splits: the {what} of {row.origin} ({row.split}) is also {other.origin} "
            f"({other.split}). Remove them, or set leakage to 'drop' to leave them out and count them."
        )
    return [row for row in rows if last[key_of(row)].split == row.split]


def capped(rows: list[Row], caps: dict[str, int | None]) -> list[Row]:
    """At most ``caps[split]`` rows of each split, first in hash order: a smaller cap gives a subset of a larger one."""
    taken: dict[str, int] = defaultdict(int)
    kept = []
    for row in rows:
        taken[row.split] += 1
        limit = caps[row.split]
        if limit is None or taken[row.split] <= limit:
            kept.append(row)
    return kept


def near_duplicates(rows: list[Row], input_columns: list[str]) -> int:
    """How many held-out rows share a run of ``GRAM`` words with a training row."""
    held_out = [(row, _grams(row, input_columns)) for row in rows if row.split != "train"]
    wanted = set().union(*(grams for _, grams in held_out)) if held_out else set()
    shared: set[int] = set()
    for row in rows:
        if row.split == "train":
            shared |= _grams(row, input_columns) & wanted
    return sum(not grams.isdisjoint(shared) for _, grams in held_out)


def _grams(row: Row, input_columns: list[str]) -> set[int]:
    words = normalise("\n".join(row.values[column] for column in input_columns)).split()
    return {hash(tuple(words[start : start + GRAM])) for start in range(len(words) - GRAM + 1)}
