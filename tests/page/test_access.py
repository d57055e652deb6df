"""Who may see what, through Airflow's real app, real tokens and a real auth manager."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from lfm_tasks.page.app import HEADERS, ROUTES, STATIC
from tests.conftest import ROOT

PATHS = [f"{path.format(address='x', name='x')}?reference=x&a=x&b=y" for path in ROUTES]


@pytest.mark.parametrize("path", PATHS)
def test_without_airflows_token_there_is_no_answer(client, path):
    answer = client(None).get(f"/lfm/api/{path}")
    assert (answer.status_code, answer.json()) == (401, {"detail": "Not authenticated"})
    forged = client(None)
    forged.cookies.set("_token", "eyJhbGciOiJIUzUxMiJ9.eyJzdWIiOiJhZGEifQ.forged")
    assert forged.get(f"/lfm/api/{path}").status_code in (401, 403)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_can_be_written(client, two_dags, method):
    assert client("ada").request(method, "/lfm/api/models").status_code == 405


def test_the_token_is_taken_from_the_cookie_or_the_header(client, two_dags):
    assert client("ada").get("/lfm/api/models").status_code == 200
    bare = client(None)
    token = bare.post("/auth/token", json={"username": "ada", "password": "pass"}).json()["access_token"]
    assert bare.get("/lfm/api/models", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_a_reader_sees_that_there_is_something_but_not_what_a_dag_they_may_not_read_made(client, two_dags):
    nodes = {node["id"]: node for node in graph(client("vic"), two_dags["child"])}
    assert nodes.keys() == {node["id"] for node in graph(client("ada"), two_dags["child"])}
    for name in ("secret", "hidden"):
        assert nodes[two_dags[name]].keys() == {"id", "short", "type", "kind", "restricted"}
    for name in ("tune", "merge", "model", "child", "base"):
        assert "restricted" not in nodes[two_dags[name]]


def test_no_answer_holds_what_is_withheld(client, two_dags):
    vic, ada = client("vic"), client("ada")
    paths = [f"node/{address}" for address in two_dags.values()] + [
        "search?text=secret",
        "search?text=",
        f"graph?reference={two_dags['base']}",
    ]
    assert "top secret" in "".join(ada.get(f"/lfm/api/{path}").text for path in paths)
    assert "secret" not in "".join(vic.get(f"/lfm/api/{path}").text for path in paths)
    assert vic.get(f"/lfm/api/node/{two_dags['hidden']}").json().keys() == {"id", "short", "type", "kind", "restricted", "notices"}


def test_a_run_of_such_a_dag_looks_like_one_that_does_not_exist(client, two_dags):
    asked = [client("vic").get(f"/lfm/api/graph?dag_id=secret&run_id={run}") for run in ("run", "none")]
    assert [answer.status_code for answer in asked] == [404, 404]
    assert asked[0].json()["detail"].replace("run run", "run none") == asked[1].json()["detail"]
    assert client("ada").get("/lfm/api/graph?dag_id=secret&run_id=run").status_code == 200


def test_models_of_such_a_dag_cannot_be_compared(client, two_dags):
    answer = client("vic").get(f"/lfm/api/diff?a={two_dags['hidden']}&b={two_dags['model']}")
    assert answer.status_code == 400 and "comes from a DAG that you may not read" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/lfm/", "/lfm/static/page.js", "/lfm/static/none", "/lfm/api/models", "/lfm/api/node/ffff"])
def test_every_answer_carries_the_security_headers(client, two_dags, path):
    answer = client("ada").get(path)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in answer.headers["Content-Security-Policy"]


def test_the_page_holds_no_inline_script_or_style():
    page = (STATIC / "page.html").read_text()
    assert "style" not in page.replace('rel="stylesheet"', "").replace("style element", "").replace("cytoscape_stylesheet", "")
    assert "<script>" not in page and not re.search(r"\son\w+=", page)
    for path in STATIC.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", path.read_text()), (
            path
        )


def test_files_outside_the_page_are_not_served(client):
    for path in ("/lfm/static/../app.py", "/lfm/static/%2e%2e/app.py", "/lfm/static/..%2fapp.py"):
        assert "FastAPI" not in client(None).get(path).text


def test_the_plugin_is_light():
    """Every Airflow process imports plugins, also the one that parses DAG files."""
    heavy = ["torch", "transformers", "mlflow", "boto3", "pandas", "pyarrow", "numpy"]
    heavy += ["lfm_tasks.page.app", "lfm_tasks.page.security", "lfm_tasks.artifacts.store", "lfm_tasks.tracking"]
    code = f"import sys, json, runpy; runpy.run_path('plugins/lfm_plugin.py'); print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def graph(client, reference):
    answer = client.get("/lfm/api/graph", params={"reference": reference})
    assert answer.status_code == 200, answer.text
    return answer.json()["nodes"]
