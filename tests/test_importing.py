"""Garbage collection rests during heavy imports, and goes on after them, however they end."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from lfm_tasks.importing import undisturbed_imports
from lfm_tasks.registry import resolve
from tests.conftest import ROOT


def test_collection_rests_and_goes_on():
    with undisturbed_imports():
        assert not gc.isenabled()
        with undisturbed_imports():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_import_that_fails_leaves_collection_on():
    with pytest.raises(ModuleNotFoundError):
        resolve("lfm_tasks.no_such_module:x")
    assert gc.isenabled()
    gc.disable()
    try:
        assert resolve("lfm_tasks.errors:LfmError") and not gc.isenabled()
    finally:
        gc.enable()


def test_a_merge_without_data_imports_no_model_classes():
    """Half of a small merge's time would be theirs."""
    code = "import sys, lfm_tasks.reuse.merge; print(sorted({'transformers', 'peft'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip() == "[]"
