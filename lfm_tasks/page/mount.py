"""What the plugin mounts: an ASGI app that is made at its first request, because every Airflow process imports plugins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

PREFIX = "/lfm"


async def lineage_page(
    scope: MutableMapping[str, Any],
    receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
    send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
) -> None:
    from lfm_tasks.page.app import app

    await app()(scope, receive, send)
