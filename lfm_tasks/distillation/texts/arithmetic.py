"""Equations in a text, and whether they hold: by a small parser and exact fractions, never by ``eval``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_EXPRESSION = rf"[-(\s]*[$€£]?{_NUMBER}%?(?:[\s)]*[-+*/×÷·−][\s(]*[-−]?[$€£]?{_NUMBER}%?)+[\s)]*"
_EQUATION = re.compile(rf"(?<![\w.])({_EXPRESSION})=\s*([-−]?\s*[$€£]?{_NUMBER}%?)(?![\w]|[.,]\d|\s*[-+*/×÷·−]\s*[\d(])")
_TOKEN = re.compile(rf"\s*({_NUMBER}|[-+*/()%])")
_SAME = str.maketrans({"×": "*", "÷": "/", "·": "*", "−": "-", "$": None, "€": None, "£": None})


def equations(text: str) -> Iterator[tuple[str, str]]:
    """(left, right) of each ``<numbers and operators> = <number>`` in ``text``."""
    for match in _EQUATION.finditer(text):
        yield match[1].strip(), match[2].strip()


def false_equations(text: str) -> list[str]:
    """Equations that do not hold. The right side may be rounded to the places that it shows; what cannot be read holds."""
    found = []
    for left, right in equations(text):
        try:
            value, said = evaluate(left), evaluate(right)
        except (ValueError, ZeroDivisionError):
            continue
        if abs(value - said) > _rounding(right):
            found.append(f"{left} = {right}")
    return found


def evaluate(text: str) -> Fraction:
    """The value of numbers, + − * / ( ) and %. Raises :class:`ValueError` for anything else, and :class:`ZeroDivisionError`."""
    text = text.translate(_SAME)
    tokens, place = [], 0
    while place < len(text.rstrip()):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ValueError(f"{text!r} is not arithmetic at character {place}")
        tokens.append(match[1])
        place = match.end()
    value, rest = _sum(tokens)
    if rest:
        raise ValueError(f"{text!r} does not end where its arithmetic does")
    return value


def _sum(tokens: list[str]) -> tuple[Fraction, list[str]]:
    value, tokens = _product(tokens)
    while tokens and tokens[0] in "+-":
        sign = 1 if tokens[0] == "+" else -1
        other, tokens = _product(tokens[1:])
        value += sign * other
    return value, tokens


def _product(tokens: list[str]) -> tuple[Fraction, list[str]]:
    value, tokens = _factor(tokens)
    while tokens and tokens[0] in "*/":
        operator = tokens[0]
        other, tokens = _factor(tokens[1:])
        value = value * other if operator == "*" else value / other
    return value, tokens


def _factor(tokens: list[str]) -> tuple[Fraction, list[str]]:
    if not tokens:
        raise ValueError("a number is missing")
    head, rest = tokens[0], tokens[1:]
    if head == "-":
        value, rest = _factor(rest)
        return -value, rest
    if head == "(":
        value, rest = _sum(rest)
        if rest[:1] != [")"]:
            raise ValueError("a bracket is not closed")
        rest = rest[1:]
    elif head[0].isdigit():
        value = Fraction(Decimal(head.replace(",", "")))
    else:
        raise ValueError(f"{head!r} is not a number")
    return (value / 100, rest[1:]) if rest[:1] == ["%"] else (value, rest)


def _rounding(text: str) -> Fraction:
    """Half a unit in the last place that ``text`` shows; nothing for whole numbers, which are exact."""
    decimals = len(re.sub(r"[^\d.]", "", text).partition(".")[2])
    half = Fraction(1, 2 * 10**decimals) if decimals else Fraction(0)
    return half / 100 if text.rstrip().endswith("%") else half
