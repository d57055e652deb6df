"""Paths below an artifact: nothing that is accepted can leave it, and each refusal says why."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lfm_tasks.artifacts.manifest import Manifest, check_relative_path, list_files
from lfm_tasks.config import parse_config
from lfm_tasks.errors import InvalidInput

ROOT = Path("/store/artifact")


@pytest.mark.parametrize("path", ["x", "a/b/c.json", "with space", "%2e%2e/x", "...", "a..b", "模型", "x" * 255, "/".join(["x" * 127] * 4)])
def test_plain_paths(path):
    assert check_relative_path(path) == path


@pytest.mark.parametrize(
    "path", ["", ".", "..", "../x", "a/../b", "a/..", "/etc/passwd", "//x", "a//b", "./a", "a/", "a\\b", "a\x00b", "a\nb", "\x7f"]
)
def test_other_paths_are_refused(path):
    with pytest.raises(InvalidInput) as refused:
        check_relative_path(path)
    assert str(refused.value) == (f"{path!r} is not a plain relative path; use names separated by '/', without '..' or control characters.")


@pytest.mark.parametrize("path", ["x" * 256, "é" * 128, "/".join(["x" * 200] * 3)])
def test_long_paths_are_refused(path):
    with pytest.raises(InvalidInput, match="is too long: a name may have 255 bytes, a whole path 512."):
        check_relative_path(path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    Path(str(tmp_path) + "/caf\udce9").write_bytes(b"")
    with pytest.raises(InvalidInput, match="is not valid UTF-8; rename the file."):
        list_files(tmp_path)


@given(st.lists(st.sampled_from(["..", ".", "/", "\\", "\x00", "a", "%2e", "etc"]) | st.text(max_size=3), max_size=8).map("".join))
def test_whatever_is_accepted_stays_inside(path):
    try:
        check_relative_path(path)
    except InvalidInput:
        return
    inside = Path(ROOT / path)
    assert ".." not in inside.parts
    assert inside.is_relative_to(ROOT) and inside != ROOT
    assert inside.relative_to(ROOT).as_posix() == path


def test_a_manifest_from_outside_cannot_name_a_file_outside():
    with pytest.raises(InvalidInput, match=r"'\.\./x' is not a plain relative path"):
        parse_config(Manifest, {"kind": "model", "files": [{"path": "../x", "sha256": "0" * 64, "size": 0}]})
