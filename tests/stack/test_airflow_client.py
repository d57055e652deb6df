"""Against a small server that answers as Airflow 3.3 does; the live test has the real one."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lfm_tasks.errors import Unavailable
from lfm_tasks.stack.airflow_client import AirflowClient, AirflowRefused
from lfm_tasks.stack.ports import free_ports


class Airflow(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body, self.headers.get("Authorization")))
        if self.path == "/auth/token":
            self.answer({"access_token": f"t{len(self.server.seen)}"}, 201 if body["password"] == "right" else 401)
        elif not self.refused():
            self.answer({"dag_run_id": "manual__1"} if "dagRuns" in self.path else {})

    def do_GET(self):
        self.server.seen.append((self.path, None, self.headers.get("Authorization")))
        if not self.refused():
            found = self.server.answers.get(self.path)
            self.answer(found if found is not None else {"detail": "not there"}, 200 if found is not None else 404)

    def refused(self) -> bool:
        """Tokens that the server no longer accepts."""
        if self.headers.get("Authorization") in self.server.expired:
            self.answer({"detail": "expired"}, 401)
            return True
        return False

    def answer(self, body, status=200):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        return None


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Airflow) as server:
        server.seen, server.expired, server.answers = [], set(), {}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def client(server, password="right") -> AirflowClient:
    return AirflowClient(f"http://127.0.0.1:{server.server_port}", "admin", password, timeout=10)


def test_trigger_sends_the_logical_date_that_airflow_requires(server):
    assert client(server).trigger("lfm_adapt", {"model": "x"}) == "manual__1"
    path, body, token = server.seen[-1]
    assert path == "/api/v2/dags/lfm_adapt/dagRuns"
    assert body == {"logical_date": None, "conf": {"model": "x"}}
    assert token == "Bearer t1"


def test_an_expired_token_is_renewed_once(server):
    server.answers["/api/v2/dags/a"] = {"dag_id": "a"}
    airflow = client(server)
    assert airflow.dag("a") == {"dag_id": "a"}
    server.expired.add("Bearer t1")
    assert airflow.dag("a") == {"dag_id": "a"}
    assert [path for path, _, _ in server.seen].count("/auth/token") == 2


def test_run_ids_with_plus_and_colon_are_escaped(server):
    server.answers["/api/v2/dags/a/dagRuns/manual__2026-11-24T10%3A00%3A00%2B00%3A00"] = {"state": "running"}
    assert client(server).run("a", "manual__2026-11-24T10:00:00+00:00") == {"state": "running"}


def test_tasks_are_ordered_by_what_they_wait_for(server):
    edges = {"finish": [], "gate": ["finish"], "tune": ["gate"], "prepare": ["tune", "gate"]}
    server.answers["/api/v2/dags/a/tasks"] = {"tasks": [{"task_id": k, "downstream_task_ids": v} for k, v in edges.items()]}
    assert client(server).task_order("a") == ["prepare", "tune", "gate", "finish"]


def test_a_pool_that_exists_keeps_its_slots(server):
    server.answers["/api/v2/pools/gpu"] = {"name": "gpu", "slots": 8}
    client(server).pool("gpu", 1, "")
    assert not [path for path, _, _ in server.seen if path == "/api/v2/pools"]
    client(server).pool("cpu_heavy", 1, "")
    assert server.seen[-1][1]["slots"] == 1


def test_absent_dag_is_none_and_other_absent_things_are_errors_with_the_reason(server):
    assert client(server).dag("unknown") is None
    with pytest.raises(AirflowRefused, match="404 to GET dags/unknown/tasks: not there"):
        client(server).task_order("unknown")


def test_wrong_password_is_not_shown(server):
    with pytest.raises(AirflowRefused, match="does not accept the password of user 'admin'") as raised:
        client(server, "wr0ng").dag("a")
    assert "wr0ng" not in str(raised.value)


def test_no_answer_is_unavailable():
    with pytest.raises(Unavailable, match="did not answer to POST /auth/token: ConnectionError"):
        AirflowClient(f"http://127.0.0.1:{free_ports(1)[0]}", "admin", "x", timeout=2).dag("a")
