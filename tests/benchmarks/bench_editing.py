"""CPU seconds and memory of model editing on SmolLM2-135M, beside the leaders' recipe (``editing_peer.py``), to the same targets.

Cases and goals: ``alone``, a fact by itself, 2.5x fewer; ``batch``, all facts by one MEMIT, 4x; ``statistics`` of 13 layers in one pass,
3x; ``second``, all that a step does beside search, solve and guards where the statistics are there, below 1 s; ``forget``, a fact taken
out of a sequence of rounds, 20x fewer than the sequence without it anew.

Both sides run in turn, each in a process of its own, on one thread, with the same facts, contexts, tokens, steps, learning rate, clamp
and ridge, and must say the same share of the new targets by themselves. ``--facts 100`` is the full size, for which the goals are set: few
facts of unlike lengths share little.

EasyEdit cannot be installed by ``pip install easyeditor``: no index has it. A checkout of it is, by ``--easyedit DIRECTORY``, a third side
of ``alone`` and ``batch``: its own ``execute_memit`` on our moments and contexts, imported without the package around it, whose imports
ask for clients of services.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from bench_tuning import starter
from report import Measured, measure_in_turn, write_result

from lfm_tasks.data import prepare
from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.facts.reading import read_facts, write_facts
from lfm_tasks.statistics import gather
from lfm_tasks.statistics.config import StatisticsConfig
from lfm_tasks.step import Input
from tests.tuned import Context

HERE = Path(__file__).parent
GOALS = {"alone": 2.5, "batch": 4.0, "statistics": 3.0, "second": 1.0, "forget": 20.0}
RECIPE = "leaders' recipe"
SAME = 2e-2
"""Largest relative distance of a value of ours from the peer's: Adam magnifies rounding."""


def make_room(root: Path, facts: int, rows: int) -> None:
    """Model, facts, corpus of ``rows`` rows of 256 tokens at the most, and moments of 13 layers, as artifacts below ``root``."""
    for name, directory in (("smollm2-135m-instruct", "model"), ("country-facts", "every"), ("bbc-news", "texts")):
        shutil.move(starter(name, root / f"{directory}-made"), root / directory)
    every = read_facts(root / "every")
    write_facts(every[:facts], root / "facts")
    write_facts(every[:facts], root / "sequence")
    write_facts(every[facts : facts + 4], root / "other")
    inputs = {"data": Input("texts", "dataset", "t" * 64, root / "texts"), "model": Input("model", "model", "m" * 64, root / "model")}
    config = PrepareConfig(task="text", text_column="text", validation_fraction=0.0, test_fraction=0.0, max_length=256)
    prepared = prepare.run(config, inputs, Context(root / "work" / "prepare")).outputs["dataset"].path
    prepared.rename(root / "corpus")
    inputs = {"model": inputs["model"], "dataset": Input("corpus", "dataset", "c" * 64, root / "corpus")}
    config = StatisticsConfig(method="key_moments", options={"layers": list(range(13))}, max_rows=rows)
    gather.run(config, inputs, Context(root / "work" / "moments")).outputs["statistics"].path.rename(root / "statistics")


class Bench:
    def __init__(self, root: Path, given: argparse.Namespace) -> None:
        self.root, self.given = root, given
        self.last: dict[str, dict[str, Any]] = {}

    def run(self, name: str, case: str, **values: Any) -> dict[str, Any]:
        """The result of :mod:`editing_sides`; kept as the last one of ``name``."""
        shutil.rmtree(self.root / "work", ignore_errors=True)
        asked = json.dumps({"root": str(self.root), "case": case, **values})
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)])}
        done = subprocess.run([sys.executable, str(HERE / "editing_sides.py"), asked], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        self.last[name] = json.loads(done.stdout.splitlines()[-1])
        return self.last[name]

    def edits(self, case: str) -> None:
        """``alone`` or ``batch``."""
        facts = min(self.given.facts, self.given.alone) if case == "alone" else self.given.facts
        each = facts if case == "alone" else 1

        def side(which: str) -> float:
            values = {"side": which, "facts": facts, "alone": case == "alone", "easyedit": self.given.easyedit}
            return self.run(which, "edit", **values)["cpu"] / each

        measured = measure_in_turn(lambda: side("ours"), lambda: side("peer"), runs=self.given.runs)
        details = self.memory("ours", "peer") | {"facts": facts} | self.compared()
        unit = "CPU-s of a fact" if case == "alone" else f"CPU-s of {facts} facts"
        if self.given.easyedit:
            third = [side("easyedit") for _ in range(self.given.runs)]
            details |= self.memory("easyedit") | {"success, easyedit": self.last["easyedit"]["success"]}
            write_result(f"editing-{case}-easyedit", unit, Measured(measured.ours, third), "EasyEdit", GOALS[case], details)
        write_result(f"editing-{case}", unit, measured, RECIPE, GOALS[case], details)

    def compared(self) -> dict[str, float]:
        """Raises :class:`SystemExit` where the sides did not come to the same."""
        ours, theirs = (torch.tensor(self.last[side]["values"]) for side in ("ours", "peer"))
        distance = float(((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).median())
        success = {f"success, {side}": self.last[side]["success"] for side in ("ours", "peer")}
        if distance > SAME or success["success, ours"] < success["success, peer"]:
            raise SystemExit(f"The sides differ: values by {distance:.3g}, {success}.")
        return success | {"values' median distance": distance}

    def memory(self, *sides: str) -> dict[str, float]:
        return {f"peak MB above the model, {side}": self.last[side]["bytes"] / 1e6 for side in sides}

    def statistics(self) -> None:
        measured = measure_in_turn(
            lambda: self.run("ours", "statistics", side="ours", rows=self.given.rows)["cpu"],
            lambda: self.run("peer", "statistics", side="peer", rows=self.given.rows)["cpu"],
            runs=self.given.runs,
        )
        ours, theirs = (torch.tensor(self.last[side]["values"]) for side in ("ours", "peer"))
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=0.0)
        details = self.memory("ours", "peer") | {"tokens": self.last["ours"]["tokens"]}
        write_result("editing-statistics", "CPU-s of 13 layers", measured, RECIPE, GOALS["statistics"], details)

    def second(self) -> None:
        costs = [self.run("second", "second")["overhead"] for _ in range(self.given.runs)]
        details = {f"CPU-s, {name}": seconds for name, seconds in self.last["second"]["parts"].items()}
        write_result("editing-second", "CPU-s beside search, solve and guards", Measured(costs, [1.0] * len(costs)), "limit", 1.0, details)

    def forget(self) -> None:
        """The first, the middle and the last fact."""
        facts, size = read_facts(self.root / "sequence"), max(2, self.given.facts // 10)
        again = []
        for _ in range(self.given.runs):
            shutil.rmtree(self.root / "sequence-edited", ignore_errors=True)
            again.append(self.run("sequence", "sequence", size=size, steps=self.given.steps)["cpu"] * (len(facts) - 1) / len(facts))
        costs = {}
        for name, place in (("first", 0), ("middle", len(facts) // 2), ("last", -1)):
            found = [self.run("forget", "forget", fact=facts[place].id) for _ in range(self.given.runs)]
            costs[name] = [one["cpu"] for one in found]
        details = {f"CPU-s, {name} fact": min(seconds) for name, seconds in costs.items()} | {"facts": len(facts), "facts of a round": size}
        write_result(
            "editing-forget", "CPU-s, middle fact", Measured(costs["middle"], again), "the sequence anew", GOALS["forget"], details
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=8, help="of the batch and the sequence; 100 is the full size")
    parser.add_argument("--alone", type=int, default=4, help="most facts that are edited alone")
    parser.add_argument("--steps", type=int, default=20, help="of the search for a value in the sequence, at the most")
    parser.add_argument("--rows", type=int, default=96, help="of the corpus")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--easyedit", default="", metavar="DIRECTORY", help="a checkout of EasyEdit")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        make_room(root, given.facts, given.rows)
        bench = Bench(root, given)
        for case in given.cases:
            bench.edits(case) if case in ("alone", "batch") else getattr(bench, case)()


if __name__ == "__main__":
    main()
