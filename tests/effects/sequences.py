"""Capitals and languages taught to SmolLM2 one after another, 1, 10 and 100 of them, with the guards and without; three seeds.

Each edit is a round of its own on what the one before left. *kept* is the share of the facts asked for that the model says by itself
at the end, *left out* the share that the guards put into quarantine.
``python tests/effects/sequences.py rome --lengths 10 --seeds 0`` is a small one.
"""

from __future__ import annotations

import argparse
import json

from editing import MODEL, ROWS, asked, chosen, directory, figures, imported, prepared, read_facts
from steps import SEEDS, run, spread, write

from lfm_tasks.stack import demo_edit

LENGTHS = (1, 10, 100)
METHODS = ("rome", "memit")
PERPLEXITY_ROWS = 4
"""Of 256 tokens at the most, that the guards read after each round."""
COLUMNS = ("kept", "left out", "neighbourhood", "perplexity", "cpu_seconds")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("methods", nargs="*", default=METHODS)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    general = prepared(demo_edit.GENERAL, 1.0)
    moments = run("statistics", {"model": MODEL, "dataset": prepared(demo_edit.CORPUS, 0.0)}, method="key_moments", max_rows=ROWS)
    typed = run("import_facts", {"data": f"starter://{demo_edit.FACTS}"}).outputs["dataset"]
    known = run("evaluate_edits", {"model": MODEL, "facts": typed}, mode="known").outputs["known"]
    facts = read_facts(directory(known, "dataset"))
    found: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        for length in options.lengths:
            data = imported(chosen(facts, length, seed))
            for method in options.methods:
                for guard in ("off", "fail"):
                    given = {"model": MODEL, "facts": data, "statistics": moments.outputs["statistics"], "general": general}
                    values = {"method": method, "round_size": 1, "seed": seed, "guard": guard}
                    result = one(given, general, values | {"guards": {"perplexity_rows": PERPLEXITY_ROWS}}, length)
                    name = f"{method}, {length}, guards {guard}"
                    found.setdefault(name, []).append(result)
                    print(f"seed {seed}, {name}: {json.dumps(result)}", flush=True)
    write("sequences", {"seeds": list(options.seeds), "runs": found}, table(found))


def one(given: dict[str, str], general: str, values: dict, length: int) -> dict[str, float]:
    edited = run("edit", given, **values)
    report = figures(run("evaluate_edits", asked(edited.outputs["adapter"], given["facts"], general)).metrics)
    left_out = edited.metrics["facts_quarantined"]
    return {
        "kept": report["says it"],
        "left out": left_out / length,
        "neighbourhood": report["neighbourhood"],
        "perplexity": report["perplexity"],
        "cpu_seconds": edited.metrics["cpu_seconds"],
    }


def table(found: dict[str, list[dict[str, float]]]) -> str:
    rows = [f"| sequence | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * len(COLUMNS)]
    rows += [f"| {name} | {' | '.join(spread([one[column] for one in runs]) for column in COLUMNS)} |" for name, runs in found.items()]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
