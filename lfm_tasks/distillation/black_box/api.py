"""The method *black_box*: an API as the teacher."""

from __future__ import annotations

from collections.abc import Mapping

from lfm_tasks.distillation.black_box.asking import Asking, make_request
from lfm_tasks.distillation.black_box.config import AskTeacherConfig
from lfm_tasks.distillation.black_box.questions import Question
from lfm_tasks.distillation.texts.answers import Answer, Asked
from lfm_tasks.errors import BudgetSpent, ConfigError
from lfm_tasks.step import Input, StepContext

COUNTED = ("requests", "answered", "kept", "unanswered", "refused", "garbage", "rate_limited", "server_error", "no_answer")


def ask_api(questions: list[Question], config: AskTeacherConfig, inputs: Mapping[str, Input], context: StepContext) -> Asked:
    """Raises :class:`BudgetSpent` where a spent budget is to be a failure, and as :meth:`Asking.ask` does."""
    if "teacher" in inputs:
        raise ConfigError(
            "The method black_box asks an API; the input 'teacher' is for the methods beam and samples. Leave one of them out."
        )
    options = config.method_config()
    requests = [[make_request(one.asked, sample, config, options) for sample in range(options.samples)] for one in questions]
    asking = Asking(options, config.seed, context)
    replies = asking.ask({request.key: request for group in requests for request in group})
    counts = {name: asking.meter[name] for name in COUNTED} | {"tokens": asking.budget.tokens, "budget_requests": asking.budget.requests}
    context.log(_account(asking, counts, len(replies)))
    if asking.spent and options.when_spent == "fail":
        raise BudgetSpent(
            f"The budget ({asking.spent}) was spent after {len(replies)} answers, and when_spent is 'fail'. They are kept: "
            "the same job with a larger budget pays for the others only."
        )
    answers = [[_answer(request.key, replies[request.key]) for request in group if request.key in replies] for group in requests]
    revision = f"@{options.revision}" if options.revision else ""
    parameters = {"temperature": options.temperature, "max_new_tokens": config.max_new_tokens, "stop": config.stop} | options.parameters
    return Asked(
        answers=answers,
        teacher=f"{options.endpoint} {options.model}{revision}",
        decoding={"api": options.api, **parameters, **({"system_prompt": config.system_prompt} if config.system_prompt else {})},
        counts=counts,
        spent=asking.spent,
    )


def _answer(key: str, reply) -> Answer:
    return Answer(reply.text, key, reply.model, reply.finish, reply.places)


def _account(asking: Asking, counts: Mapping[str, int], answered: int) -> str:
    failed = ", ".join(f"{counts[name]} {name}" for name in ("rate_limited", "server_error", "no_answer", "garbage") if counts[name])
    left = f" {counts['unanswered']} stay without an answer (the last: {asking.last_failure})." if counts["unanswered"] else ""
    spent = f" The budget is spent ({asking.spent}); the others were not asked." if asking.spent else ""
    return (
        f"{answered} answers, {counts['kept']} of them from before; {counts['requests']} requests{f' ({failed})' if failed else ''}, "
        f"{counts['tokens']} tokens.{left}{spent}"
    )
