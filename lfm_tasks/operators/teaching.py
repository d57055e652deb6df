"""What a student learns of a teacher behind an API, and the operators between the two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Context, Param
from airflow.sdk.exceptions import AirflowFailException
from annotated_types import Le

from lfm_tasks.catalogue import methods_of
from lfm_tasks.config import Config
from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.distillation.texts.config import ChainOfThoughtConfig
from lfm_tasks.errors import ConfigError
from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.metrics.answers import read_answer
from lfm_tasks.operators.base import NOTHING, StepOperator
from lfm_tasks.operators.connections import teacher_key
from lfm_tasks.operators.params import step_params
from lfm_tasks.operators.steps import EvaluateOperator, PrepareOperator
from lfm_tasks.rows.templates import columns_of
from lfm_tasks.runner.job import Job, JobResult

ANSWERS, LOG_PROBABILITIES, RATIONALES = WAYS = ("answers", "log_probabilities", "rationales")
FROM_LOG_PROBABILITIES, FROM_RATIONALES = (f"learn_from={way}" for way in (LOG_PROBABILITIES, RATIONALES))
ABLE = [card.name for card in methods_of("distill") if card.enough]
"""Methods that learn from an API's log-probabilities."""
NOT_OF_AN_API = (
    "objective",
    "temperature",
    "combine",
    "on_policy",
    "on_policy_schedule",
    "replay_size",
    "max_new_tokens",
    "prompt_tokens",
    "draw_temperature",
    "draw_top_p",
    "teacher_share",
)
"""Of the step *distill*, what an API's answers have one value for, and what needs a teacher that reads the student's texts."""


def teaching_params() -> dict[str, Any]:
    """The form of the ways to learn: which one, *ask_teacher*, *write_rationales*, *tune* and *distill*."""
    learn_from = Param(
        ANSWERS,
        type="string",
        enum=list(WAYS),
        values_display={
            ANSWERS: "Answers (tune)",
            LOG_PROBABILITIES: "Answers and how likely the teacher found each piece of them (distill)",
            RATIONALES: "Right answers with their reasons (write rationales, tune)",
        },
        title="Learn from",
        description="Log-probabilities need top_logprobs, and an API that gives them; reasons need a teacher_template that asks for them "
        "and for the answer after one of the answer_marks.",
        section="What to work on",
    )
    predict_share = Param(
        0.5,
        type="number",
        exclusiveMinimum=0,
        exclusiveMaximum=1,
        title="Predict share",
        description="Share of the loss that the answers have, for step_by_step; the explanations have the rest.",
        section="Write rationales: method options",
    )
    return {
        "learn_from": learn_from,
        **step_params("ask_teacher", skip=["method", "split", "reference_column"], methods=["black_box"]),
        **step_params("write_rationales"),
        "predict_share": predict_share,
        **step_params("tune"),
        **step_params("distill", defaults={"method": "alm"}, skip=NOT_OF_AN_API, methods=ABLE),
    }


def reasons_first(params: Mapping[str, Any]) -> bool:
    """Whether the student learns to reason before it answers."""
    return params.get("learn_from") == RATIONALES and params["write_rationales_method"] == "chain_of_thought"


def room(params: Mapping[str, Any]) -> int:
    """Tokens of a prompt and of all that a teacher may write after it."""
    return min(most(PrepareConfig, "max_length"), params["prepare_max_length"] + params["ask_teacher_max_new_tokens"])


def most(config: type[Config], name: str) -> int:
    """The upper bound of a field."""
    return next(bound.le for bound in config.model_fields[name].metadata if isinstance(bound, Le))


def measured(params: Mapping[str, Any]) -> dict[str, Any]:
    """Config values of *evaluate* for a student that reasons first, of those that the form leaves at their defaults: its answer is
    read behind its reasons, which may be as long as any that it learnt from."""
    if not reasons_first(params):
        return {}
    read = {"tasks": ["generation"], "answer_marks": params["write_rationales_answer_marks"]}
    read["max_new_tokens"] = min(most(EvaluateConfig, "max_new_tokens"), room(params))
    return {name: value for name, value in read.items() if params[f"evaluate_{name}"] == EvaluateConfig.model_fields[name].default}


def refuse_unlearnable(params: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` where the student could not learn as it is to from what the API is asked for, or its answers could not
    be read, before it is paid."""
    if reasons_first(params):
        refuse_unreadable(params)
    if params.get("learn_from") != LOG_PROBABILITIES:
        return
    if not params["ask_teacher_top_logprobs"]:
        raise ConfigError(
            f"learn_from={LOG_PROBABILITIES}, and ask_teacher_top_logprobs=0 asks for none. Set it to 1 or more, at most 20 and what the "
            f"API gives, or set learn_from={ANSWERS}."
        )
    if (method := params["distill_method"]) not in ABLE:
        raise ConfigError(f"distill_method={method} cannot learn from an API's log-probabilities. Allowed: {', '.join(ABLE)}.")
    template = params["prepare_completion_template"]
    if params["prepare_label_choices"] and params["ask_teacher_api"] != "completions" and template[:1].isspace():
        raise ConfigError(
            f"prepare_completion_template={template!r} begins with a space, and what a chat answers does not: its first word, often all of "
            f"a label, would teach nothing. Write {template.lstrip()!r}, or set ask_teacher_api=completions."
        )


def refuse_unreadable(params: Mapping[str, Any]) -> None:
    """Raise :class:`ConfigError` where *evaluate* would find no answer in what the student learns to write."""
    found = {name: params[f"evaluate_{name}"] for name in ("tasks", "answer_marks")} | measured(params)
    usual = ChainOfThoughtConfig().closing
    closing = params["write_rationales_closing"] or usual
    written = "reasons" + closing.replace("{answer}", "label")
    if "generation" in found["tasks"] and read_answer(written, found["answer_marks"]) != "label":
        raise ConfigError(
            f"write_rationales_closing={closing!r} ends in no answer that is read behind one of the answer_marks {found['answer_marks']}. "
            f"Write a mark and then {{answer}}, as in {usual!r}, or add to write_rationales_answer_marks what stands before {{answer}}."
        )


class AskTeacherOperator(StepOperator):
    """Prompts to rows with a teacher's answers: of an API, or of a local model.

    The key of an API comes from the environment variable or the Airflow connection that the config names, and goes to the
    step's process by its environment alone. What the Param ``learn_from``, where there is one, could not use is not asked.
    """

    step = "ask_teacher"

    def job(self, context: Context) -> Job:
        refuse_unlearnable(context["params"])
        return super().job(context)

    def environment(self, job: Job) -> dict[str, str]:
        options = job.config["options"]
        name = options.get("key_connection")
        return super().environment(job) | (teacher_key(name, options["endpoint"]) if name else {})

    def hand_on(self, context: Context, job: Job, result: JobResult) -> dict[str, Any]:
        if "signals" not in result.outputs:
            if context["params"].get("learn_from") == LOG_PROBABILITIES:
                raise AirflowFailException(
                    f"{job.config['options']['endpoint']} answered without log-probabilities. Its answers are kept, and cost nothing "
                    f"again: set learn_from={ANSWERS}, or ask an API that gives them."
                )
            context["ti"].xcom_push(key="signals", value=NOTHING)
        return super().hand_on(context, job, result)


class WriteRationalesOperator(StepOperator):
    """A teacher's answers with reasons to rows that a student learns from."""

    step = "write_rationales"


class PrepareAnswersOperator(PrepareOperator):
    """A teacher's answers as training rows: the prompts are those that were prepared, and the form's completion template with the
    teacher's answer in the place of its column joins the two. Rationales have as much room beside the prompt as the teacher had."""

    def fixed(self, context: Context) -> Mapping[str, Any]:
        params = context["params"]
        template = params[f"{self.prefix}_completion_template"]
        columns = columns_of(template)
        joined = template.replace(f"{{{columns[0]}}}", "{completion}") if len(columns) == 1 else "{completion}"
        return {
            "task": "instruction",
            "template": "plain",
            "prompt_template": "{prompt}",
            "completion_template": joined,
            "label_choices": False,
            "split_by": "hash",
            "group_column": "",
            "test_fraction": 0.0,
            "max_train_samples": None,
        } | (self._of_rationales(params) if params.get("learn_from") == RATIONALES else {})

    def _of_rationales(self, params: Mapping[str, Any]) -> dict[str, Any]:
        length = {"max_length": room(params)}
        if params["write_rationales_method"] != "step_by_step":
            return length
        share = params["predict_share"]
        return length | {"part_column": "part", "parts": {"predict": share, "explain": 1 - share}, "group_column": "question"}


class EvaluateTaughtOperator(EvaluateOperator):
    """Measure a model as what was taught is measured: base, champion and student by the same reading of answers, and the gate by it."""

    def fixed(self, context: Context) -> Mapping[str, Any]:
        return measured(context["params"])
