"""The diff of two models, computed by ``lfm diff`` in a process of its own: weights and samples are no work for a web server."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from typing import Any

from lfm_tasks.errors import InvalidInput, Unavailable
from lfm_tasks.page.views import View
from lfm_tasks.runner.launcher import MODULE, child_environment
from lfm_tasks.settings import Settings

LONGEST_SECONDS = 300
MODELS = ("model", "adapter")
_one_at_a_time = threading.BoundedSemaphore(1)


def compare(view: View, settings: Settings, first: str, second: str) -> dict[str, Any]:
    """What :func:`lfm_tasks.tracking.differences.diff` says, veiled. Raises :class:`InvalidInput` for what the reader cannot compare,
    and :class:`Unavailable` where another comparison is going on."""
    addresses = [view.find(text) for text in (first, second)]
    for address in addresses:
        node = view.briefly(address)
        if node.get("restricted"):
            raise InvalidInput(f"{node['short']} comes from a DAG that you may not read. Ask for access to it, or choose another model.")
        if node["kind"] not in MODELS:
            raise InvalidInput(f"{node['short']} is a {node['kind'] or 'record'}. Choose two models or adapters.")
    return _veiled(view, _computed(settings, *addresses))


def _veiled(view: View, found: Mapping[str, Any]) -> dict[str, Any]:
    """Without what makers that the reader may not read would say."""

    def maker(side: Mapping[str, Any] | None) -> bool:
        return side is None or view.may_read_record(side["record"])

    steps = [step for step in found["steps"] if maker(step["first"]) and maker(step["second"])]
    data = [{**entry, **{side: entry[side] and view.briefly(entry[side]["id"]) for side in ("first", "second")}} for entry in found["data"]]
    return {**found, "steps": steps, "steps_withheld": len(found["steps"]) - len(steps), "data": data}


def _computed(settings: Settings, first: str, second: str) -> dict[str, Any]:
    if not _one_at_a_time.acquire(timeout=30):
        raise Unavailable("Another comparison is being computed. Try again in a minute, or run `lfm diff` on a machine of yours.")
    try:
        done = subprocess.run(
            [settings.interpreter, "-m", MODULE, "diff", f"sha256:{first}", f"sha256:{second}", "--json"],
            env=child_environment(os.environ, settings, {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LONGEST_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"The comparison took longer than {LONGEST_SECONDS} s. Run `lfm diff sha256:{first} sha256:{second}` near the store."
        ) from None
    finally:
        _one_at_a_time.release()
    if done.returncode:
        raise Unavailable((done.stderr.strip() or "The comparison failed.").splitlines()[-1].removeprefix("lfm: "))
    return json.loads(done.stdout)
