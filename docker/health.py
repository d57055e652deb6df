"""Exit 0 if the address answers, and if the part of Airflow that is named says that it is healthy: ``health.py URL [PART]``."""

from __future__ import annotations

import json
import sys
import urllib.request


def main(url: str, part: str | None = None) -> int:
    with urllib.request.urlopen(url, timeout=8) as answer:
        if part is None:
            return 0
        return int(json.load(answer)[part]["status"] != "healthy")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
