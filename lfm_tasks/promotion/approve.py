"""Step ``approve``: put a person's answer, or that none came, beside the decision that it is about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lfm_tasks.config import canonical_json
from lfm_tasks.errors import InvalidInput
from lfm_tasks.promotion.config import ApproveConfig
from lfm_tasks.promotion.decision import read_decision
from lfm_tasks.settings import settings
from lfm_tasks.step import Input, Outcome, Output, StepContext

FILE = "answer.json"


def run(config: ApproveConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    decision = read_decision(inputs["decision"])
    answer = {"format": 1, "decision_sha256": inputs["decision"].sha256, "outcome": decision["outcome"], **config.model_dump(mode="json")}
    directory = context.workdir / "answer"
    directory.mkdir()
    (directory / FILE).write_bytes(canonical_json(answer) + b"\n")
    page = directory / "report.md"
    page.write_text(f"# Answer\n\n{sentence(answer)}\n\nDecision `sha256:{answer['decision_sha256']}`\n")
    context.log(sentence(answer))
    return Outcome(outputs={"answer": Output("report", directory)}, summary=answer, figures=(page,))


def read_answer(source: Input, decision_sha256: str) -> dict[str, Any]:
    """The answer, found to be about this decision. Raises :class:`InvalidInput` when it is about another, or is one's own
    approval where the setting forbids that."""
    path = source.path / FILE
    if not path.is_file():
        raise InvalidInput(f"{source.reference} holds no {FILE}. Give the output 'answer' of an approve step.")
    answer = json.loads(path.read_text())
    if answer["decision_sha256"] != decision_sha256:
        raise InvalidInput(
            f"The answer is about decision sha256:{answer['decision_sha256']}, but the decision to act on is sha256:{decision_sha256}. "
            "Ask again, about this decision."
        )
    if answer["chosen"] == "approve" and is_own(answer["by"], answer["triggered_by"]) and not settings().allow_self_approval:
        raise InvalidInput(refusal(answer["by"]))
    return answer


def is_own(by: str, triggered_by: str) -> bool:
    """Whether the approver started the run; a schedule is nobody."""
    return bool(triggered_by) and by == triggered_by


def refusal(user: str) -> str:
    return f"{user} started this run and may not approve it (LFM_ALLOW_SELF_APPROVAL=false). Another person must answer."


def sentence(answer: Mapping[str, Any]) -> str:
    """The answer in words."""
    if answer["timed_out"]:
        return f"Nobody answered the question of {answer['asked']} in time."
    verb = "Approved" if answer["chosen"] == "approve" else "Rejected"
    when = f" at {answer['answered']}" if answer["answered"] else ""
    return f"{verb} by {answer['by'] or 'somebody'}{when}." + (f" {answer['reason']}" if answer["reason"] else "")
