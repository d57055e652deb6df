"""Ask a person whether a challenger may be promoted, and put the answer on record."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator
from airflow.sdk import Context, Param
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from lfm_tasks.operators.base import StepOperator
from lfm_tasks.operators.markdown import decision_page
from lfm_tasks.operators.notify import question_notifiers
from lfm_tasks.promotion.approve import is_own, refusal
from lfm_tasks.promotion.config import needs_answer
from lfm_tasks.settings import settings

REASON = Param(
    None,
    type=["null", "string"],
    maxLength=2000,
    title="Reason",
    description="Why; goes on record with the answer. May be left empty.",
)


class AskOperator(ApprovalOperator):
    """Wait for a person's answer in *Required Actions*, where the Param ``<prefix>_approval`` and the gate call for one.

    A "no" and a time-out let the tasks after it run: they record the answer and move nothing. A retry asks again: after an
    answer that the form does not allow, after an approval of one's own run where that is refused, and when the worker died
    before the answer arrived, and when the answer (a script's) came before the scheduler had noticed that the question was put,
    which Airflow 3.3 takes for a lost task. It never answers by itself.

    :param gate: the result of the gate's task, ``gate.output``.
    :param prefix: Params named ``<prefix>_approval``, ``<prefix>_model_name`` and ``<prefix>_alias`` are read.
    """

    template_fields = (*ApprovalOperator.template_fields, "gate")

    def __init__(self, *, gate: Any, prefix: str = "promote", **kwargs: Any) -> None:
        wait = timedelta(hours=settings().approval_hours)
        options = {"subject": "Promote?", "defaults": self.REJECT, "response_timeout": wait, "params": {"reason": REASON}}
        super().__init__(**(options | {"notifiers": question_notifiers()} | kwargs))
        self.gate = gate
        self.prefix = prefix

    def execute(self, context: Context) -> None:
        params, summary = context["params"], self.gate["summary"]
        approval, name, alias = (params[f"{self.prefix}_{field}"] for field in ("approval", "model_name", "alias"))
        if not needs_answer(approval, summary["outcome"]):
            raise AirflowSkipException(f"The gate said {summary['outcome']}, and approval={approval}: there is no question.")
        self.subject = f"Promote to {name}@{alias}?"
        self.body = decision_page(summary, self.gate["outputs"]["decision"], self.gate.get("run_url"))
        context["ti"].xcom_push(key="asked", value=now())
        super().execute(context)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        result = HITLOperator.execute_complete(self, context, event)
        answer = answer_of(result, bool(event.get("timedout")), getattr(context["dag_run"], "triggering_user_name", None))
        if answer["chosen"] == "approve" and is_own(answer["by"], answer["triggered_by"]) and not settings().allow_self_approval:
            raise AirflowException(f"{refusal(answer['by'])} The question is asked again.")
        asked = context["ti"].xcom_pull(task_ids=self.task_id, key="asked", map_indexes=context["ti"].map_index)
        return answer | {"asked": asked or ""}


class ApproveOperator(StepOperator):
    """Put the answer beside the decision.

    :param answer: the result of an :class:`AskOperator`, ``ask.output``; skipped where nobody was asked.
    """

    step = "approve"
    template_fields = (*StepOperator.template_fields, "answer")

    def __init__(self, *, answer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.answer = answer

    def fixed(self, context: Context) -> Mapping[str, Any]:
        if not self.answer:
            raise AirflowSkipException("Nobody was asked.")
        return self.answer


def answer_of(result: Mapping[str, Any], timed_out: bool, triggered_by: str | None) -> dict[str, Any]:
    """Airflow's answer as values of :class:`~lfm_tasks.promotion.config.ApproveConfig`, but for ``asked``."""
    user, answered = result["responded_by_user"], result["responded_at"]
    timed_out = timed_out or user is None
    return {
        "chosen": "approve" if result["chosen_options"] == [ApprovalOperator.APPROVE] and not timed_out else "reject",
        "by": "" if timed_out else str(user["name"] or user["id"]),
        "reason": str((result["params_input"] or {}).get("reason") or ""),
        "timed_out": timed_out,
        "answered": answered if isinstance(answered, str) else answered.astimezone(UTC).isoformat(timespec="seconds"),
        "triggered_by": triggered_by or "",
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
