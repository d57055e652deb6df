"""A student learns from a teacher behind an API: prepare, ask, tune or distil, evaluate beside the champion, decide, promote."""

from __future__ import annotations

from airflow.sdk import DAG

from lfm_tasks.assets import NEW_MODEL
from lfm_tasks.operators import (
    AskTeacherOperator,
    DistillOperator,
    EvaluateTaughtOperator,
    FinishRunOperator,
    PrepareAnswersOperator,
    PrepareGeneralOperator,
    PrepareOperator,
    TuneOperator,
    WriteRationalesOperator,
)
from lfm_tasks.operators.dags import HEAVY, common
from lfm_tasks.operators.params import reference_param, step_params, tasks_of
from lfm_tasks.operators.promotion import measure_and_promote, promotion_params
from lfm_tasks.operators.teaching import FROM_LOG_PROBABILITIES, FROM_RATIONALES, teaching_params

dag = DAG(
    dag_id="lfm_learn_from_teacher",
    description="Teach a student what a teacher behind an API answers, and promote it if it is better",
    doc_md=__doc__
    + """
**Steps.** *prepare* splits the rows; *ask* puts the prompts of the training split, and no others, to an OpenAI-compatible API and keeps
each answer as it comes: a retry asks only what has no answer yet, a budget in requests or tokens ends it, and another run that
asks the same pays nothing. *prepare_answers* makes training rows of prompts and answers, from which the student learns in one of three
ways:

- *Answers*: *tune* trains it on them.
- *Log-probabilities*: *distill* trains it on the answers and on how likely the teacher found each piece of them, by `alm` or `hybrid`;
  `top_logprobs` is to be 1 or more. A chat's answers begin without a space: write the completion template without one, too, `{label}`.
- *Rationales*: *write_rationales* keeps the answers that are right and whose reasons hold. The teacher template asks for both, e.g.
  `{prompt} Give your reasons, then write "Answer:" and the topic.`, and a trial of some `max_questions` shows whether it does.
  By *step by step* the student learns to answer the plain prompt, and beside it to explain: it is used and measured as ever, by
  choice. By *chain of thought* it writes its reasons first, and all models are measured by what they write: by generation, the answer
  read behind the last of the answer marks, of a text without one in its first line, in as many tokens as the student could learn.
  A base that does not write the label by itself has nothing there, however well it would choose. Tasks, marks and tokens that the form
  sets itself stay as they are.

*evaluate* measures the student before, the champion and the student after on the right answers of the held-out rows; *gate*, *ask a
person*, *approve* and *promote* are those of `lfm_adapt`.

**Who may be asked** is the administrator's: `LFM_TEACHER_ENDPOINTS` holds the allowed URLs. The key is in an environment variable whose
name ends in `_API_KEY`, or in an Airflow connection of the endpoint's host; the form names it and never holds it.
""",
    tags=["lfm", "distillation"],
    params={
        "model": reference_param("models", "starter://smollm2-135m-instruct", "Student", "The decoder that learns."),
        "data": reference_param("data", "starter://bbc-news", "Data", "Rows whose prompts are asked; JSONL, CSV or Parquet."),
        "general": reference_param(
            "data",
            "starter://nyt-editorials",
            "General text",
            "Held-out text on which perplexity shows forgetting; empty for none.",
            optional=True,
        ),
        **step_params("prepare", defaults={"max_train_samples": 500}, skip=["task", "template", "system_prompt", "part_column", "parts"]),
        **teaching_params(),
        **step_params("evaluate"),
        **promotion_params(model_name="taught-topics"),
    },
    **common(),
)

with tasks_of(dag):
    plain = {"task": "instruction", "template": "plain"}
    prepare = PrepareOperator(task_id="prepare", references={"data": "{data}", "model": "{model}"}, config=plain, **HEAVY)
    prepare_general = PrepareGeneralOperator(task_id="prepare_general", references={"data": "{general}", "model": "{model}"}, **HEAVY)
    ask = AskTeacherOperator(
        task_id="ask_teacher", inputs={"data": prepare.output["dataset"]}, config={"method": "black_box", "split": "train"}
    )
    rationales = WriteRationalesOperator(task_id="write_rationales", when=FROM_RATIONALES, inputs={"data": ask.output["dataset"]})
    answers = PrepareAnswersOperator(
        task_id="prepare_answers",
        prefix="prepare",
        references={"model": "{model}"},
        inputs={"data": (rationales.output["dataset"], ask.output["dataset"])},
        trigger_rule="none_failed",
        **HEAVY,
    )
    learned = {"dataset": answers.output["dataset"]}
    tune = TuneOperator(
        task_id="tune", unless=FROM_LOG_PROBABILITIES, references={"model": "{model}"}, inputs=learned, outlets=[NEW_MODEL], **HEAVY
    )
    distill = DistillOperator(
        task_id="distill",
        when=FROM_LOG_PROBABILITIES,
        references={"student": "{model}"},
        inputs={**learned, "signals.0": ask.output["signals"]},
        config={"temperature": 1.0},
        outlets=[NEW_MODEL],
        **HEAVY,
    )

    held_out = {"dataset": prepare.output["dataset"], "general": prepare_general.output["dataset"]}
    ended = measure_and_promote((tune.output["model"], distill.output["model"]), held_out, evaluate=EvaluateTaughtOperator, **HEAVY)
    finish = FinishRunOperator(task_id="finish")

    ended >> finish.as_teardown()
