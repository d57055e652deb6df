"""The linter's rules hold: who may import whom, what is light, how code is laid out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

COMMANDS = {
    "imports": ["lint-imports", "--no-cache"],
    "rules": ["ruff", "check", "--no-cache"],
    "format": ["ruff", "format", "--check", "--no-cache"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_linter_has_nothing_to_say(name):
    program, *arguments = COMMANDS[name]
    done = subprocess.run([Path(sys.executable).with_name(program), *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
