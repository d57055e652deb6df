"""Where the page reads: what Airflow's connections hold, and MLflow, which it never waits for long."""

from __future__ import annotations

import base64
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lfm_tasks.page.sources import Mlflow, sources
from lfm_tasks.settings import settings


@pytest.fixture
def mlflow():
    """A server that knows the experiment ``lfm`` and counts what it is asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers["Authorization"]))
            known = self.path.endswith("experiment_name=lfm")
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(b'{"experiment": {"experiment_id": "7"}}')

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_run_has_an_address_in_mlflow(mlflow):
    address, asked = mlflow
    links = Mlflow(address.replace("//", "//user:secret@"))
    assert [links.run_url("lfm", "ab" * 16) for _ in range(5)] == [f"{address}/#/experiments/7/runs/{'ab' * 16}"] * 5
    ((_, login),) = asked  # one question answers many
    assert base64.b64decode(login.removeprefix("Basic ")) == b"user:secret"
    assert (links.run_url("other", "x"), links.run_url("lfm", None), links.problem) == (None, None, None)


def test_an_mlflow_that_is_away_is_asked_once(monkeypatch):
    links = Mlflow("http://127.0.0.1:9")
    assert [links.run_url("lfm", "x") for _ in range(50)] == [None] * 50
    assert links.problem == "MLflow at http://127.0.0.1:9 does not answer: links to it may lead nowhere."
    asked = []
    monkeypatch.setattr("lfm_tasks.page.sources.request", lambda *_: asked.append(1))
    links.run_url("lfm", "x")
    assert asked == []


def test_mlflow_in_a_file_has_no_links():
    assert Mlflow("sqlite:////tmp/x.db").problem == "MLflow has no server here: there are no links to it."


def test_what_connections_hold_reaches_the_page(home, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_TRACKING", "http://user:secret@mlflow:5000")
    monkeypatch.setenv("LFM_MLFLOW_CONNECTION", "tracking")
    for name in ("LFM_MLFLOW_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
    settings.cache_clear()
    sources.cache_clear()
    assert sources().settings.tracking_uri == "http://mlflow:5000"
    sources.cache_clear()


def test_the_index_is_read_again_after_a_while_and_not_at_every_question(home, monkeypatch):
    sources.cache_clear()
    known, refreshed = sources(), []
    monkeypatch.setattr(known._index, "refresh", lambda: refreshed.append(time.monotonic()))
    for _ in range(20):
        known.index()
    assert len(refreshed) == 1
    monkeypatch.setattr("lfm_tasks.page.sources.REFRESH_SECONDS", 0)
    known.index()
    assert len(refreshed) == 2
    sources.cache_clear()
