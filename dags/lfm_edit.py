"""Change what a model knows: find the facts that it knows, write the new ones, measure, decide, promote."""

from __future__ import annotations

from airflow.sdk import DAG

from lfm_tasks.assets import NEW_MODEL
from lfm_tasks.operators import (
    EditOperator,
    EvaluateEditsOperator,
    FinishRunOperator,
    ImportFactsOperator,
    ImportTrainingFactsOperator,
    KeyMomentsOperator,
    PrepareCorpusOperator,
    PrepareGeneralOperator,
    TrainEditorOperator,
)
from lfm_tasks.operators.dags import HEAVY, common
from lfm_tasks.operators.layers import find_layer, layer_params
from lfm_tasks.operators.params import reference_param, step_params, tasks_of
from lfm_tasks.operators.promotion import decide_and_promote, promotion_params

dag = DAG(
    dag_id="lfm_edit",
    description="Change facts that a model knows and promote it if what was to stay has stayed",
    doc_md=__doc__
    + """
**Facts.** A file of facts (CounterFact, zsRE, KnowEdit, MQuAKE, RippleEdits, or the platform's own rows), or facts typed in:
`[{"subject": "France", "prompt": "The capital of {} is", "target_true": "Paris", "target_new": "Rome"}]`. Facts that contradict one
another are refused before anything runs. *known* asks the unedited model first: a fact that it does not know is left out, handed on
or refused, as the form says. The layers are named in the form, or those that the method has by default, or *found for you*: each
candidate is tried on known facts of *held-out facts* whose subjects are not edited (*sweep_layers*, a task for each part of the layers),
and the best one is edited. Where nearly all known facts are edited, the report of *choose_layer* says how many of them the choice saw.

**Steps.** *statistics* gathers second moments of the keys, once for a model and a corpus, for the methods that locate a fact and
write it there; *train_editor* trains, for MEND and MALMEN alone, a network that edits this model, on *training* facts of other
subjects than those that are edited, unless an editor is given; *edit* writes the facts in rounds, each of which is looked at by
guards: a round that misses a limit is taken back, the facts at fault are found and put into quarantine, the others are written.
*evaluate* asks base, champion and challenger: success, paraphrases, neighbours, what follows from a fact, answers of their own
beside forced ones, and perplexity on general text. *gate* compares challenger and champion; *ask*, *approve* and *promote* are
those of `lfm_adapt`. The edit itself is an artifact of low-rank changes beside the base: every version is got back exactly, by
`lfm_rollback` or from the adapter. Methods that keep the weights (GRACE, WISE, T-Patcher, prompts) are for `lfm run edit`: what is
promoted here is a plain model.
""",
    tags=["lfm", "editing"],
    params={
        "model": reference_param("models", "starter://smollm2-135m-instruct", "Model", "The decoder to edit."),
        "facts": reference_param(
            "data", "starter://country-facts", "Facts", "Files of facts; empty where they are typed in.", optional=True
        ),
        "corpus": reference_param(
            "data", "starter://bbc-news", "Corpus", "Text on which the model's keys are gathered; what it says there shall stay."
        ),
        "general": reference_param(
            "data", "starter://nyt-editorials", "General text", "Held-out text for perplexity; empty for none.", optional=True
        ),
        "training": reference_param(
            "data",
            "starter://country-facts",
            "Training facts",
            "Facts that an editor is trained on; those of a subject that is edited are left out.",
            optional=True,
        ),
        "editor": reference_param(
            "data",
            None,
            "Editor",
            "An editor that was trained for the model before; empty trains one where the method needs one.",
            optional=True,
        ),
        **step_params("import_facts"),
        **step_params("edit", skip=["save_merged", "save_lora"]),
        **step_params("train_editor", skip=["method"]),
        **step_params("evaluate_edits", skip=["mode", "split"]),
        **layer_params(),
        **promotion_params(model_name="edited"),
    },
    **common(),
)

with tasks_of(dag):
    typed = ImportFactsOperator(task_id="facts", references={"data": "{facts}"})
    asked = {"prefix": "evaluate_edits", **HEAVY}
    known = EvaluateEditsOperator(
        task_id="known", references={"model": "{model}"}, inputs={"facts": typed.output["dataset"]}, config={"mode": "known"}, **asked
    )
    facts = known.output["known"]
    corpus = PrepareCorpusOperator(task_id="prepare_corpus", references={"data": "{corpus}", "model": "{model}"}, **HEAVY)
    general = PrepareGeneralOperator(task_id="prepare_general", references={"data": "{general}", "model": "{model}"}, **HEAVY)
    statistics = KeyMomentsOperator.in_shards(
        task_id="statistics", references={"model": "{model}"}, inputs={"dataset": corpus.output["dataset"]}, **HEAVY
    )
    training = ImportTrainingFactsOperator(task_id="training_facts", references={"data": "{training}"})
    editor = TrainEditorOperator(
        task_id="train_editor",
        references={"model": "{model}"},
        inputs={"facts": training.output["dataset"], "edited": facts},
        trigger_rule="none_failed",
        **HEAVY,
    )
    edit = EditOperator(
        task_id="edit",
        references={"model": "{model}", "editor": "{editor}"},
        inputs={
            "facts": facts,
            "statistics": statistics.output["statistics"],
            "editor": editor.output["editor"],
            "general": general.output["dataset"],
        },
        config={"save_merged": True},
        outlets=[NEW_MODEL],
        layer_task="choose_layer",
        trigger_rule="none_failed",
        **HEAVY,
    )
    measured = {"trigger_rule": "none_failed", "config": {"mode": "evaluate", "max_facts": 0}, **asked}
    held_out = {"facts": facts, "general": general.output["dataset"]}
    evaluate_base = EvaluateEditsOperator(task_id="evaluate_base", references={"model": "{model}"}, inputs=held_out, **measured)
    report = {"base": evaluate_base.output["report"]}
    evaluate_champion = EvaluateEditsOperator(
        task_id="evaluate_champion",
        references={"model": ["models:/{promote_model_name}@{promote_alias}", "{model}"]},
        inputs=held_out | report,
        **measured,
    )
    evaluate_challenger = EvaluateEditsOperator(
        task_id="evaluate_challenger", inputs={"model": edit.output["model"]} | held_out | report, **measured
    )
    promote = decide_and_promote(evaluate_challenger.output["report"], evaluate_champion.output["report"], edit.output["model"])
    finish = FinishRunOperator(task_id="finish")

    find_layer(facts, statistics.output["statistics"], general.output["dataset"], **HEAVY) >> edit
    [evaluate_base, promote] >> finish.as_teardown()
