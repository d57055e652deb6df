"""One parser for references: every known form, and a message for every other one."""

from __future__ import annotations

import posixpath
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lfm_tasks.artifacts.references import Reference, parse_reference
from lfm_tasks.errors import ReferenceRefused

ADDRESS = "0123456789abcdef" * 4
PREFIXES = ("file:///data/shared", "s3://bucket/imports/")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"sha256:{ADDRESS}", Reference("sha256", f"sha256:{ADDRESS}", ADDRESS)),
        ("models:/topics@champion", Reference("models", "models:/topics@champion", "topics", alias="champion")),
        ("models:/topics/3", Reference("models", "models:/topics/3", "topics", version="3")),
        ("starter://bbc-news", Reference("starter", "starter://bbc-news", "bbc-news")),
        ("hf://Org/Model-1.5", Reference("hf", "hf://Org/Model-1.5", "Org/Model-1.5")),
        ("hf://Org/Model@main", Reference("hf", "hf://Org/Model@main", "Org/Model", revision="main")),
        ("file:///data/shared", Reference("file", "file:///data/shared", "file:///data/shared")),
        ("file:///data/shared/x/y.csv", Reference("file", "file:///data/shared/x/y.csv", "file:///data/shared/x/y.csv")),
        ("s3://bucket/imports/x", Reference("s3", "s3://bucket/imports/x", "s3://bucket/imports/x")),
    ],
)
def test_known_forms(text, expected):
    assert parse_reference(text, PREFIXES) == expected


@pytest.mark.parametrize(
    "text",
    [
        "http://example.org/model",
        "https://bucket/imports/x",
        "file:/data/shared/x",
        "/data/shared/x",
        "data/shared",
        "models:/../../x@champion",
        "models:/topics",
        "models:/topics@",
        "models:/topics/0",
        "models:/topics/latest",
        "models:/Topics@champion",
        "starter://../x",
        "starter://",
        "hf://../..",
        "hf://org/name/extra",
        "hf://org/name@../x",
        f"sha256:{ADDRESS[:-1]}",
        f"sha256:{ADDRESS.upper()}",
        f"sha256:{ADDRESS}\n",
        f" sha256:{ADDRESS}",
        "{{ var.value.secret }}",
        "",
        "file:///data/shared/x\nfile:///etc/passwd",
    ],
)
def test_other_forms_are_refused_with_the_list_of_known_ones(text):
    with pytest.raises(ReferenceRefused) as refused:
        parse_reference(text, PREFIXES)
    assert f"{text!r} is not a reference. Use one of sha256:<64 hex digits>, models:/NAME@ALIAS" in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "file:///etc/passwd",
        "file:///data/shared2/x",
        "file:///data",
        "file://data/shared/x",
        "file://localhost/data/shared/x",
        "s3://other/imports/x",
        "s3://bucket/imports2/x",
        "s3://bucket",
        "s3:///imports/x",
    ],
)
def test_other_places_are_refused_with_the_allowed_prefixes(text):
    with pytest.raises(ReferenceRefused) as refused:
        parse_reference(text, PREFIXES)
    assert f"{text!r} is outside the allowed prefixes (file:///data/shared, s3://bucket/imports/)" in str(refused.value)
    assert "An administrator extends LFM_ALLOWED_PREFIXES." in str(refused.value)


def test_no_prefix_is_allowed_unless_one_is_configured():
    with pytest.raises(ReferenceRefused, match=r"outside the allowed prefixes \(none is configured\)"):
        parse_reference("file:///data/shared/x")


@pytest.mark.parametrize(
    "tail",
    [
        "../../etc/passwd",
        "x/..",
        "%2e%2e/x",
        "%2E%2E%2Fx",
        "%252e%252e/x",
        "x\x00",
        "..\\x",
        "a\\b",
        "x?versionId=1",
        "x#y",
        "%41",
        "x\x7f",
    ],
)
def test_ways_out_of_a_prefix_are_refused(tail):
    with pytest.raises(ReferenceRefused, match="holds '..', escapes, blanks or control characters. Write the plain path of one object"):
        parse_reference(f"file:///data/shared/{tail}", PREFIXES)


@pytest.mark.parametrize("text", ["file:///data/shared/" + "x" * 1024, None, 3, ["sha256:" + ADDRESS]])
def test_what_is_no_short_text_is_refused(text):
    with pytest.raises(ReferenceRefused, match="A reference is a text of at most 1024 characters, one of sha256:"):
        parse_reference(text, PREFIXES)


PIECES = st.sampled_from(["..", ".", "/", "//", "%2e", "%2f", "\\", "\x00", "etc", "passwd", "data", "shared", "@", ":", "~", " ", "é"])
TAILS = st.lists(PIECES | st.text(max_size=3), max_size=8).map("".join)


@given(st.sampled_from([*PREFIXES, "file://", "file:///data/", "s3://bucket", "s3://"]), TAILS)
@example("file:///data/shared", "/../../etc/passwd")
@example("file:///data/shared", "x")
def test_whatever_is_accepted_lies_below_an_allowed_prefix(start, tail):
    try:
        reference = parse_reference(start + tail, PREFIXES)
    except ReferenceRefused:
        return
    scheme, _, path = reference.name.partition("://")
    normal = f"{scheme}://{posixpath.normpath(path)}".replace("file:////", "file:///")
    assert any(f"{normal}/".startswith(f"{prefix.rstrip('/')}/") for prefix in PREFIXES)


@given(st.text(max_size=60) | st.from_regex(r"\A(sha256|models|starter|hf|file|s3|http)(://?|:)[a-z0-9@/.%-]{0,40}\Z"))
def test_any_text_is_parsed_or_refused(text):
    with suppress(ReferenceRefused):
        assert parse_reference(text, PREFIXES).text == text
