from __future__ import annotations

import os
from pathlib import Path

import pytest

from lfm_tasks.settings import settings
from tests.oracle.mergekit_environment import MergekitMissing, install


@pytest.fixture(scope="session")
def mergekit() -> Path:
    """The interpreter that has mergekit."""
    try:
        return install(settings().home.resolve() / "test" / "mergekit")
    except MergekitMissing as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
