"""The page's app: read-only JSON, and the files that draw it. Every answer but the files needs Airflow's token."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from lfm_tasks.errors import InvalidInput, LfmError, ReferenceRefused, Unavailable
from lfm_tasks.page.comparison import compare
from lfm_tasks.page.security import ReaderDep
from lfm_tasks.page.sources import Sources, sources
from lfm_tasks.page.timeline import models, timeline
from lfm_tasks.page.views import Direction, View

STATIC = Path(__file__).parent / "static"
MOST_NODES = 5000
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Text = Annotated[str, Query(max_length=1024)]


@lru_cache(maxsize=1)
def app() -> FastAPI:
    made = FastAPI(title="Lineage", docs_url=None, redoc_url=None, openapi_url=None)
    made.middleware("http")(_headers)
    made.add_exception_handler(LfmError, _refused)
    made.add_api_route("/", _page, include_in_schema=False)
    for path, route in ROUTES.items():
        made.add_api_route(f"/api/{path}", route)
    made.mount("/static", StaticFiles(directory=STATIC))
    return made


def graph(
    reader: ReaderDep,
    reference: Text = "",
    dag_id: Text = "",
    run_id: Text = "",
    task_id: Text = "",
    map_index: Text = "",
    direction: Direction = "both",
    limit: Annotated[int, Query(ge=1, le=MOST_NODES)] = 300,
) -> dict[str, Any]:
    """Around a reference, a DAG run or a task. Airflow fills ``map_index`` for mapped tasks only."""
    known, view = _open(reader)
    if dag_id:
        index = int(map_index) if map_index.isdecimal() else None
        roots = view.of_run(dag_id, run_id, task_id or None, index)
    else:
        roots = [view.find(reference)]
    return view.page(roots, direction, limit) | {"notices": known.notices()}


def node(reader: ReaderDep, address: str) -> dict[str, Any]:
    known, view = _open(reader)
    return view.node(address, known.mlflow) | {"notices": known.notices()}


def search(reader: ReaderDep, text: Text = "", limit: Annotated[int, Query(ge=1, le=100)] = 20) -> dict[str, Any]:
    known, view = _open(reader)
    return {"nodes": view.search(text, limit), "notices": known.notices()}


def registered(reader: ReaderDep) -> dict[str, Any]:
    known, view = _open(reader)
    return {"models": models(view), "notices": known.notices()}


def history(reader: ReaderDep, name: str) -> dict[str, Any]:
    known, view = _open(reader)
    return timeline(view, name) | {"notices": known.notices()}


def differences(reader: ReaderDep, a: Text, b: Text) -> dict[str, Any]:
    known, view = _open(reader)
    return compare(view, known.settings, a, b) | {"notices": known.notices()}


ROUTES = {
    "graph": graph,
    "node/{address}": node,
    "search": search,
    "models": registered,
    "models/{name}": history,
    "diff": differences,
}


def _open(reader: ReaderDep) -> tuple[Sources, View]:
    known = sources()
    return known, View(known.index(), reader.may_read)


def _page() -> FileResponse:
    return FileResponse(STATIC / "page.html", headers={"Cache-Control": "no-cache"})


async def _headers(request: Request, go_on: Any) -> Response:
    answer = await go_on(request)
    answer.headers.update(HEADERS)
    answer.headers.setdefault("Cache-Control", "no-cache" if "/static/" in request.url.path else "no-store")
    return answer


def _refused(request: Request, error: Exception) -> JSONResponse:
    status = {ReferenceRefused: 404, InvalidInput: 400, Unavailable: 503}
    code = next((status[kind] for kind in type(error).__mro__ if kind in status), 500)
    return JSONResponse({"detail": str(error)}, status_code=code)
