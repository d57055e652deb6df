"""No container engine is needed: what the compose file names must exist, fit together and be known to those who read it."""

from __future__ import annotations

import re
import runpy
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from lfm_tasks.settings import Settings
from lfm_tasks.stack.components import common_environment

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
SECRETS = runpy.run_path(str(DOCKER / "make_secrets.py"))["environments"]()


def variables(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines() if line and not line.startswith("#"))


def environment(service: dict) -> dict[str, str]:
    """What compose would give the service: its env files in order, then its own variables."""
    given: dict[str, str] = {}
    for name in service.get("env_file", []):
        given |= SECRETS[Path(name).stem] if name.startswith("secrets/") else variables(DOCKER / name)
    return given | service.get("environment", {})


def test_services_are_those_of_the_architecture():
    assert {"postgres", "redis", "s3", "mlflow", "init"} < set(SERVICES)
    assert {"airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-worker"} < set(SERVICES)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_image_is_pinned_and_health_is_checked(name):
    service = SERVICES[name]
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-[\w.]+)?", service["image"]), service["image"]
    assert "healthcheck" in service or service["restart"] == "no"
    assert "no-new-privileges:true" in service["security_opt"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_what_a_service_waits_for_exists_and_can_be_waited_for(name):
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other]
        else:
            assert SERVICES[other]["restart"] == "no"


def test_every_airflow_variable_is_an_option_of_this_airflow():
    from airflow.configuration import retrieve_configuration_description

    known = {
        f"AIRFLOW__{section.upper().replace('.', '_')}__{option.upper()}"
        for section, described in retrieve_configuration_description().items()
        for option in described["options"]
    }
    assert "AIRFLOW__CORE__NO_SUCH_OPTION" not in known
    for name, service in SERVICES.items():
        unknown = {key for key in environment(service) if key.startswith("AIRFLOW__")} - known - celery_options()
        assert not unknown, f"{name}: {unknown}"


def celery_options() -> set[str]:
    """Options of the Celery provider, which is installed in the image only."""
    return {"AIRFLOW__CELERY__BROKER_URL", "AIRFLOW__CELERY__RESULT_BACKEND"}


def test_every_lfm_variable_is_a_setting():
    known = {f"LFM_{name.upper()}" for name in Settings.model_fields}
    for service in SERVICES.values():
        assert {key for key in environment(service) if key.startswith("LFM_")} <= known


def test_airflow_components_share_keys_and_mlflow_gets_none_of_them():
    airflow = [environment(service) for name, service in SERVICES.items() if name.startswith("airflow-")]
    assert len(airflow) == 4
    assert all(one == airflow[0] for one in airflow)
    assert not [key for key in environment(SERVICES["mlflow"]) if key.startswith("AIRFLOW__") and ("SECRET" in key or "KEY" in key)]


def test_addresses_name_services_and_mlflow_accepts_its_own_name():
    for service in SERVICES.values():
        for value in environment(service).values():
            for host in re.findall(r"(?:https?|redis|postgresql(?:\+psycopg2)?)://(?:[^@/]*@)?([\w-]+)", value):
                assert host in SERVICES or host == "localhost", host
    hosts = re.search(r"--allowed-hosts (\S+)", SERVICES["mlflow"]["command"])[1].split(",")
    assert environment(SERVICES["airflow-worker"])["LFM_MLFLOW_URI"].removeprefix("http://") in hosts


def test_no_secret_is_in_a_tracked_file():
    text = "".join(path.read_text() for path in DOCKER.iterdir() if path.suffix in (".env", ".yaml") or path.name == "Dockerfile")
    assert not re.search(r"(?i)(password|secret_key|fernet_key|jwt_secret)\s*[=:]\s*[^\s$\"'{]", text)
    assert "secrets/" in (DOCKER / ".gitignore").read_text().split()


def test_ports_are_published_on_loopback_only():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_mounted_and_copied_files_exist():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in COMPOSE["volumes"]
    for line in (DOCKER / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            assert all((ROOT / source).exists() for source in line.split()[1:-1]), line


def test_image_does_not_run_as_root():
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    assert lines.index("USER lfm") < next(i for i, line in enumerate(lines) if line.startswith("CMD"))
    assert re.match(r"FROM python:3\.11\.\d+-slim", next(line for line in lines if line.startswith("FROM")))


def test_secrets_are_generated_once_with_mode_600(tmp_path):
    script = tmp_path / "make_secrets.py"
    script.write_text((DOCKER / "make_secrets.py").read_text())
    subprocess.run([sys.executable, str(script)], check=True, capture_output=True)
    files = list((tmp_path / "secrets").glob("*.env"))
    assert {file.stem for file in files} == set(SECRETS)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    again = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert again.returncode
    assert "already holds secrets" in again.stderr


def test_common_settings_are_the_ones_that_the_embedded_stack_reads():
    assert common_environment() == variables(DOCKER / "common.env")
    assert "common.env" in SERVICES["airflow-worker"]["env_file"]


def test_pins_of_both_locks_agree():
    def pins(path: Path) -> dict[str, str]:
        return dict(re.findall(r"^([\w.-]+)==(\S+)", path.read_text(), flags=re.M))

    base, production = pins(ROOT / "requirements.txt"), pins(DOCKER / "requirements-production.txt")
    assert base["apache-airflow"] == "3.3.2"
    assert not set(base) & set(production)
    assert {"celery", "redis"} <= set(production)


def test_the_lock_holds_every_direct_dependency_and_those_of_the_tests_at_a_version_that_is_allowed():
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.txt").read_text(), flags=re.M))
    extras, wanted = project["optional-dependencies"], [Requirement(text) for text in project["dependencies"]]
    waiting = ["test"]
    while waiting:
        for one in map(Requirement, extras[waiting.pop()]):
            waiting += one.extras if one.name == project["name"] else ()
            wanted += [] if one.name == project["name"] else [one]
    assert len(wanted) > 20
    for one in wanted:
        assert one.specifier.contains(locked[one.name.lower()]), one


@pytest.mark.parametrize(("part", "code"), [([], 0), (["scheduler"], 0), (["dag_processor"], 1)])
def test_health_probe(part, code):
    class Airflow(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"scheduler": {"status": "healthy"}, "dag_processor": {"status": "unhealthy"}}')

        def log_message(self, *_):
            return None

    with HTTPServer(("127.0.0.1", 0), Airflow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        done = subprocess.run([sys.executable, str(DOCKER / "health.py"), address, *part], capture_output=True)
        server.shutdown()
    assert done.returncode == code
