"""The step *evaluate_edits*: what a model says about facts that were, or will be, edited in it.

It only asks the opened model, whatever the edit is made of. Teacher-forced and free-running answers are never in one figure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from transformers import LogitsProcessorList, PreTrainedTokenizerBase

from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.evaluation.edits.asking import Pair, answer_of, answer_room, begins_with, forced, free_running
from lfm_tasks.evaluation.edits.config import PROMPT, EvaluateEditsConfig
from lfm_tasks.evaluation.edits.distance import edit_distances
from lfm_tasks.evaluation.edits.fluency import TopKSampling, consistency, fluency_entropy
from lfm_tasks.evaluation.edits.questions import Question, questions
from lfm_tasks.evaluation.edits.report import Findings, settings_of, write_report
from lfm_tasks.evaluation.edits.tables import KEPT, Answers, Before, Group, before_of, fact_lines, make_groups, pairs_of, read_before
from lfm_tasks.evaluation.evaluate import GENERAL, Counter
from lfm_tasks.evaluation.task import Subject
from lfm_tasks.facts.reading import read_facts, read_objects, write_facts
from lfm_tasks.facts.record import Fact
from lfm_tasks.metrics.likelihood import perplexity
from lfm_tasks.metrics.samples import metric_columns, read_samples
from lfm_tasks.models.opening import check_vocabulary, model_directory, open_causal_lm
from lfm_tasks.models.prepared import Rows, read_rows
from lfm_tasks.models.tokenizers import chat_prompt, open_tokenizer, tokenizer_digest
from lfm_tasks.step import Input, Outcome, Output, StepContext


def run(config: EvaluateEditsConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    facts = read_facts(inputs["facts"].path)
    if config.mode == "known":
        return find_known(config, facts, inputs["model"], context)
    facts = facts[: config.max_facts or None]
    asked, left_out = questions(facts, read_facts(inputs["earlier"].path) if "earlier" in inputs else [])
    rows = read_rows(inputs["general"].path, config.split) if "general" in inputs else None
    base = inputs.get("base") or inputs["model"].base
    itself = base is not None and base.sha256 == inputs["model"].sha256
    before, figures = (None, {}) if base is None or itself else ask_base(base, inputs["facts"], facts, asked, rows, config, context)
    subject = open_subject(inputs["model"], rows, config)
    answers = ask(subject, facts, asked, pairs_of(asked), config, context)
    if itself:
        before = before_of(asked, answers)
    groups = make_groups(asked, answers, before)
    if rows is not None:
        groups["general"] = Group(GENERAL.score(subject, rows, config, lambda done: None), rows.sample_id)
    texts, quality = write_about(subject, facts, config)
    if "references" in inputs and texts:
        quality["consistency"] = mean_consistency(texts, facts, inputs["references"])
    weights = inputs["model"].base if base is None or base.kind == "report" else base
    findings = Findings(
        config=config,
        inputs=dict(inputs),
        base_sha256=base_address(base),
        groups=groups,
        lines=fact_lines(facts, asked, answers, before),
        figures=figures | quality,
        distances={} if weights is None else edit_distances(subject.model, model_directory(weights)),
        neighbours_left_out=left_out,
        without_target_true=sum(fact.target_true is None for fact in facts),
    )
    return write_report(findings, context.workdir / "report")


def find_known(config: EvaluateEditsConfig, facts: Sequence[Fact], model: Input, context: StepContext) -> Outcome:
    """The facts whose ``target_true`` the model says by itself, and what ``unknown`` says of the others.

    Raises :class:`DataError` where none is left, and for an unknown fact that is refused.
    """
    asked = [fact for fact in facts if fact.target_true is not None]
    if not asked and config.unknown != "keep":
        raise DataError(f"None of the {len(facts):,} facts has a target_true, so none can be known. Add the present answers.")
    said: Mapping[str, str] = {}
    if asked:
        subject, counter = open_subject(model, None, config), Counter(context, len(asked))
        room = config.max_new_tokens or answer_room(subject, ((fact.text, fact.target_true or "") for fact in asked))
        said = free_running(subject, (fact.text for fact in asked), room, config.batch_tokens, counter)
    known = [fact for fact in asked if begins_with(said[fact.text], fact.target_true or "")]
    if len(known) < len(facts) and (config.unknown == "refuse" or not known and config.unknown == "leave_out"):
        raise DataError(_not_known(facts, known, said))
    left = (known if config.unknown == "leave_out" else facts)[: config.max_facts or None]
    directory = context.workdir / "known"
    write_facts(left, directory)
    counts = {"asked": len(asked), "known": len(known), "kept": len(left)}
    (directory / "known.json").write_text(json.dumps(counts, sort_keys=True) + "\n")
    metrics = {f"facts/{name}": float(count) for name, count in counts.items()}
    return Outcome({"known": Output("dataset", directory)}, metrics, counts)


def _not_known(facts: Sequence[Fact], known: Sequence[Fact], said: Mapping[str, str]) -> str:
    first = next(fact for fact in facts if fact not in known)
    count = f"The model does not give the present answer to {len(facts) - len(known):,} of the {len(facts):,} facts"
    if first.target_true is None:
        return f"{count}; {first.id} has no target_true. Add it, or set unknown to keep."
    return (
        f"{count}; to {first.text!r} it says {answer_of(said[first.text])!r}, not {first.target_true!r}. Take other facts or other "
        "prompts, or set unknown to keep."
    )


def ask_base(
    base: Input,
    asking: Input,
    facts: Sequence[Fact],
    asked: Sequence[Question],
    rows: Rows | None,
    config: EvaluateEditsConfig,
    context: StepContext,
) -> tuple[Before, dict[str, float]]:
    """What the base says where answers shall stay, and its perplexity; of a report on it, what is written there."""
    if base.kind == "report":
        return read_before(read_samples(report_on(base, asking, config) / "samples.parquet"), asked), {}
    subject, kept = open_subject(base, rows, config), [question for question in asked if question.aspect in KEPT]
    answers = ask(subject, facts, kept, [(question.prompt, question.answers[0]) for question in kept], config, context)
    figures = {}
    if rows is not None:
        table = GENERAL.score(subject, rows, config, lambda done: None)
        figures["base_perplexity"] = perplexity().value(metric_columns(table, []))
    return before_of(kept, answers), figures


def report_on(base: Input, facts: Input, config: EvaluateEditsConfig) -> Path:
    """The report's directory. Raises :class:`ConfigError` unless it is about the same facts, asked in the same way."""
    if not all((base.path / name).is_file() for name in ("metrics.json", "samples.parquet")):
        raise ConfigError(f"base: {base.reference} is a report of another step. Give the report of evaluate_edits on the base.")
    described = json.loads((base.path / "metrics.json").read_text())
    wanted = {"dataset_sha256": facts.sha256} | settings_of(config)
    found = {"dataset_sha256": described["dataset_sha256"]} | described["settings"]
    if different := [name for name in wanted if wanted[name] != found.get(name)]:
        name = different[0]
        raise ConfigError(
            f"base: {base.reference} has {name} {found.get(name)!r}, not {wanted[name]!r}. Evaluate the base in the same way."
        )
    return base.path


def base_address(base: Input | None) -> str | None:
    """Of the base itself, where a report on it was given."""
    if base is None or base.kind != "report":
        return base.sha256 if base else None
    return json.loads((base.path / "metrics.json").read_text())["model_sha256"]


def open_subject(source: Input, rows: Rows | None = None, config: EvaluateEditsConfig | None = None) -> Subject:
    """Which is asked in the frame of ``config``. Raises :class:`DataError` for a chat with a model that has no chat template."""
    model, directory = open_causal_lm(source), model_directory(source)
    if rows is not None:
        check_vocabulary(model, tokenizer_digest(directory), rows.description)
    device, tokenizer = "cuda" if torch.cuda.is_available() else "cpu", open_tokenizer(directory)
    frame = framed_by(config, tokenizer) if config is not None and config.chat else str
    return Subject(model.to(device).eval(), tokenizer, frame=frame)


def framed_by(config: EvaluateEditsConfig, tokenizer: PreTrainedTokenizerBase) -> Callable[[str], str]:
    """Raises :class:`DataError` for a model without a chat template."""
    chat_prompt(tokenizer, "")
    return lambda prompt: chat_prompt(tokenizer, config.chat_message.replace(PROMPT, prompt))


def ask(
    subject: Subject,
    facts: Sequence[Fact],
    asked: Sequence[Question],
    pairs: Sequence[Pair],
    config: EvaluateEditsConfig,
    context: StepContext,
) -> Answers:
    """All questions, under both protocols. Where answers shall stay, their length depends on ``facts`` alone, so that models compare."""
    kept = list(dict.fromkeys(question.prompt for question in asked if question.aspect in KEPT))
    others = [question for question in asked if question.aspect not in KEPT]
    prompts = list(dict.fromkeys(question.prompt for question in others))
    counter = Counter(context, len(set(pairs)) + len(kept) + len(prompts))
    told = forced(subject, pairs, config.batch_tokens, counter)
    rooms = [
        config.max_new_tokens or answer_room(subject, some)
        for some in (pairs_of_facts(facts), [(question.prompt, answer) for question in others for answer in question.answers])
    ]
    made = [
        free_running(subject, some, room, config.batch_tokens, counter) for some, room in zip((prompts, kept), rooms[::-1], strict=True)
    ]
    return Answers(told, *made)


def pairs_of_facts(facts: Sequence[Fact]) -> list[Pair]:
    """Everything that is an answer, after the prompt that it answers."""
    own = [(fact.text, target) for fact in facts for target in (fact.target_new, fact.target_true) if target is not None]
    return own + [(probe.prompt, answer) for fact in facts for probe in fact.probes() for answer in probe.answers]


def write_about(subject: Subject, facts: Sequence[Fact], config: EvaluateEditsConfig) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Sampled text after the facts' generation prompts, by fact, and its mean entropy."""
    chosen = [fact for fact in facts if fact.generation_prompts][: config.fluency_facts]
    if not chosen:
        return {}, {}

    def sampling(batch: Sequence[str]) -> LogitsProcessorList:
        return LogitsProcessorList([TopKSampling(batch, config.seed)])

    prompts = [prompt for fact in chosen for prompt in fact.generation_prompts]
    made = free_running(subject, prompts, config.fluency_tokens, config.batch_tokens, processors=sampling)
    entropies = [fluency_entropy(prompt + text) for prompt, text in made.items()]
    texts = {fact.id: [made[prompt] for prompt in fact.generation_prompts] for fact in chosen}
    return texts, {"fluency_entropy": sum(entropies) / len(entropies)}


def mean_consistency(texts: Mapping[str, Sequence[str]], facts: Sequence[Fact], references: Input) -> float:
    """Over the facts that there are reference texts for: rows ``{"answer": …, "text": …}``, texts about subjects of that answer."""
    corpus: dict[str, list[str]] = {}
    for where, row in (row for path in sorted(references.path.rglob("*.jsonl")) for row in read_objects(path)):
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("answer", "text")):
            raise DataError(f'{where}: {row!r} is no reference text. Write {{"answer": …, "text": …}}.')
        corpus.setdefault(row["answer"], []).append(row["text"])
    every = [text for some in corpus.values() for text in some]
    found = [
        consistency(texts[fact.id], corpus[fact.target_new], every) for fact in facts if fact.id in texts and fact.target_new in corpus
    ]
    if not found:
        raise DataError("No reference text has the target of a fact as its answer. Give texts about subjects that have the new targets.")
    return sum(found) / len(found)
