"""``lfm run``, ``lfm run-job`` and ``lfm methods``: steps and methods."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lfm_tasks.catalogue import METHODS
from lfm_tasks.config import MAX_CONFIG_BYTES, parse_config
from lfm_tasks.errors import AttemptKilled, ConfigError, LfmError
from lfm_tasks.form import config_values, form_fields
from lfm_tasks.importing import undisturbed_imports
from lfm_tasks.registry import Card, Step
from lfm_tasks.runner.job import Job, JobError, JobResult, numbered_inputs
from lfm_tasks.settings import settings
from lfm_tasks.steps import STEPS

MAX_JOB_BYTES = 4 * MAX_CONFIG_BYTES


def register(commands: Any) -> None:
    run = commands.add_parser("run", help="run one step; its options come from its config")
    steps = run.add_subparsers(dest="step", required=True, metavar="STEP")
    for step in STEPS:
        _register_step(steps, step)

    job = commands.add_parser("run-job", help="run the job in a JSON file (what operators call)")
    job.add_argument("job", type=Path, metavar="JOB.json")
    job.add_argument("--result", type=Path, help="write the result here; default: standard output")
    job.add_argument("--opened", type=Path, help="write the MLflow run here as soon as the attempt is open")
    job.add_argument("--parent-pid", type=int, help="stop when this process has ended")
    job.set_defaults(call=_run_job)

    methods = commands.add_parser("methods", help="the catalogue of methods")
    methods.add_argument("--json", action="store_true")
    methods.add_argument("--markdown", action="store_true", help="as the table of the README")
    methods.set_defaults(call=_methods)


def _register_step(steps: Any, step: Step) -> None:
    parser = steps.add_parser(step.name, help=step.title, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name, spec in step.inputs.items():
        count = {"nargs": "+"} if spec.many else {}
        parser.add_argument(f"--{name}", required=spec.required, metavar="REFERENCE", help=spec.description, dest=f"input:{name}", **count)
    for name, schema in form_fields(step, "").items():
        _add_option(parser, name.removeprefix("_"), schema)
    parser.add_argument("--no-cache", action="store_true", help="do the work even where the step cache has the answer")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(call=_run)


def _add_option(parser: argparse.ArgumentParser, name: str, schema: dict[str, Any]) -> None:
    types = schema.get("type", "string")
    kinds = {types} if isinstance(types, str) else set(types)
    options: dict[str, Any] = {"dest": f"field:{name}", "default": schema.get("default")}
    options["help"] = schema["description"].replace("%", "%%")
    if kinds & {"object", "array"}:
        options |= {"type": json.loads, "metavar": "JSON"}
    elif "boolean" in kinds:
        options |= {"action": argparse.BooleanOptionalAction}
    else:
        options |= {"type": int if "integer" in kinds else float if "number" in kinds else str, "metavar": "VALUE"}
        if "enum" in schema:
            options["choices"] = [value for value in schema["enum"] if value is not None]
    parser.add_argument(f"--{name.replace('_', '-')}", **options)


def _run(options: argparse.Namespace) -> int:
    given = vars(options)
    step = STEPS[options.step]
    fields = {f"_{name.removeprefix('field:')}": value for name, value in given.items() if name.startswith("field:")}
    inputs = numbered_inputs({name.removeprefix("input:"): value for name, value in given.items() if name.startswith("input:") and value})
    job = Job(step=step.name, config=config_values(step, "", fields), inputs=inputs, use_cache=not options.no_cache)
    result = run_here(job)
    if options.json:
        print(result.model_dump_json(indent=2))
    else:
        _print_result(result)
    return 0


def run_here(job: Job) -> JobResult:
    """Run ``job`` in this process, which a signal stops in an orderly way; what it says on the way goes to standard error."""
    from lfm_tasks.runner.run import run_job
    from lfm_tasks.runner.stopping import StopSignal

    stop = StopSignal()
    stop.install()
    with redirect_stdout(sys.stderr):
        return run_job(job, settings(), stop)


def _print_result(result: JobResult) -> None:
    print(f"cache: {result.cache}   record: {result.record}")
    for name, reference in result.outputs.items():
        print(f"{name}: {reference}")
    for name, value in result.metrics.items():
        print(f"  {name:<32} {value:.6g}")


def _run_job(options: argparse.Namespace) -> int:
    """Run a job file. The result, success or not, is one JSON document; the exit code is the error's."""
    from lfm_tasks.runner import ranks
    from lfm_tasks.runner.stopping import StopSignal

    stop = StopSignal()
    stop.install(options.parent_pid)
    if ranks.is_follower():
        return ranks.follow()
    with undisturbed_imports():
        from lfm_tasks.runner.run import error_result, run_job
    opened: dict[str, str] = {}

    def remember(run_id: str, url: str) -> None:
        opened.update(run_id=run_id, run_url=url)
        if options.opened:
            _write_whole(options.opened, json.dumps(opened))

    try:
        with ranks.leading(), nullcontext() if options.result else redirect_stdout(sys.stderr):
            result, code = run_job(_read_job(options.job), settings(), stop, remember), 0
    except LfmError as error:
        state = "killed" if isinstance(error, AttemptKilled) else "failed"
        result, code = JobResult(state=state, error=JobError(**error_result(error)), **opened), error.exit_code
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    except Exception as error:
        import traceback

        traceback.print_exc()
        result, code = JobResult(state="failed", error=JobError(**error_result(error)), **opened), 1
    if options.result:
        _write_whole(options.result, result.model_dump_json())
    else:
        print(result.model_dump_json(indent=2))
    gc.freeze()  # The process ends now: looking for garbage in all that was imported takes up to a second.
    return code


def _read_job(path: Path) -> Job:
    size = path.stat().st_size
    if size > MAX_JOB_BYTES:
        raise ConfigError(f"The job file is {size:,} bytes; at most {MAX_JOB_BYTES:,} are accepted.")
    try:
        return parse_config(Job, json.loads(path.read_text()), where="job")
    except json.JSONDecodeError as error:
        raise ConfigError(f"The job file {path.name} is not JSON: {error}.") from None


def _write_whole(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text)
    temporary.replace(path)


def _methods(options: argparse.Namespace) -> int:
    cards = list(METHODS)
    if options.json:
        print(json.dumps([asdict(card) for card in cards], indent=2))
        return 0
    if options.markdown:
        print("\n".join(markdown_rows(cards)))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("Method", "Area", "Title", "Paper", "Access", "Cost", box=None, pad_edge=False)
    for card in cards:
        table.add_row(card.name, card.area, card.title, card.paper, card.asks_for, card.cost)
    Console().print(table)
    return 0


def markdown_rows(cards: list[Card]) -> list[str]:
    """A Markdown table of the cards."""
    rows = [f"| `{card.name}` | {card.area} | {card.title} | {card.paper} | {card.asks_for} | {card.cost} |" for card in cards]
    return ["| method | area | title | paper | access | cost |", "|---|---|---|---|---|---|", *rows]
