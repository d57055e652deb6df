"""From a typed config to the fields of a form and back: the Airflow form and the command line both come from here. Light to import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lfm_tasks.config import Config
from lfm_tasks.errors import ConfigError, unknown_name
from lfm_tasks.registry import Card, Step

OPTIONS = "options"
"""Config field that holds the chosen method's own options; the form shows each option as a field of its own."""


def form_fields(
    step: Step,
    prefix: str,
    defaults: Mapping[str, Any] | None = None,
    skip: Iterable[str] = (),
    methods: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """JSON schemas of the step's fields, by Param name ``<prefix>_<field>``; ``default`` holds the value.

    :param methods: those that may be chosen, with options of theirs alone; empty for all.

    Raises :class:`ConfigError` when ``defaults`` names no field of the step, or ``methods`` none of its methods.
    """
    defaults = dict(defaults or {})
    fields = _config_fields(step.config_class, step.title)
    if OPTIONS in fields:
        del fields[OPTIONS]
        fields |= _option_fields(step, methods)
        cards = _offered(step, methods)
        fields["method"]["enum"] = [card.name for card in cards]
        fields["method"]["values_display"] = {card.name: card.title for card in cards}
    for name, value in defaults.items():
        if name not in fields:
            raise ConfigError(unknown_name(f"field of step {step.name}", name, fields))
        fields[name]["default"] = value
    return {f"{prefix}_{name}": schema for name, schema in fields.items() if name not in set(skip)}


def config_fields(config_class: type[Config], prefix: str, title: str, skip: Iterable[str] = ()) -> dict[str, dict[str, Any]]:
    """JSON schemas of a config that belongs to no step, by Param name ``<prefix>_<field>``."""
    return {f"{prefix}_{name}": schema for name, schema in _config_fields(config_class, title).items() if name not in set(skip)}


def override(step: Step, values: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` of the step's config with ``fixed`` laid over them; a method's options go by their own names.

    Raises :class:`ConfigError` for a name that is neither a field of the step nor an option of one of its methods.
    """
    fields = set(step.config_class.model_fields)
    options = set(_option_fields(step)) if OPTIONS in fields else set()
    if unknown := [name for name in fixed if name not in fields | options]:
        raise ConfigError(unknown_name(f"field of step {step.name}", unknown[0], (fields | options) - {OPTIONS}))
    result = dict(values) | {name: value for name, value in fixed.items() if name in fields}
    if chosen := {name: value for name, value in fixed.items() if name in options - fields}:
        result[OPTIONS] = {**result.get(OPTIONS, {}), **chosen}
    return result


def config_values(step: Step, prefix: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the step's config among ``params``; a method option left empty is left to the method's default."""
    given = {name: params.get(f"{prefix}_{name}") for name in step.config_class.model_fields if f"{prefix}_{name}" in params}
    values = {name: _text(value, step.config_class.model_fields[name].default) for name, value in given.items()}
    if OPTIONS in step.config_class.model_fields:
        given = {name: params.get(f"{prefix}_{name}") for name in _option_fields(step)}
        values[OPTIONS] = {name: value for name, value in given.items() if value is not None}
    return values


def _config_fields(config_class: type[Config], section: str) -> dict[str, dict[str, Any]]:
    schema = config_class.model_json_schema()
    return {name: _field(name, entry, schema.get("$defs", {}), section) for name, entry in schema["properties"].items()}


def _field(name: str, entry: dict[str, Any], definitions: dict[str, Any], section: str) -> dict[str, Any]:
    """One field's schema in the dialect that Airflow's form understands."""
    entry = dict(entry)
    if "$ref" in entry:
        entry |= definitions[entry.pop("$ref").rsplit("/", 1)[1]]
    if "$ref" in entry.get("items", {}):
        entry["items"] = definitions[entry["items"]["$ref"].rsplit("/", 1)[1]]
    if "anyOf" in entry:
        choices = entry.pop("anyOf")
        types = [choice["type"] for choice in choices]
        for choice in choices:
            entry = {**choice, **entry}
        entry["type"] = types
        if "enum" in entry and "null" in types:
            entry["enum"] = [*entry["enum"], None]
    if "const" in entry:
        entry["enum"] = [entry.pop("const")]
    if choices := entry.get("items", {}).get("enum"):
        entry["examples"] = choices  # Airflow shows a list with examples as a choice of several
    unit = entry.pop("unit", None)
    description = entry.get("description", "")
    labels = entry.pop("labels", None)
    if entry.get("type") == "string" and entry.get("default") == "":
        entry |= {"type": ["null", "string"], "default": None}  # Airflow's form asks for every text that may not be null.
    if "\n" in str(entry.get("default")):
        entry["format"] = "multiline"
    return {
        **{key: value for key, value in entry.items() if key not in ("advanced", "cache")},
        "title": entry.pop("label", name.replace("_", " ").capitalize()) + (f" ({unit})" if unit else ""),
        "description": description,
        "section": f"{section}: {entry['section']}" if "section" in entry else section,
        **({"values_display": labels} if labels else {}),
    }


def _text(value: Any, default: Any) -> Any:
    """A text that was left empty in the form: it may be null there, and is empty in the config."""
    return "" if value is None and default == "" else value


def _offered(step: Step, methods: Sequence[str]) -> list[Card]:
    cards = {card.name: card for card in step.config_class.methods()}
    if unknown := [name for name in methods if name not in cards]:
        raise ConfigError(unknown_name(f"method of step {step.name}", unknown[0], cards))
    return [card for card in cards.values() if not methods or card.name in methods]


def _option_fields(step: Step, methods: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Every option of the step's methods, empty by default, saying which methods take it."""
    takers: dict[str, dict[str, list[str]]] = {}
    fields: dict[str, dict[str, Any]] = {}
    for card in _offered(step, methods):
        for name, schema in _config_fields(card.config_class, f"{step.title}: method options").items():
            takers.setdefault(name, {}).setdefault(repr(schema.get("default")), []).append(card.name)
            fields.setdefault(name, schema)
    for name, schema in fields.items():
        types = schema.get("type", "string")
        schema["type"] = sorted({"null", *([types] if isinstance(types, str) else types)})
        if "enum" in schema and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
        schema["default"] = None
        means = (f"For {', '.join(methods)}; empty means {default}." for default, methods in takers[name].items())
        schema["description"] = f"{schema['description']} {' '.join(means)}"
    return fields
