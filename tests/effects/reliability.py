"""SIGKILL at any moment of a tuning step, and promoters that race: what is left RUNNING, what is half written, what is lost.

A toy decoder, so that it is the platform that is killed and not the arithmetic. Every kill falls at another share of the step's time.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path

from steps import write

from lfm_tasks.artifacts.store import Store
from lfm_tasks.runner.job import Job, JobResult
from lfm_tasks.runner.launcher import Child
from lfm_tasks.settings import Settings, settings
from lfm_tasks.tracking.reaper import reap
from lfm_tasks.tracking.tracker import Tracker
from tests.prepared import write_labelled
from tests.toys import make_bert
from tests.tracking.ledger_rivals import rival
from tests.tuned import LABELS

KILLS, RACES, RIVALS = 20, 10, 4


def main() -> None:
    home = str(settings().home)
    with tempfile.TemporaryDirectory() as place:
        os.environ |= {"LFM_HOME": f"{place}/home", "LFM_ALLOWED_PREFIXES": f"file://{place}"}
        settings.cache_clear()
        killed, races = kill_steps(Path(place)), race(Path(place) / "races")
    os.environ["LFM_HOME"] = home
    settings.cache_clear()
    rows = ["| what was done | times | what was found |", "|---|---:|---|"]
    left = f"{killed['orphans']} runs left RUNNING, {killed['damaged']} damaged artifacts, "
    rows.append(f"| step killed by SIGKILL | {killed['killed']} | {left}{killed['equal']} retries with the bytes of an undisturbed run |")
    rows.append(f"| {RIVALS} promoters at once | {RACES} | {races['one_winner']} times one winner, {races['intact']} intact ledgers |")
    write("reliability", {**killed, **races}, "\n".join(rows))


def kill_steps(place: Path) -> dict[str, int]:
    make_bert(place / "model")
    rows = write_labelled(place / "rows", place / "model", count=96, labels=LABELS)
    (rows / "train.parquet").write_bytes((rows / "validation.parquet").read_bytes())
    config = {"method": "full", "options": {}, "epochs": 4, "checkpoint_every": 4}
    job = Job(step="tune", config=config, inputs={"model": f"file://{place}/model", "dataset": f"file://{rows}"}, use_cache=False)
    began = time.monotonic()
    undisturbed = finish(Child(job, settings()))
    seconds = time.monotonic() - began
    store = Store.open(settings().store)
    tracker = Tracker.open(settings(), store)
    found = {"killed": 0, "orphans": 0, "damaged": 0, "equal": 0}
    for number in range(KILLS):
        child = Child(job, settings())
        timer = threading.Timer(seconds * 0.9 * (number + 0.5) / KILLS, child.kill)
        timer.start()
        found["killed"] += finish(child).state != "success"
        timer.cancel()
        reap(tracker, lambda tags: False, timedelta(0))
        found["orphans"] += len(tracker.search("attributes.status = 'RUNNING'"))
        found["damaged"] += damaged(store)
        again = finish(Child(job, settings()))
        found["equal"] += again.outputs == undisturbed.outputs
        print(number, found, flush=True)
    return found


def finish(child: Child) -> JobResult:
    return child.follow(lambda line: None)


def damaged(store: Store) -> int:
    """Artifacts whose bytes are not what their manifest says."""
    count = 0
    for _, address in store.artifacts():
        try:
            store.verify(store.find(address))
        except Exception as error:
            print(f"{address}: {error}", flush=True)
            count += 1
    return count


def race(home: Path) -> dict[str, int]:
    (home / "made").mkdir(parents=True)
    here = Settings(home=home)
    store = Store.open(here.store)
    tracker = Tracker.open(here, store)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["lfm_tasks.tracking.tracker"])
    found = {"one_winner": 0, "intact": 0}
    for number in range(RACES):
        expected = (tracker.registry.aliased("m", "champion") or (None,))[0]
        start, said = processes.Barrier(RIVALS), processes.Queue()
        addresses = []
        for place in range(RIVALS):
            (home / "made" / f"{number}-{place}").mkdir()
            (home / "made" / f"{number}-{place}" / "content.txt").write_text(f"{number} {place}")
            addresses.append(store.commit(home / "made" / f"{number}-{place}", "model").sha256)
        children = [processes.Process(target=rival, args=(home, address, expected, start, said)) for address in addresses]
        for child in children:
            child.start()
        answers = sorted(said.get(timeout=300) for _ in children)
        for child in children:
            child.join(60)
        found["one_winner"] += answers == ["lost"] * (RIVALS - 1) + ["won"]
        found["intact"] += tracker.registry.verify("m") == []
        print(number, found, flush=True)
    return found


if __name__ == "__main__":
    main()
