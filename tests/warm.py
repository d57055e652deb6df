"""Steps as children of a process that has imported what they need: ``python -m lfm_tasks.cli …`` by a fork, not from nothing.

For tests about what comes before and after a step's process. Those about the process itself (its start, signals to it, its imports)
start it as the platform does.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).parents[1]
# The interpreter that LFM_INTERPRETER names: hands its arguments, environment and standard streams to the server, ends as the fork does.
CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
one = socket.socket(socket.AF_UNIX)
one.connect({address!r})
request = json.dumps([sys.argv[1:], dict(os.environ), os.getcwd()]).encode()
socket.send_fds(one, [len(request).to_bytes(8, "big")], [0, 1, 2])
one.sendall(request)
pid = int.from_bytes(one.recv(8, socket.MSG_WAITALL), "big")
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: os.kill(pid, number))
code = one.recv(1)
one.recv(1)
sys.exit(code[0] if code else 1)
"""


@contextmanager
def warm_interpreter(directory: Path) -> Iterator[Path]:
    """The path of an interpreter that answers ``-m MODULE …`` with a fork, while the context is open."""
    address, program = directory / "socket", directory / "python"
    server = subprocess.Popen([sys.executable, "-m", "tests.warm", address], cwd=ROOT)
    try:
        while not address.exists():
            assert server.poll() is None, "the server of warm interpreters ended"
            time.sleep(0.05)
        program.write_text(CLIENT.format(python=sys.executable, address=str(address)))
        program.chmod(0o755)
        yield program
    finally:
        server.terminate()
        server.wait()


def serve(address: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(address.with_suffix(".new")))
    listening.listen(64)
    os.rename(address.with_suffix(".new"), address)
    while True:
        asked, _ = listening.accept()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            listening.close()
            answer(asked)
        asked.close()


def answer(asked: socket.socket) -> None:
    """Be the child that was asked for; the connection ends when this process does."""
    os.setsid()
    length, streams, _, _ = socket.recv_fds(asked, 8, 3)
    arguments, environment, directory = json.loads(asked.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    asked.sendall(os.getpid().to_bytes(8, "big"))
    option, module, *sys.argv[1:] = arguments
    assert option == "-m", arguments
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code or 0
        raise
    finally:
        asked.sendall(bytes([code]))


def load() -> None:
    """Import what steps do, without doing anything."""
    import mlflow.store.tracking.sqlalchemy_store
    import mlflow.transformers  # noqa: F401
    import sqlalchemy.orm
    from transformers import BertForSequenceClassification, LlamaForCausalLM  # noqa: F401

    import lfm_tasks.runner.run  # noqa: F401
    from lfm_tasks.catalogue import METHODS
    from lfm_tasks.steps import STEPS

    for one in [*STEPS, *METHODS]:
        one.function  # noqa: B018
    sqlalchemy.orm.configure_mappers()
    gc.freeze()  # else the search for garbage at each fork's end copies all of it


if __name__ == "__main__":
    load()
    serve(Path(sys.argv[1]))
