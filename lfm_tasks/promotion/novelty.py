"""Step ``novelty``: was this very model already judged on this very data set? Then there is nothing to do."""

from __future__ import annotations

from collections.abc import Mapping

from lfm_tasks.promotion.config import NoveltyConfig
from lfm_tasks.step import Input, Outcome, StepContext


def run(config: NoveltyConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    """A question that timed out was not decided: it is put again. Who champions meanwhile does not matter: a model that a
    person rolled back does not come back by itself."""
    model, dataset = inputs["model"], inputs["dataset"]
    verdict = context.registry.verdict(model.sha256, dataset.sha256)
    if verdict is None:
        context.log(f"Model sha256:{model.sha256[:12]} was not judged on data set sha256:{dataset.sha256[:12]} before.")
        return Outcome(outputs={}, metrics={"new": 1.0}, summary={"new": True})
    what = "promoted" if verdict.moved else f"not promoted ({verdict.outcome})"
    why = (
        f"Nothing new: data, config and code make the model sha256:{model.sha256[:12]}, which was {what} at {verdict.time[:16]} "
        f"after the gate had judged it on this data set (record {verdict.record[:12]})."
    )
    context.log(why)
    summary = {"new": False, "why": why, "record": verdict.record, "outcome": verdict.outcome, "moved": verdict.moved}
    return Outcome(outputs={}, metrics={"new": 0.0}, summary=summary)
