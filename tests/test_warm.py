"""A fork of the warm interpreter answers as the interpreter itself would."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("words", [["ledger", "nobody"], ["run", "no-such-step"]], ids=" ".join)
def test_output_environment_and_exit_code_are_those_of_the_interpreter(warm, home, words):
    def answer(interpreter):
        command = [str(interpreter), "-m", "lfm_tasks.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"})
        return done.returncode, done.stdout, done.stderr

    assert answer(warm) == answer(sys.executable)
