"""The way from an evaluation to an alias, as several DAGs go it: gate, question, answer, promotion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lfm_tasks.operators.approve import ApproveOperator, AskOperator
from lfm_tasks.operators.base import StepOperator
from lfm_tasks.operators.params import step_params
from lfm_tasks.operators.steps import EvaluateOperator, GateOperator, PromoteOperator


def promotion_params(**defaults: Any) -> dict[str, Any]:
    """The form of :func:`decide_and_promote`; ``defaults`` are those of the step *promote*."""
    return {**step_params("gate"), **step_params("promote", defaults=defaults)}


def decide_and_promote(challenger: Any, champion: Any, model: Any = None, references: dict[str, str] | None = None) -> StepOperator:
    """Wire the tasks ``gate``, ``ask``, ``approve`` and ``promote``; returns the last.

    :param challenger: report of the challenger; ``champion``: of the champion.
    :param model: the challenger's own address, or None where ``references`` names it.
    """
    gate = GateOperator(task_id="gate", inputs={"challenger": challenger, "champion": champion})
    ask = AskOperator(task_id="ask", gate=gate.output)
    decision = gate.output["decision"]
    approve = ApproveOperator(task_id="approve", answer=ask.output, inputs={"decision": decision}, trigger_rule="none_failed")
    inputs = {"decision": decision, "answer": approve.output["answer"], **({"model": model} if model is not None else {})}
    return PromoteOperator(task_id="promote", inputs=inputs, references=references, trigger_rule="none_failed")


def measure_and_promote(
    made: Any,
    held_out: Mapping[str, Any],
    *,
    beside_base: bool = True,
    evaluate: type[EvaluateOperator] = EvaluateOperator,
    **heavy: Any,
) -> list[StepOperator]:
    """Wire ``evaluate_champion``, ``evaluate_challenger``, with ``beside_base`` ``evaluate_base`` before them, and
    :func:`decide_and_promote`; returns the tasks that end the way.

    The form has ``model``, the base that stands in where there is no champion, and :func:`promotion_params`.

    :param made: address of the challenger. ``held_out``: inputs of *evaluate* beside the model. ``heavy``: arguments of the evaluations.
    :param evaluate: measures all of them.
    """
    measured = {"prefix": "evaluate", "trigger_rule": "none_failed", **heavy}
    champion = evaluate(
        task_id="evaluate_champion",
        references={"model": ["models:/{promote_model_name}@{promote_alias}", "{model}"]},
        inputs=held_out,
        **measured,
    )
    challenger = evaluate(task_id="evaluate_challenger", inputs={"model": made, **held_out}, **measured)
    promote = decide_and_promote(challenger.output["report"], champion.output["report"], made)
    if not beside_base:
        return [promote]
    base = evaluate(task_id="evaluate_base", references={"model": "{model}"}, inputs=held_out, **measured)
    base >> champion
    return [base, promote]
