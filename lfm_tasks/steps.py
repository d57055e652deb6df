"""Every step: its config, its code, what it takes and what it makes. Light to import."""

from __future__ import annotations

from lfm_tasks.registry import InputSpec, Registry, Step

STEPS: Registry[Step] = Registry("step")

STEPS.add(
    Step(
        name="prepare",
        title="Prepare data",
        config="lfm_tasks.data.config:PrepareConfig",
        run="lfm_tasks.data.prepare:run",
        inputs={
            "data": InputSpec(("dataset",), "Raw rows: JSONL, CSV or Parquet files."),
            "model": InputSpec(("model",), "Model whose tokenizer and chat template are used."),
        },
        outputs={"dataset": "dataset"},
        code=("lfm_tasks.data", "lfm_tasks.markdown", "lfm_tasks.models", "lfm_tasks.rows", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="prepare_images",
        title="Prepare images",
        config="lfm_tasks.data.images_config:PrepareImagesConfig",
        run="lfm_tasks.data.images:run",
        inputs={"data": InputSpec(("dataset",), "Labelled images: Parquet files.")},
        outputs={"dataset": "dataset"},
        code=("lfm_tasks.data", "lfm_tasks.markdown", "lfm_tasks.models", "lfm_tasks.rows", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="import_facts",
        title="Import facts",
        config="lfm_tasks.facts.config:ImportFactsConfig",
        run="lfm_tasks.facts.importing:run",
        inputs={"data": InputSpec(("dataset",), "JSON or JSONL files of facts to edit, in any known format.", required=False)},
        outputs={"dataset": "dataset"},
        code=("lfm_tasks.artifacts.manifest", "lfm_tasks.facts"),
    )
)
STEPS.add(
    Step(
        name="tune",
        title="Tune",
        config="lfm_tasks.tuning.config:TuneConfig",
        run="lfm_tasks.tuning.tune:run",
        inputs={
            "model": InputSpec(("model",), "Base model."),
            "dataset": InputSpec(("dataset",), "Prepared data set."),
        },
        outputs={"adapter": "adapter", "model": "model", "adapter_checkpoints": "adapter", "checkpoints": "model"},
        code=("lfm_tasks.tuning", "lfm_tasks.training", "lfm_tasks.models", "lfm_tasks.memory", "lfm_tasks.seeds"),
        distributed=True,
    )
)
STEPS.add(
    Step(
        name="distill",
        title="Distill",
        config="lfm_tasks.distillation.config:DistillConfig",
        run="lfm_tasks.distillation.distill:run",
        inputs={
            "student": InputSpec(("model",), "Model that learns."),
            "dataset": InputSpec(("dataset",), "Prepared data set, in the student's tokenizer."),
            "teachers": InputSpec(("model", "adapter"), "Models that it learns from.", required=False, many=True),
            "teacher_dataset": InputSpec(
                ("dataset",), "The same rows, prepared in the tokenizer of a teacher that has another one.", required=False
            ),
            "signals": InputSpec(
                ("signals",),
                "What teachers said of this data set, made by record_signals; for alm and hybrid an API's answers, made by ask_teacher.",
                required=False,
                many=True,
            ),
        },
        outputs={"model": "model"},
        code=(
            "lfm_tasks.distillation",
            "lfm_tasks.training",
            "lfm_tasks.models",
            "lfm_tasks.rows",
            "lfm_tasks.memory",
            "lfm_tasks.seeds",
        ),
        distributed=True,
    )
)
STEPS.add(
    Step(
        name="record_signals",
        title="Record a teacher",
        config="lfm_tasks.distillation.config:RecordSignalsConfig",
        run="lfm_tasks.distillation.recording:run",
        inputs={
            "teacher": InputSpec(("model", "adapter"), "Model that is asked."),
            "dataset": InputSpec(("dataset",), "Prepared data set; its training split is asked about."),
        },
        outputs={"signals": "signals"},
        code=("lfm_tasks.distillation", "lfm_tasks.training", "lfm_tasks.models", "lfm_tasks.memory", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="cut_student",
        title="Cut a student",
        config="lfm_tasks.distillation.config:CutStudentConfig",
        run="lfm_tasks.distillation.cut:run",
        inputs={"teacher": InputSpec(("model", "adapter"), "Model whose layers and units the student is made of.")},
        outputs={"model": "model"},
        code=(
            "lfm_tasks.distillation.config",
            "lfm_tasks.distillation.cut",
            "lfm_tasks.training.config",
            "lfm_tasks.models",
            "lfm_tasks.seeds",
        ),
    )
)
STEPS.add(
    Step(
        name="ask_teacher",
        title="Ask a teacher",
        config="lfm_tasks.distillation.black_box.config:AskTeacherConfig",
        run="lfm_tasks.distillation.black_box.ask:run",
        inputs={
            "data": InputSpec(("dataset",), "Prompts: a prepared data set, or raw rows."),
            "teacher": InputSpec(("model", "adapter"), "Local decoder, for the methods beam and samples.", required=False),
        },
        outputs={"dataset": "dataset", "signals": "signals"},
        code=(
            "lfm_tasks.distillation.black_box",
            "lfm_tasks.distillation.divergences",
            "lfm_tasks.distillation.sampling",
            "lfm_tasks.distillation.texts",
            "lfm_tasks.artifacts.references",
            "lfm_tasks.metrics",
            "lfm_tasks.models",
            "lfm_tasks.rows",
            "lfm_tasks.seeds",
            "lfm_tasks.settings",
        ),
    )
)
STEPS.add(
    Step(
        name="write_rationales",
        title="Write rationales",
        config="lfm_tasks.distillation.texts.config:WriteRationalesConfig",
        run="lfm_tasks.distillation.texts.write:run",
        inputs={"data": InputSpec(("dataset",), "Answers with reasons, made by the step 'ask_teacher'.")},
        outputs={"dataset": "dataset"},
        code=("lfm_tasks.distillation.texts", "lfm_tasks.metrics"),
    )
)
STEPS.add(
    Step(
        name="statistics",
        title="Gather statistics",
        config="lfm_tasks.statistics.config:StatisticsConfig",
        run="lfm_tasks.statistics.gather:run",
        inputs={
            "model": InputSpec(("model",), "Tuned model."),
            "dataset": InputSpec(("dataset",), "Prepared data set of its task."),
        },
        outputs={"statistics": "statistics"},
        code=("lfm_tasks.statistics", "lfm_tasks.models", "lfm_tasks.memory", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="add_statistics",
        title="Add statistics",
        config="lfm_tasks.statistics.config:AddStatisticsConfig",
        run="lfm_tasks.statistics.adding:run",
        inputs={"statistics": InputSpec(("statistics",), "Sums over parts of the rows (shards), of one model and data set.", many=True)},
        outputs={"statistics": "statistics"},
        code=("lfm_tasks.statistics", "lfm_tasks.models"),
    )
)
STEPS.add(
    Step(
        name="merge",
        title="Merge",
        config="lfm_tasks.reuse.config:MergeConfig",
        run="lfm_tasks.reuse.merge:run",
        inputs={
            "models": InputSpec(("model",), "Models of one architecture and vocabulary, in order.", many=True),
            "base": InputSpec(("model",), "Model that they were made from; task vectors are differences from it.", required=False),
            "datasets": InputSpec(
                ("dataset",),
                "Prepared data set of each model's task, in order, or one for all; for methods that learn from data.",
                required=False,
                many=True,
            ),
            "statistics": InputSpec(
                ("statistics",),
                "Statistics of each model, in order, made by the step 'statistics'; for methods that use them.",
                required=False,
                many=True,
            ),
        },
        outputs={"model": "model"},
        code=("lfm_tasks.reuse", "lfm_tasks.models", "lfm_tasks.artifacts.disk", "lfm_tasks.memory", "lfm_tasks.seeds"),
        ranged=("models", "base"),
        ranged_unless="datasets",
    )
)
STEPS.add(
    Step(
        name="merge_adapters",
        title="Merge adapters",
        config="lfm_tasks.reuse.adapters.config:MergeAdaptersConfig",
        run="lfm_tasks.reuse.adapters.merge:run",
        inputs={
            "adapters": InputSpec(("adapter",), "LoRA adapters of one base, in order.", many=True),
            "dataset": InputSpec(("dataset",), "Prepared labelled rows, for the methods that choose weights on them.", required=False),
        },
        outputs={"adapter": "adapter"},
        code=("lfm_tasks.reuse", "lfm_tasks.models", "lfm_tasks.artifacts.disk", "lfm_tasks.memory", "lfm_tasks.seeds"),
        ranged=("adapters",),
        ranged_unless="dataset",
    )
)
STEPS.add(
    Step(
        name="restack",
        title="Restack layers",
        config="lfm_tasks.reuse.restack_config:RestackConfig",
        run="lfm_tasks.reuse.restack:run",
        inputs={"models": InputSpec(("model",), "Models of one architecture, in order; one is enough.", many=True)},
        outputs={"model": "model"},
        code=("lfm_tasks.reuse", "lfm_tasks.models", "lfm_tasks.artifacts.disk", "lfm_tasks.memory", "lfm_tasks.seeds"),
        ranged=("models",),
    )
)
STEPS.add(
    Step(
        name="mix",
        title="Mix",
        config="lfm_tasks.reuse.mixtures.config:MixConfig",
        run="lfm_tasks.reuse.mixtures.mix:run",
        inputs={
            "models": InputSpec(("model",), "Models of one architecture and vocabulary, in order.", many=True),
            "base": InputSpec(("model",), "Model that they were made from."),
            "datasets": InputSpec(
                ("dataset",),
                "Prepared data set of each model's task, in order; for methods that learn from data.",
                required=False,
                many=True,
            ),
        },
        outputs={"model": "model"},
        code=("lfm_tasks.reuse", "lfm_tasks.models", "lfm_tasks.artifacts.disk", "lfm_tasks.memory", "lfm_tasks.seeds"),
        ranged=("models", "base"),
        ranged_unless="datasets",
    )
)
STEPS.add(
    Step(
        name="search_merge",
        title="Search a merge",
        config="lfm_tasks.reuse.search_config:SearchMergeConfig",
        run="lfm_tasks.reuse.search:run",
        inputs={
            "models": InputSpec(("model",), "Models of one architecture and vocabulary, in order.", many=True),
            "base": InputSpec(("model",), "Model that they were made from; task vectors are differences from it.", required=False),
            "datasets": InputSpec(
                ("dataset",), "Prepared data set of each model's task, in order, or one for all; the best is chosen by them.", many=True
            ),
        },
        outputs={"model": "model", "trials": "report"},
        code=(
            "lfm_tasks.reuse",
            "lfm_tasks.markdown",
            "lfm_tasks.models",
            "lfm_tasks.artifacts.disk",
            "lfm_tasks.memory",
            "lfm_tasks.seeds",
        ),
        ranged=("models", "base"),
    )
)
STEPS.add(
    Step(
        name="align",
        title="Align",
        config="lfm_tasks.reuse.alignment.config:AlignConfig",
        run="lfm_tasks.reuse.alignment.align:run",
        inputs={
            "model": InputSpec(("model",), "Model whose units change places."),
            "reference": InputSpec(("model",), "Model of the same architecture that stays as it is."),
            "dataset": InputSpec(("dataset",), "Prepared rows of text, for methods that compare activations.", required=False),
        },
        outputs={"model": "model"},
        code=(
            "lfm_tasks.reuse.alignment",
            "lfm_tasks.reuse.checkpoint",
            "lfm_tasks.reuse.config",
            "lfm_tasks.reuse.dtypes",
            "lfm_tasks.reuse.group",
            "lfm_tasks.reuse.plan",
            "lfm_tasks.reuse.ranged",
            "lfm_tasks.reuse.writing",
            "lfm_tasks.models",
            "lfm_tasks.artifacts.disk",
            "lfm_tasks.memory",
            "lfm_tasks.seeds",
        ),
    )
)
STEPS.add(
    Step(
        name="connect",
        title="Connectivity",
        config="lfm_tasks.reuse.connectivity.config:ConnectConfig",
        run="lfm_tasks.reuse.connectivity.connect:run",
        inputs={
            "models": InputSpec(("model",), "The two ends: models of one architecture, vocabulary and task.", many=True),
            "dataset": InputSpec(("dataset",), "Prepared data set; its validation split is measured on."),
        },
        outputs={"report": "report"},
        code=("lfm_tasks.reuse.connectivity", "lfm_tasks.models", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="distill_data_free",
        title="Distill without data",
        config="lfm_tasks.distillation.data_free.config:DistillDataFreeConfig",
        run="lfm_tasks.distillation.data_free.distill:run",
        inputs={
            "teacher": InputSpec(("model",), "Image classifier to learn from."),
            "student": InputSpec(("model",), "Image classifier of the same classes that learns."),
        },
        outputs={"model": "model", "report": "report", "checkpoints": "model"},
        code=(
            "lfm_tasks.distillation.data_free",
            "lfm_tasks.distillation.divergences",
            "lfm_tasks.models",
            "lfm_tasks.memory",
            "lfm_tasks.seeds",
        ),
    )
)
STEPS.add(
    Step(
        name="train_editor",
        title="Train an editor",
        config="lfm_tasks.editing.hyper.config:TrainEditorConfig",
        run="lfm_tasks.editing.hyper.train:run",
        inputs={
            "model": InputSpec(("model", "adapter"), "Decoder that will be edited; of edits their base is learnt of."),
            "facts": InputSpec(("dataset",), "Facts to learn from; a share of their subjects is held out."),
            "edited": InputSpec(("dataset",), "Facts that will be edited: none of their subjects is learnt from.", required=False),
            "general": InputSpec(
                ("dataset",), "Prepared general text that edits shall leave alone; else sentences of the step's own.", required=False
            ),
        },
        outputs={"editor": "statistics"},
        code=("lfm_tasks.editing", "lfm_tasks.facts", "lfm_tasks.models", "lfm_tasks.memory", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="edit",
        title="Edit",
        config="lfm_tasks.editing.config:EditConfig",
        run="lfm_tasks.editing.edit:run",
        inputs={
            "model": InputSpec(("model", "adapter"), "Decoder to edit; or its edits, which are gone on from."),
            "facts": InputSpec(("dataset",), "Facts: facts.jsonl, made by the step 'import_facts'."),
            "statistics": InputSpec(
                ("statistics",),
                "Second moments of the base's keys, made by the step 'statistics' with method=key_moments; for methods that use them.",
                required=False,
            ),
            "editor": InputSpec(
                ("statistics",), "What the step 'train_editor' learnt of the base; for methods that edit by it.", required=False
            ),
            "training": InputSpec(
                ("dataset",), "Facts of other subjects: what IKE shows, and what WISE and T-Patcher shall leave alone.", required=False
            ),
            "general": InputSpec(
                ("dataset",), "Prepared general text on which the perplexity must stay; else a text of the step's own.", required=False
            ),
            "probe": InputSpec(("dataset",), "Facts that the model knows and must still know after each round.", required=False),
        },
        outputs={"adapter": "adapter", "model": "model", "lora": "adapter"},
        code=("lfm_tasks.editing", "lfm_tasks.facts", "lfm_tasks.models", "lfm_tasks.memory", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="plan_edits",
        title="Plan edits",
        config="lfm_tasks.editing.config:EditConfig",
        run="lfm_tasks.editing.planning:run",
        inputs={
            "model": InputSpec(("model", "adapter"), "Decoder to edit; or its edits."),
            "facts": InputSpec(("dataset",), "Facts; those that conflict or cannot be used are listed."),
            "statistics": InputSpec(("statistics",), "Second moments of the base's keys; for methods that use them.", required=False),
            "editor": InputSpec(
                ("statistics",), "What the step 'train_editor' learnt of the base; for methods that edit by it.", required=False
            ),
            "training": InputSpec(
                ("dataset",), "Facts of other subjects: what IKE shows, and what WISE and T-Patcher shall leave alone.", required=False
            ),
        },
        outputs={"report": "report"},
        code=("lfm_tasks.editing", "lfm_tasks.facts", "lfm_tasks.models", "lfm_tasks.memory", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="revise_edits",
        title="Revise edits",
        config="lfm_tasks.editing.config:ReviseEditsConfig",
        run="lfm_tasks.editing.revise:run",
        inputs={
            "adapter": InputSpec(("adapter",), "Edits, as the step 'edit' makes them."),
            "statistics": InputSpec(
                ("statistics",), "The key moments that they were made with; to forget facts of methods that use them.", required=False
            ),
        },
        outputs={"adapter": "adapter"},
        code=("lfm_tasks.editing", "lfm_tasks.facts", "lfm_tasks.models", "lfm_tasks.memory", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="sweep_edit_layers",
        title="Find the layer to edit",
        config="lfm_tasks.editing.sweep_config:SweepEditLayersConfig",
        run="lfm_tasks.editing.sweep:run",
        inputs={
            "model": InputSpec(("model", "adapter"), "Decoder to edit; of edits their base is tried."),
            "facts": InputSpec(("dataset",), "Facts that the model knows, as evaluate_edits finds them."),
            "edited": InputSpec(
                ("dataset",), "Facts that are to be edited: the layer is not chosen on what is about their subjects.", required=False
            ),
            "statistics": InputSpec(
                ("statistics",), "Second moments of the keys of all candidate layers; for methods that use them.", required=False
            ),
            "general": InputSpec(
                ("dataset",), "Prepared general text on which the perplexity shall stay; else a text of the step's own.", required=False
            ),
        },
        outputs={"report": "report"},
        code=("lfm_tasks.editing", "lfm_tasks.facts", "lfm_tasks.models", "lfm_tasks.memory", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="choose_edit_layer",
        title="Choose the layer to edit",
        config="lfm_tasks.editing.sweep_config:ChooseEditLayerConfig",
        run="lfm_tasks.editing.sweep_report:run",
        inputs={"reports": InputSpec(("report",), "Reports of sweep_edit_layers, of some layers each.", many=True)},
        outputs={"report": "report"},
        code=("lfm_tasks.editing",),
    )
)
STEPS.add(
    Step(
        name="trace_facts",
        title="Trace facts",
        config="lfm_tasks.editing.trace_config:TraceFactsConfig",
        run="lfm_tasks.editing.trace:run",
        inputs={
            "model": InputSpec(("model", "adapter"), "Decoder that knows the facts."),
            "facts": InputSpec(("dataset",), "Facts with their present answers."),
        },
        outputs={"report": "report"},
        code=("lfm_tasks.editing", "lfm_tasks.facts", "lfm_tasks.models", "lfm_tasks.memory", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="unload",
        title="Unload",
        config="lfm_tasks.reuse.mixtures.config:UnloadConfig",
        run="lfm_tasks.reuse.mixtures.unload:run",
        inputs={"model": InputSpec(("model",), "Mixture whose weights do not depend on its input.")},
        outputs={"model": "model"},
        code=("lfm_tasks.reuse", "lfm_tasks.models", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="evaluate",
        title="Evaluate",
        config="lfm_tasks.evaluation.config:EvaluateConfig",
        run="lfm_tasks.evaluation.evaluate:run",
        inputs={
            "model": InputSpec(("model", "adapter"), "Model to evaluate."),
            "dataset": InputSpec(("dataset",), "Prepared data set; its held-out split is used."),
            "general": InputSpec(("dataset",), "Prepared general text, for perplexity.", required=False),
            "head": InputSpec(("model",), "Classifier whose head and classes stand in for the model's own.", required=False),
        },
        outputs={"report": "report"},
        code=("lfm_tasks.evaluation", "lfm_tasks.markdown", "lfm_tasks.metrics", "lfm_tasks.models", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="evaluate_edits",
        title="Evaluate edits",
        config="lfm_tasks.evaluation.edits.config:EvaluateEditsConfig",
        run="lfm_tasks.evaluation.edits.evaluate:run",
        inputs={
            "model": InputSpec(("model", "adapter"), "Edited model, or one that is to be edited."),
            "facts": InputSpec(("dataset",), "Facts, as import_facts makes them."),
            "base": InputSpec(
                ("model", "adapter", "report"),
                "Unedited model, or the report of this step on it; of an adapter, its own base if none is given.",
                required=False,
            ),
            "earlier": InputSpec(("dataset",), "Facts of earlier rounds, for retention.", required=False),
            "general": InputSpec(("dataset",), "Prepared general text, for perplexity.", required=False),
            "references": InputSpec(("dataset",), 'Rows {"answer", "text"}, for consistency.', required=False),
        },
        outputs={"report": "report", "known": "dataset"},
        code=("lfm_tasks.evaluation", "lfm_tasks.markdown", "lfm_tasks.facts", "lfm_tasks.metrics", "lfm_tasks.models", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="ensemble",
        title="Ensemble",
        config="lfm_tasks.evaluation.ensemble.config:EnsembleConfig",
        run="lfm_tasks.evaluation.ensemble.ensemble:run",
        inputs={
            "models": InputSpec(
                ("model", "adapter"), "Models of one task and one set of classes, or of one tokenizer, in order.", many=True
            ),
            "dataset": InputSpec(("dataset",), "Prepared data set; its held-out split is used, and validation to fit on."),
            "general": InputSpec(("dataset",), "Prepared general text, for perplexity.", required=False),
            "head": InputSpec(("model",), "Classifier whose head and classes stand in for every model's own.", required=False),
        },
        outputs={"report": "report"},
        code=("lfm_tasks.evaluation", "lfm_tasks.markdown", "lfm_tasks.metrics", "lfm_tasks.models", "lfm_tasks.memory", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="select",
        title="Select",
        config="lfm_tasks.selection.config:SelectConfig",
        run="lfm_tasks.selection.select:run",
        inputs={"reports": InputSpec(("report",), "Evaluations of the candidates on the validation split.", many=True)},
        outputs={"selection": "report"},
        code=("lfm_tasks.selection", "lfm_tasks.markdown", "lfm_tasks.metrics"),
    )
)
STEPS.add(
    Step(
        name="compare",
        title="Compare on tasks",
        config="lfm_tasks.selection.compare_config:CompareConfig",
        run="lfm_tasks.selection.compare:run",
        inputs={"reports": InputSpec(("report",), "Evaluations of each subject on each task.", many=True)},
        outputs={"comparison": "report"},
        code=("lfm_tasks.selection", "lfm_tasks.markdown", "lfm_tasks.metrics"),
    )
)
STEPS.add(
    Step(
        name="gate",
        title="Gate",
        config="lfm_tasks.promotion.config:GateConfig",
        run="lfm_tasks.promotion.gate:run",
        inputs={
            "challenger": InputSpec(("report",), "Evaluation of the challenger.", refuse_revoked=True),
            "champion": InputSpec(("report",), "Evaluation of the champion, on the same samples."),
        },
        outputs={"decision": "report"},
        code=("lfm_tasks.promotion", "lfm_tasks.metrics", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="judge_student",
        title="Judge a student",
        config="lfm_tasks.promotion.students.config:JudgeStudentConfig",
        run="lfm_tasks.promotion.students.judge:run",
        inputs={
            "teacher": InputSpec(("model", "adapter"), "The student's teacher."),
            "student": InputSpec(("model",), "The student."),
            "dataset": InputSpec(("dataset",), "Prepared data set; both are timed on its validation split."),
            "teacher_report": InputSpec(("report",), "Evaluation of the teacher."),
            "student_report": InputSpec(("report",), "Evaluation of the student, on the same samples."),
            "before_report": InputSpec(("report",), "Evaluation of the student before it learned.", required=False),
            "baseline_report": InputSpec(("report",), "Evaluation of what the same steps on labels alone make of it.", required=False),
        },
        outputs={"retention": "report"},
        code=("lfm_tasks.promotion", "lfm_tasks.metrics", "lfm_tasks.models", "lfm_tasks.seeds"),
    )
)
STEPS.add(
    Step(
        name="novelty",
        title="Novelty",
        config="lfm_tasks.promotion.config:NoveltyConfig",
        run="lfm_tasks.promotion.novelty:run",
        inputs={
            "model": InputSpec(("model",), "Model that may already have been judged."),
            "dataset": InputSpec(("dataset",), "Data set that it would be judged on."),
        },
        outputs={},
        code=("lfm_tasks.promotion",),
        cached=False,
    )
)
STEPS.add(
    Step(
        name="approve",
        title="Approve",
        config="lfm_tasks.promotion.config:ApproveConfig",
        run="lfm_tasks.promotion.approve:run",
        inputs={"decision": InputSpec(("report",), "The gate's decision that was asked about.", refuse_revoked=True)},
        outputs={"answer": "report"},
        code=("lfm_tasks.promotion",),
        cached=False,
    )
)
STEPS.add(
    Step(
        name="rollback",
        title="Roll back",
        config="lfm_tasks.promotion.config:RollbackConfig",
        run="lfm_tasks.promotion.rollback:run",
        inputs={
            "model": InputSpec(
                ("model", "adapter"), "Version to go back to, models:/NAME/VERSION; any that the ledger knows.", refuse_revoked=True
            )
        },
        outputs={},
        code=("lfm_tasks.promotion",),
        cached=False,
    )
)
STEPS.add(
    Step(
        name="promote",
        title="Promote",
        config="lfm_tasks.promotion.config:PromoteConfig",
        run="lfm_tasks.promotion.promote:run",
        inputs={
            "model": InputSpec(("model",), "Model to register.", refuse_revoked=True),
            "decision": InputSpec(("report",), "The gate's decision.", refuse_revoked=True),
            "answer": InputSpec(("report",), "A person's answer, where one was asked.", required=False),
        },
        outputs={},
        code=("lfm_tasks.promotion",),
        cached=False,
    )
)
STEPS.add(
    Step(
        name="replay",
        title="Replay",
        config="lfm_tasks.runner.config:ReplayConfig",
        run="lfm_tasks.runner.replay:run",
        inputs={
            "artifact": InputSpec(
                ("model", "adapter", "dataset", "report", "signals", "statistics"), "Artifact to rebuild from its records."
            )
        },
        outputs={"report": "report"},
        code=("lfm_tasks.runner",),
        cached=False,
    )
)
STEPS.add(
    Step(
        name="collect",
        title="Collect garbage",
        config="lfm_tasks.runner.config:CollectConfig",
        run="lfm_tasks.runner.collect:run",
        inputs={},
        outputs={},
        code=("lfm_tasks.runner",),
        cached=False,
    )
)
