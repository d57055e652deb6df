from __future__ import annotations

from pathlib import Path

import pytest

from lfm_tasks.settings import settings
from tests.environments import Unavailable, install, skip_or_fail
from tests.oracle.fusion_bench_runs import FUSION_BENCH
from tests.oracle.mergekit_runs import MERGEKIT


@pytest.fixture(scope="session")
def mergekit() -> Path:
    """The interpreter that has mergekit."""
    try:
        return install(settings().home.resolve() / "test" / "mergekit", MERGEKIT, borrow=True)
    except Unavailable as error:
        skip_or_fail(error)


@pytest.fixture(scope="session")
def fusion_bench() -> Path:
    """The interpreter that has FusionBench."""
    try:
        return install(settings().home.resolve() / "test" / "fusion-bench", FUSION_BENCH, borrow=True)
    except Unavailable as error:
        skip_or_fail(error)
