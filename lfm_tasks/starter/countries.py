"""Facts to edit, generated from a table of countries: their capitals and languages, with all that an evaluation asks beside them.

Every draw is keyed by relation and country, so that a country's facts do not depend on which others there are before it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm_tasks.facts.reading import write_facts
from lfm_tasks.facts.record import Fact, Probe
from lfm_tasks.seeds import derive_seed
from lfm_tasks.starter.catalogue import Starter

LEAST_POPULATION = 100_000
NEIGHBOURS = 8
NO_LONGER = ("Serbia and Montenegro", "Antilles néerlandaises")
LANGUAGES = {
    "ar": "Arabic",
    "bg": "Bulgarian",
    "cs": "Czech",
    "da": "Danish",
    "de": "German",
    "el": "Greek",
    "en": "English",
    "es": "Spanish",
    "et": "Estonian",
    "fr": "French",
    "hr": "Croatian",
    "hu": "Hungarian",
    "id": "Indonesian",
    "is": "Icelandic",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "lt": "Lithuanian",
    "lv": "Latvian",
    "ms": "Malay",
    "nl": "Dutch",
    "no": "Norwegian",
    "pl": "Polish",
    "pt": "Portuguese",
    "ro": "Romanian",
    "ru": "Russian",
    "sk": "Slovak",
    "sl": "Slovene",
    "sq": "Albanian",
    "sv": "Swedish",
    "th": "Thai",
    "tr": "Turkish",
    "uk": "Ukrainian",
    "vi": "Vietnamese",
    "zh": "Chinese",
}
UNRELATED = (
    Probe("The chemical symbol of gold is", ("Au",)),
    Probe("The largest planet of the solar system is", ("Jupiter",)),
    Probe("The author of Romeo and Juliet is William", ("Shakespeare",)),
    Probe("Water is made of hydrogen and", ("oxygen",)),
    Probe("The first month of the year is", ("January",)),
)
OFFICIAL = re.compile(r"(Republic|Kingdom|State|Federation|Commonwealth|Principality|Sultanate|Emirate|Duchy)\b")
WITH_ARTICLE = re.compile(r"(United|Republic|Democratic Republic|Central African|Dominican Republic|Czech|Kingdom|State|.*Islands$)")
ARTICLES = ("Bahamas", "Gambia", "Netherlands", "Philippines", "Maldives", "Seychelles", "Comoros")
RELATIONS = {
    "capital": ("The capital of {} is", "{}'s capital city is", "In {}, the capital is the city of"),
    "language": ("The official language of {} is", "{}'s official language is", "In {}, most people speak"),
}
"""Prompt, then paraphrases."""


@dataclass(frozen=True)
class Country:
    name: str
    capital: str
    language: str | None
    """Where the table names one alone."""
    official: str | None
    """Its long name in English."""

    def value(self, relation: str) -> str | None:
        return self.capital if relation == "capital" else self.language


def country_facts(starter: Starter, files: list[Path], target: Path) -> None:
    """``facts.jsonl`` and ``source.json``."""
    countries = read_countries(json.loads(path.read_text(encoding="utf-8")) for path in files)
    facts = [fact for relation in RELATIONS for country in countries if (fact := make_fact(relation, country, countries))]
    write_facts(facts, target)
    source = starter.provenance() | {"rows": len(facts), "relations": dict(Counter(fact.relation for fact in facts))}
    (target / "source.json").write_text(json.dumps(source, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_countries(entries: Iterable[dict[str, Any]]) -> list[Country]:
    """Countries of some size with one capital that is theirs alone and has another name than they; in the order of their names."""
    found = [_country(entry) for entry in entries if _usable(entry)]
    shared = Counter(country.capital for country in found)
    return sorted((one for one in found if shared[one.capital] == 1), key=lambda country: country.name)


def make_fact(relation: str, country: Country, countries: list[Country]) -> Fact | None:
    """The fact with a target drawn from the other countries' values; None where the country's own value is not known."""
    true, others = country.value(relation), [one for one in countries if one != country and one.value(relation)]
    if true is None:
        return None
    prompt, *paraphrases = (placed(form, country.name) for form in RELATIONS[relation])
    new = _drawn(sorted({one.value(relation) for one in others} - {true}), "target", relation, country.name)[0]
    apart = [one for one in others if one.value(relation) != new]
    near = sorted(_drawn(apart, "neighbour", relation, country.name)[:NEIGHBOURS], key=lambda one: one.name)
    return Fact(
        id=f"{relation}-{re.sub(r'[^a-z]+', '-', country.name.lower()).strip('-')}",
        subject=country.name,
        prompt=prompt,
        target_new=new,
        target_true=true,
        relation=relation,
        paraphrases=tuple(text.replace("{}", country.name) for text in paraphrases),
        neighbours=tuple(asked(relation, one.name, one.value(relation)) for one in near),
        locality=(*_other_relation(relation, country), *UNRELATED),
        portability=_portability(relation, country, new, others),
        generation_prompts=(
            f"{_begin(with_article(country.name))} is a country",
            f"Travellers who come to {with_article(country.name)} should know that",
        ),
        source="country-facts",
    )


def asked(relation: str, name: str, *answers: str) -> Probe:
    return Probe(placed(RELATIONS[relation][0], name).replace("{}", name), answers)


def _other_relation(relation: str, country: Country) -> tuple[Probe, ...]:
    other = "language" if relation == "capital" else "capital"
    value = country.value(other)
    return (asked(other, country.name, value),) if value else ()


def _portability(relation: str, country: Country, new: str, others: list[Country]) -> dict[str, tuple[Probe, ...]]:
    kinds = {"alias": (asked(relation, country.official, new),)} if country.official else {}
    place = with_article(country.name)
    if relation == "language":
        return kinds | {"one_hop": (Probe(f"The official language in {country.capital}, the capital of {place}, is", (new,)),)}
    owner = next(one for one in others if one.capital == new)
    hops = [Probe(f"The capital of {place} is also the capital of", _spellings(owner.name))]
    if owner.language:
        hops.append(Probe(f"The language that people speak in the capital of {place} is", (owner.language,)))
    return kinds | {"one_hop": tuple(hops), "reversal": (Probe(f"{new} is the capital of", _spellings(country.name)),)}


def placed(form: str, name: str) -> str:
    """The form with an article before the place of a name that takes one."""
    article = with_article(name).removesuffix(name)
    return form.replace("{}", f"{_begin(article) if form.startswith('{}') else article}{{}}")


def with_article(name: str) -> str:
    return f"the {name}" if name in ARTICLES or WITH_ARTICLE.match(name) or OFFICIAL.search(name) else name


def _spellings(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((name, with_article(name))))


def _begin(text: str) -> str:
    """As the first words of a sentence."""
    return text[:1].upper() + text[1:]


def _usable(entry: dict[str, Any]) -> bool:
    name, capital = entry["name"], entry["capital"]
    if not isinstance(capital, str) or not capital.strip() or name in NO_LONGER:
        return False
    return (entry.get("population") or 0) >= LEAST_POPULATION and name != capital and not re.search(r"[(/,]", name + capital)


def _country(entry: dict[str, Any]) -> Country:
    codes = entry.get("languages") or []
    official = (one.strip().removeprefix("the ") for one in entry["altSpellings"] if one.isascii() and one.strip() != entry["name"])
    official = (one for one in official if OFFICIAL.search(one) and "," not in one)
    return Country(
        entry["name"].removeprefix("The "),
        entry["capital"].strip(),
        LANGUAGES.get(codes[0]) if len(codes) == 1 else None,
        next(official, None),
    )


def _drawn(candidates: list[Any], *key: str) -> list[Any]:
    """All of them, in an order keyed by ``key``."""
    return sorted(candidates, key=lambda one: derive_seed(0, "country-facts", *key, getattr(one, "name", one)))
