"""``lfm …``: run a step, follow lineage, look after the store, bring the embedded stack up. ``lfm -h`` lists the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lfm_tasks.commands import COMMANDS
from lfm_tasks.errors import LfmError


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="lfm", description="Learn from models: adapt, trace and promote foundation models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands)
    options = parser.parse_args(arguments)
    try:
        return options.call(options) or 0
    except LfmError as error:
        print(f"lfm: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
