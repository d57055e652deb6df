"""What descends from a revoked data set or model does not pass the gate, and is not promoted."""

from __future__ import annotations

from collections.abc import Mapping

from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import Revoked
from lfm_tasks.registry import Step
from lfm_tasks.runner.resolve import Resolved
from lfm_tasks.tracking.ledger import Ledger
from lfm_tasks.tracking.lineage import Graph
from lfm_tasks.tracking.revocations import Revocations, describe
from lfm_tasks.tracking.taint import revoked_among


def refuse_revoked(step: Step, inputs: Mapping[str, Resolved], store: Store, ledger: Ledger) -> None:
    """Raise :class:`Revoked` when an input that the step guards is revoked or descends from what is."""
    guarded = {name: given for name, given in inputs.items() if step.inputs[name.partition(".")[0]].refuse_revoked}
    marks = Revocations(ledger).marks() if guarded else {}
    if not marks:
        return
    graph = Graph.from_records(store.records())
    for name, given in guarded.items():
        addresses = [given.artifact.sha256, *([given.base.sha256] if given.base else [])]
        for revoked in revoked_among(graph, marks, *addresses):
            way = "is" if revoked == given.artifact.sha256 else "descends from"
            raise Revoked(
                f"The input '{name}' (sha256:{given.artifact.sha256}) {way} {describe(marks[revoked])}. Step {step.name} takes nothing "
                f"that was made from it: make the model again without it (`lfm lineage sha256:{given.artifact.sha256[:12]}` shows where "
                f"it went in), or lift the mark with `lfm taint sha256:{revoked[:12]} --lift --reason …`."
            )
