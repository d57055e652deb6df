"""``python -m tests.artifacts.commit_once STORE DIRECTORY [LARGEST_FILE]``: commit, and say in JSON what came of it."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import LfmError
from lfm_tasks.memory import peak_rss_bytes


def main(uri: str, directory: str, *largest: str) -> None:
    """``largest``: no file of more bytes can be written, as on a full disk."""
    for size in largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    store, said = Store.open(uri), {"error": None}
    try:
        said["bytes"] = store.commit(Path(directory), "model").manifest.size
    except LfmError as error:
        said |= {"error": type(error).__name__, "message": str(error), "retryable": error.retryable}
    said["left"] = sorted(str(path) for path in Path(uri.removeprefix("file://")).rglob("*") if path.is_file())
    print(json.dumps(said | {"peak_mib": peak_rss_bytes() / 2**20}))


if __name__ == "__main__":
    main(*sys.argv[1:])
