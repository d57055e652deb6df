"""The step *gate*: may the challenger take the champion's place? Promote, reject, or ask a person, with reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lfm_tasks.config import canonical_json
from lfm_tasks.errors import ConfigError, unknown_name
from lfm_tasks.metrics.primary import primary_metric
from lfm_tasks.promotion.comparison import Comparison, Role, compare
from lfm_tasks.promotion.config import GateConfig
from lfm_tasks.promotion.forest import forest_plot
from lfm_tasks.promotion.reports import Report, check_comparable, read_report
from lfm_tasks.step import Input, Outcome, Output, StepContext


@dataclass
class Decision:
    """Reasons by what they speak for. ``decide`` weighs them: one against outweighs all others, then one doubt."""

    against: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    support: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def outcome(self, ask_when_uncertain: bool) -> Literal["promote", "reject", "ask"]:
        if self.against:
            return "reject"
        if self.doubts:
            return "ask" if ask_when_uncertain else "reject"
        return "promote"

    @property
    def reasons(self) -> list[str]:
        return [*self.against, *self.doubts, *self.support, *self.notes]


def run(config: GateConfig, inputs: Mapping[str, Input], context: StepContext) -> Outcome:
    challenger, champion = read_report(inputs["challenger"]), read_report(inputs["champion"])
    check_comparable(challenger, champion)
    roles = assign_roles(config, champion)
    comparisons = [compare(name, role, challenger, champion, config) for name, role in roles.items()]
    decision = decide(config, comparisons, challenger, champion)
    outcome = decision.outcome(config.ask_when_uncertain)
    context.log(f"Decision: {outcome}. {' '.join(decision.reasons)}")
    return _write(config, outcome, decision.reasons, comparisons, challenger, champion, context.workdir / "decision")


def assign_roles(config: GateConfig, report: Report) -> dict[str, Role]:
    """The role of every measured metric, the primary one first. Raises :class:`ConfigError` for metrics that nobody measures."""
    measured = report.described["metrics"]
    primary = config.primary_metric
    if primary == "auto":
        primary = primary_metric(measured)
    elif primary not in measured:
        raise ConfigError(f"primary_metric: {unknown_name('metric', primary, measured)}")
    for name in config.must_not_regress:
        if name not in measured and name not in report.described["skipped"]:
            raise ConfigError(f"must_not_regress: {unknown_name('metric', name, measured)}")
    guards = [name for name in config.must_not_regress if name in measured and name != primary]
    roles: dict[str, Role] = {primary: "primary"} | dict.fromkeys(guards, "must_not_regress")
    return roles | {name: "shown" for name in measured if name not in roles}


def decide(config: GateConfig, comparisons: list[Comparison], challenger: Report, champion: Report) -> Decision:
    decision = Decision()
    if challenger.model_sha256 == champion.model_sha256:
        decision.against.append("The challenger is the champion: both are the same model, so there is nothing to promote.")
        return decision
    for comparison in comparisons:
        _weigh(decision, comparison)
    for name in config.must_not_regress:
        if skipped := champion.described["skipped"].get(name):
            sentence = f"{name} must not regress, but was not measured: {skipped['reason']}."
            (decision.doubts if skipped["possible"] else decision.notes).append(sentence)
    if champion.described["untrained_head"]:
        decision.notes.append("The champion's head was never trained, so it answers at the level of chance.")
    return decision


def _weigh(decision: Decision, found: Comparison) -> None:
    """Put what was found about a metric among the reasons that its verdict makes it."""
    margin = found.margin or 0.0
    asked = f" by more than {found.change(margin).lstrip('+')}" if margin else ""
    allowed = found.change(margin if not found.metric.higher_is_better else -margin)
    verdicts = {
        ("primary", "better"): (decision.support, f", an improvement{asked} that chance does not explain."),
        ("primary", "uncertain"): (decision.doubts, f": better, but these samples do not settle whether it is an improvement{asked}."),
        ("primary", "not better"): (decision.against, f": no improvement{asked}."),
        ("must_not_regress", "holds"): (decision.support, f", within the tolerated {allowed}."),
        ("must_not_regress", "uncertain"): (decision.doubts, f": these samples do not rule out a loss beyond the tolerated {allowed}."),
        ("must_not_regress", "regresses"): (decision.against, f": worse than the tolerated {allowed}."),
    }
    if found.role != "shown":
        reasons, ending = verdicts[found.role, str(found.verdict)]
        reasons.append(found.sentence() + ending)


def _write(
    config: GateConfig,
    outcome: str,
    reasons: list[str],
    comparisons: list[Comparison],
    challenger: Report,
    champion: Report,
    directory: Path,
) -> Outcome:
    (directory / "figures").mkdir(parents=True)
    metrics = {found.name: found.entry() for found in comparisons}
    described = {
        "format": 1,
        "outcome": outcome,
        "reasons": reasons,
        "metrics": metrics,
        "challenger": {"model_sha256": challenger.model_sha256, "report_sha256": challenger.sha256},
        "champion": {"model_sha256": champion.model_sha256, "report_sha256": champion.sha256},
        "dataset_sha256": champion.described["dataset_sha256"],
    }
    (directory / "decision.json").write_bytes(canonical_json(described) + b"\n")
    picture, page = directory / "figures" / "forest.png", directory / "report.md"
    forest_plot(outcome, comparisons, config.confidence_level).savefig(picture, metadata={"Software": None})
    page.write_text(_render(described, comparisons, config.confidence_level))
    table = [{"metric": name, **{key: metrics[name][key] for key in SUMMARY}} for name in metrics]
    return Outcome(
        outputs={"decision": Output("report", directory)},
        metrics={f"difference/{found.name}": found.difference for found in comparisons},
        summary={"outcome": outcome, "reasons": reasons, "table": table},
        figures=(page, picture),
    )


SUMMARY = ("role", "champion", "challenger", "difference", "low", "high", "margin", "verdict")


def _render(described: dict[str, Any], comparisons: list[Comparison], level: float) -> str:
    """``report.md``."""
    lines = [f"# Decision: {described['outcome']}", "", *[f"- {reason}" for reason in described["reasons"]], ""]
    lines += [f"Challenger `sha256:{described['challenger']['model_sha256']}`", ""]
    lines += [f"Champion `sha256:{described['champion']['model_sha256']}`", ""]
    lines += [
        f"| metric | role | champion | challenger | change | {level:.0%} interval | p | verdict |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    for found in comparisons:
        interval = f"{found.change(found.low)} to {found.change(found.high)}"
        role = found.role.replace("_", " ")
        lines.append(
            f"| {found.name} | {role} | {found.shown(found.champion)} | {found.shown(found.challenger)} | {found.change(found.difference)} "
            f"| {interval} | {found.p:.2g} | {found.verdict or ''} |"
        )
    return "\n".join([*lines, "", "![differences](figures/forest.png)", ""])
