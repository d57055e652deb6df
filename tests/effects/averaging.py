"""What the average of a training's last checkpoints gives beside its last one: MiniLM, over three seeds of the training.

A falling learning rate averages by itself, so both a constant and a linear schedule are measured.
"""

from __future__ import annotations

from steps import SEEDS, run, spread, write

from lfm_tasks.stack import demo_merge

BASE = f"starter://{demo_merge.BASE}"
DATA = "starter://tweets"
PREPARE = {name.removeprefix("prepare_"): value for name, value in demo_merge.PREPARE.items()}
TUNE = {name.removeprefix("tune_"): value for name, value in demo_merge.TUNE.items()} | {"keep_last": 5, "keep_every": 20}
AVERAGES = {
    "average of 3 (LAWA)": {"last": 3},
    "average of 5 (LAWA)": {},
    "average of 5 (EMA, decay 0.5)": {"window": "exponential", "decay": 0.5},
}


def main() -> None:
    data = run("prepare", {"data": DATA, "model": BASE}, **PREPARE).outputs["dataset"]
    found = {}
    for schedule in ("constant", "linear"):
        for seed in SEEDS:
            tuned = run("tune", {"model": BASE, "dataset": data}, **TUNE, schedule=schedule, seed=seed).outputs
            models = {"last checkpoint": tuned["model"]}
            kept = [tuned[f"checkpoints.{place}"] for place in range(TUNE["keep_last"])]
            for name, options in AVERAGES.items():
                models[name] = run("merge", {"models": kept}, method="lawa", options=options).outputs["model"]
            for name, model in models.items():
                metrics = run("evaluate", {"model": model, "dataset": data}).metrics
                found.setdefault((schedule, name), []).append(metrics["classification/accuracy"])
    rows = ["| schedule | model | accuracy (3 seeds) |", "|---|---|---:|"]
    rows += [f"| {schedule} | {name} | {spread(values)} |" for (schedule, name), values in found.items()]
    write("averaging", {f"{schedule}, {name}": values for (schedule, name), values in found.items()}, "\n".join(rows))


if __name__ == "__main__":
    main()
