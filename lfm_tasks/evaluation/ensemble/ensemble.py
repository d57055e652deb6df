"""The step *ensemble*: models that answer together, measured as *evaluate* measures one of them.

The report has the form of an evaluation, so that it is compared, selected and judged like one. An ensemble is no artifact: it goes
by a digest of its members and its method, and cannot be promoted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lfm_tasks.artifacts.hashing import sha256_bytes
from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.config import canonical_json
from lfm_tasks.errors import ConfigError
from lfm_tasks.evaluation.ensemble.combine import combine
from lfm_tasks.evaluation.ensemble.config import EnsembleConfig
from lfm_tasks.evaluation.ensemble.members import Member, ask, judge
from lfm_tasks.evaluation.ensemble.methods import EnsembleMethod
from lfm_tasks.evaluation.ensemble.scrutiny import render, scrutinise
from lfm_tasks.evaluation.evaluate import GENERAL, TASKS, Counter, Plan, make_plan
from lfm_tasks.evaluation.report import Findings, Skipped, write_report
from lfm_tasks.memory import peak_rss_bytes
from lfm_tasks.metrics.catalogue import metric_names
from lfm_tasks.models.prepared import read_rows
from lfm_tasks.step import Input, Outcome, StepContext, all_of


def run(config: EnsembleConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    began = time.process_time()
    method, options, sources = METHODS[config.method].function, config.method_config(), all_of(inputs, "models")
    check(config, method, len(sources))
    plan, skipped = plan_for(config, inputs, method)
    fitted_on: Plan = []
    if method.fitted:
        fitted_on = [(task, read_rows(inputs["dataset"].path, "validation", options.fit_samples)) for task, _ in plan]
    for task, rows in (*plan, *fitted_on):
        task.check(rows)
    counter, members = Counter(context, len(sources) * sum(len(rows) for _, rows in (*plan, *fitted_on))), []
    for source in sources:
        members.append(ask(source, inputs.get("head"), plan, fitted_on, config, counter))
        context.log(f"{source.reference} was asked in {members[-1].cpu_seconds:.1f} CPU seconds.")
    judged = judge(members, plan, config, options.per_token, context) if method.rescored else {}
    tables, learned = {}, {}
    for place, (task, rows) in enumerate(plan):
        answers, validation = [member.answers[place] for member in members], [member.validation[place] for member in members if fitted_on]
        tables[task.group(rows)], learned[task.group(rows)] = combine(method, options, answers, validation, judged)
    scrutiny = {"format": 1, "method": config.method, "options": options.cache_fields(), "learned": learned}
    scrutiny |= scrutinise(members, tables, plan[0][1].labels, config)
    name = digest(config, inputs, members)
    findings = Findings(
        config,
        name,
        f"{METHODS[config.method].title}: an ensemble of {len(members)}, with the digest `{name}`",
        dict(inputs),
        tables,
        labels=plan[0][1].labels,
        skipped=skipped,
        fresh=sorted({name for member in members for name in member.fresh}),
        asked={task.group(rows): len(rows) for task, rows in plan},
        section=render(scrutiny),
    )
    outcome = write_report(findings, context.workdir / "report")
    (outcome.outputs["report"].path / "ensemble.json").write_bytes(canonical_json(scrutiny) + b"\n")
    return replace(outcome, metrics=outcome.metrics | metrics(members, scrutiny, began), summary=outcome.summary | {"ensemble": scrutiny})


def check(config: EnsembleConfig, method: EnsembleMethod, models: int) -> None:
    """Raise :class:`ConfigError` for too few models, weights that are not theirs, and a split that the method is fitted on."""
    if models < method.least:
        raise ConfigError(f"{config.method} compares the answers of {method.least} models or more; {models} were given. Give more models.")
    if method.fitted and config.split == "validation":
        raise ConfigError(
            f"split: {config.method} is fitted on the validation split, where it would be measured on what it has seen. Use split=test, "
            "or a method that is not fitted."
        )
    if shares := getattr(config.method_config(), "shares", None):
        shares(models)


def plan_for(config: EnsembleConfig, inputs: Mapping[str, Input], method: EnsembleMethod) -> tuple[Plan, Skipped]:
    """The plan of *evaluate* as far as the method can combine it; general text is left out where it cannot, other tasks are refused."""
    plan, skipped = make_plan(config, inputs)
    if method.tokens is None and plan[-1][0] is GENERAL:
        plan = plan[:-1]
        skipped = {
            name: {"possible": False, "reason": f"{config.method} combines no next-token probabilities"} for name in metric_names("general")
        }
    known = METHODS[config.method].tasks
    for name, task in TASKS.items():
        if name not in known and any(asked is task for asked, _ in plan):
            others = [card.name for card in methods_of("ensemble") if name in card.tasks]
            raise ConfigError(
                f"method: {config.method} combines {' and '.join(known)}; the task here is {name}, which {', '.join(others)} can combine. "
                f"Choose another method, or set tasks."
            )
    return plan, skipped


def digest(config: EnsembleConfig, inputs: Mapping[str, Input], members: Sequence[Member]) -> str:
    """What the ensemble goes by: a hash of its members' contents and of how they are combined."""
    made_of = [{"sha256": one.source.sha256, "base": one.source.base and one.source.base.sha256} for one in members]
    head = inputs["head"].sha256 if "head" in inputs else None
    return sha256_bytes(
        canonical_json({"ensemble": made_of, "head": head, "method": config.method, "options": config.method_config().cache_fields()})
    )


def metrics(members: Sequence[Member], scrutiny: dict, began: float) -> dict[str, float]:
    """What the ensemble's answers cost, and what each member reaches alone: ``models.0/choice/accuracy``."""
    parameters = [member.parameters for member in members]
    found = {"parameters": float(sum(parameters)), "extra_parameters": float(sum(parameters) - max(parameters))}
    found |= {"cpu_seconds": time.process_time() - began, "peak_memory_bytes": float(peak_rss_bytes())}
    for place, (member, described) in enumerate(zip(members, scrutiny["members"], strict=True)):
        found[f"models.{place}/cpu_seconds"] = member.cpu_seconds
        found |= {f"models.{place}/{name}": entry["value"] for name, entry in described["metrics"].items()}
    for group, described in scrutiny["groups"].items():
        found |= {f"{group}/{name}": described[name] for name in ("disagreement", "any_right") if described.get(name) is not None}
    return found
