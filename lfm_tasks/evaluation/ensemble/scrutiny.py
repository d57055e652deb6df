"""What a sceptic asks of an ensemble: how good is each member alone, do they differ, and is all of them better than the best?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

from lfm_tasks.evaluation.config import EvaluateConfig
from lfm_tasks.evaluation.ensemble.members import Member
from lfm_tasks.metrics.binomial import mcnemar
from lfm_tasks.metrics.bootstrap import estimate
from lfm_tasks.metrics.catalogue import build_metric, metric_names
from lfm_tasks.metrics.primary import primary_metric
from lfm_tasks.metrics.samples import metric_columns
from lfm_tasks.seeds import derive_seed


def scrutinise(members: Sequence[Member], tables: dict[str, pa.Table], labels: list[str], config: EvaluateConfig) -> dict[str, Any]:
    """``members``: each one's parameters and first metric of every group; ``groups``: what their predictions have in common."""
    alone = [[answers.table() for answers in member.answers] for member in members]
    described = [
        {
            "sha256": member.source.sha256,
            "parameters": member.parameters,
            "metrics": dict(_measured(group, table, labels, config) for group, table in zip(tables, own, strict=True)),
        }
        for member, own in zip(members, alone, strict=True)
    ]
    groups = {group: _together(table, [own[k] for own in alone]) for k, (group, table) in enumerate(tables.items())}
    return {"members": described, "groups": groups}


def _measured(group: str, table: pa.Table, labels: list[str], config: EvaluateConfig) -> tuple[str, dict[str, Any]]:
    name = primary_metric(metric_names(group))
    metric = build_metric(name, classes=len(labels), bins=config.calibration_bins)
    options = {"level": config.confidence_level, "resamples": config.bootstrap_samples, "seed": derive_seed(config.seed, "bootstrap", name)}
    found = estimate(metric, metric_columns(table, labels), **options)
    return name, {"value": found.value, "low": found.low, "high": found.high, "n": found.n}


def _together(table: pa.Table, alone: Sequence[pa.Table]) -> dict[str, Any]:
    """Empty where nothing is predicted.

    ``disagreement``: share of samples on which two members differ, mean over the pairs; ``any_right``: on which at least one is right;
    ``agreement``: on which each member says what the ensemble says; ``against_best``: McNemar's test against the best member, which
    was chosen on these very samples, to the ensemble's disadvantage.
    """
    if table["prediction"].null_count:
        return {}
    said, right = np.array([one["prediction"].to_pylist() for one in alone]), np.array([one["correct"].to_numpy() for one in alone])
    pairs = list(combinations(range(len(alone)), 2))
    best = int(right.mean(axis=1).argmax())
    found = mcnemar(table["correct"].to_numpy(), right[best])
    return {
        "disagreement": float(np.mean([(said[i] != said[j]).mean() for i, j in pairs])) if pairs else None,
        "any_right": float(right.any(axis=0).mean()),
        "agreement": [float(share) for share in (said == np.array(table["prediction"].to_pylist())).mean(axis=1)],
        "against_best": {"member": best, "gained": found.gained, "lost": found.lost, "exact_p": found.exact_p},
    }


def render(scrutiny: dict[str, Any]) -> tuple[str, ...]:
    """The section of ``report.md``."""
    groups, members = scrutiny["groups"], scrutiny["members"]
    names = list(members[0]["metrics"])
    heads = [*(f"{name} alone" for name in names), *(f"{group}: as the ensemble" for group, found in groups.items() if found)]
    lines = ["## Members", "", f"| model | parameters | {' | '.join(heads)} |", "|---|---:" + "|---:" * len(heads) + "|"]
    for place, member in enumerate(members):
        values = [f"{e['value']:.4g} ({e['low']:.4g} – {e['high']:.4g})" for e in member["metrics"].values()]
        values += [f"{found['agreement'][place]:.1%}" for found in groups.values() if found]
        lines.append(f"| `{member['sha256'][:12]}` | {member['parameters']:,} | {' | '.join(values)} |")
    lines += ["", f"All answer, so {sum(member['parameters'] for member in members):,} parameters are in use.", ""]
    for group, found in groups.items():
        lines += _sentences(group, found, members) if found else []
    lines += [f"- {group}: fitted on validation: {_learned(values)}." for group, values in scrutiny["learned"].items() if values]
    return (*lines, "")


def _sentences(group: str, found: dict[str, Any], members: list[dict[str, Any]]) -> list[str]:
    rival = found["against_best"]
    lines = [f"- {group}: on {found['any_right']:.1%} of the samples at least one member is right."]
    if found["disagreement"] is not None:
        lines.append(f"- {group}: two members differ on {found['disagreement']:.1%} of the samples, the mean over all pairs.")
    lines.append(
        f"- {group}: against the best member, `{members[rival['member']]['sha256'][:12]}`, {rival['gained']:,} samples are gained and "
        f"{rival['lost']:,} lost (McNemar's exact p = {rival['exact_p']:.2g})."
    )
    return lines


def _learned(values: dict[str, Any]) -> str:
    shown = {name: [f"{one:.3g}" for one in value] if isinstance(value, list) else [f"{value:.4g}"] for name, value in values.items()}
    return "; ".join(f"{name.replace('_', ' ')} {', '.join(texts)}" for name, texts in shown.items())
