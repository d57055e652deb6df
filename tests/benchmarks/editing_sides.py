"""One side of one case of ``bench_editing.py``, in a process of its own: ``python editing_sides.py '{"side": …, "case": …}'``.

CPU seconds are of the work alone, without imports and without opening the model, unless the case is about that; peak memory is what was
taken above the opened model. The last line that it prints is its result as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import editing_peer as peer
import torch
from torch import Tensor

from lfm_tasks.catalogue import METHODS
from lfm_tasks.editing import edit, measuring, pipeline, revise
from lfm_tasks.editing.asking import answers
from lfm_tasks.editing.config import EditConfig, ReviseEditsConfig
from lfm_tasks.editing.contexts import fixed_contexts
from lfm_tasks.editing.method import Editing
from lfm_tasks.editing.methods.config import MemitOptions
from lfm_tasks.editing.moments import moments_of
from lfm_tasks.editing.writing import written
from lfm_tasks.facts.reading import read_facts
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.models.statistics import read_statistics
from lfm_tasks.models.tokenizers import open_tokenizer
from lfm_tasks.statistics import gather
from lfm_tasks.statistics.config import StatisticsConfig
from lfm_tasks.step import Input
from tests.tuned import Context

PREFIXES = 5
"""Of MEMIT's code."""
RIDGE = 400.0
"""A tenth of SmolLM2's k^T C^-1 k."""
LAYERS = 13
OPTIONS = {"prefixes": PREFIXES, "ridge": RIDGE, "two_keys": False, "openings": False}
BATCH = 32


class Room:
    """The files that the parent made."""

    def __init__(self, root: Path) -> None:
        self.root, self.model = root, Input("model", "model", "m" * 64, root / "model")
        self.corpus = Input("corpus", "dataset", "c" * 64, root / "corpus")
        self.statistics = Input("statistics", "statistics", "s" * 64, root / "statistics")

    def facts(self, count: int, first: int = 0):
        return read_facts(self.root / "facts")[first : first + count]

    def given(self, which: str) -> Input:
        return Input(which, "dataset", which, self.root / which)

    def context(self, name: str) -> Context:
        return Context(self.root / "work" / name)

    def editing(self) -> Editing:
        model = open_causal_lm(self.model).requires_grad_(False)
        statistics = read_statistics(self.statistics)
        return Editing(model, open_tokenizer(self.model.path), Decoder(model), 0, self.context("editing"), statistics=statistics)


def measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What ``work`` gives back; CPU and wall seconds, bytes above what the process had."""
    Path("/proc/self/clear_refs").write_text("5")
    before, cpu, wall = peak_rss_bytes(), time.process_time(), time.perf_counter()
    found = work()
    costs = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "bytes": float(peak_rss_bytes() - before)}
    return found, costs


def locate_and_edit(room: Room, side: str, facts: int, alone: bool, easyedit: str) -> dict[str, Any]:
    """MEMIT of all facts at once, or of each in the unedited model."""
    editing, chosen, options = room.editing(), room.facts(facts), MemitOptions(**OPTIONS)
    sites, contexts = pipeline.edited_sites(editing.decoder, options), fixed_contexts(PREFIXES)
    known = [moments_of(editing, site) for site in sites]
    moments = [one.mean + one.ridge * torch.eye(len(one.mean), dtype=torch.float64) for one in known]

    def ours(some, options=options) -> tuple[Tensor, list]:
        found = METHODS["memit"].function.edit(editing, some, options)
        return found.cache["clean"] + found.cache["shift"], list(found.changes)

    def plain(some, options=options) -> tuple[Tensor, list]:
        return peer.memit(editing, some, contexts, sites, moments, options)

    def theirs(some, options=options) -> tuple[Tensor, list]:
        return torch.zeros(0), peer.easyedit(Path(easyedit), editing, some, contexts, sites, moments, options)

    run = {"ours": ours, "peer": plain, "easyedit": theirs}[side]
    run(chosen[:1], MemitOptions(**OPTIONS, steps=1))
    groups = [[fact] for fact in chosen] if alone else [chosen]
    found, costs = measured(lambda: [run(group) for group in groups])
    said: list[bool] = []
    for group, (_, changes) in zip(groups, found, strict=True):
        with written(editing.model, changes):
            said += answers(editing.model, editing.tokenizer, [(fact.text, fact.target_new) for fact in group]).free.tolist()
    return costs | {"success": sum(said) / len(said), "values": torch.cat([one[0] for one in found]).tolist()}


def statistics(room: Room, side: str, rows: int) -> dict[str, Any]:
    config = StatisticsConfig(
        method="key_moments", options={"layers": list(range(LAYERS)), "drop_first": False}, max_rows=rows, batch_size=BATCH
    )
    read = [torch.from_numpy(ids) for ids in read_rows(room.corpus.path, "train", rows).input_ids]
    if side == "peer":
        decoder = Decoder(open_causal_lm(room.model).requires_grad_(False))
        sums, costs = measured(lambda: peer.key_moments(decoder.model, decoder.sites[:LAYERS], read, BATCH))
    else:
        subject = gather.open_subject(room.model, room.corpus, config, room.context("statistics"))
        gathered, costs = measured(lambda: METHODS["key_moments"].function(subject, config.method_config()))
        sums = gathered.tensors
    return costs | {"tokens": sum(map(len, read)), "values": [[float(one.trace()), float(one.sum())] for one in sums.values()]}


def second_set(room: Room) -> dict[str, Any]:
    """A step that edits other facts by statistics that are there: where its seconds go."""
    inputs = {"model": room.model, "facts": room.given("other"), "statistics": room.statistics}
    spent: dict[str, float] = {}
    depth = [0]

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began, depth[0] = time.process_time(), depth[0] + 1
            try:
                return function(*arguments, **options)
            finally:
                depth[0] -= 1
                if not depth[0] or name == "factor":
                    spent[name] = spent.get(name, 0.0) + time.process_time() - began

        return call

    with ExitStack() as around:
        for owner, name, what in (
            (pipeline, "find_targets", "targets"),
            (pipeline._Layer, "solve", "solve"),
            (measuring.Guards, "__call__", "guards"),
            (edit, "moments_checks", "guards"),
        ):
            around.enter_context(patch.object(owner, name, timed(what, getattr(owner, name))))
        cholesky = timed("factor", torch.linalg.cholesky)
        around.enter_context(patch.object(torch.linalg, "cholesky", cholesky))
        _, costs = measured(lambda: edit.run(EditConfig(method="memit"), inputs, room.context("second")))
    work = sum(seconds for name, seconds in spent.items() if name != "factor")
    return costs | {"overhead": costs["cpu"] - work + spent.get("factor", 0.0), "parts": spent}


def sequence(room: Room, size: int, steps: int) -> dict[str, Any]:
    """All facts in rounds, as the step writes them."""
    inputs = {"model": room.model, "facts": room.given("sequence"), "statistics": room.statistics}
    config = EditConfig(method="memit", round_size=size, guard="off", options={"targets": "base", "steps": steps})
    outcome, costs = measured(lambda: edit.run(config, inputs, room.context("sequence")))
    outcome.outputs["adapter"].path.rename(room.root / "sequence-edited")
    return costs


def forget(room: Room, fact: str) -> dict[str, Any]:
    adapter = Input("edits", "adapter", "e" * 64, room.root / "sequence-edited", base=room.model)
    inputs = {"adapter": adapter, "statistics": room.statistics}
    outcome, costs = measured(lambda: revise.run(ReviseEditsConfig(forget=[fact]), inputs, room.context(f"forget-{fact}")))
    return costs | {"exact": outcome.summary["exact"], "rounds_kept": outcome.summary["rounds_kept"]}


CASES = {
    "edit": locate_and_edit,
    "statistics": statistics,
    "second": second_set,
    "sequence": sequence,
    "forget": forget,
}


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    room = Room(Path(asked.pop("root")))
    print(json.dumps(CASES[asked.pop("case")](room, **asked)))


if __name__ == "__main__":
    main()
