"""What a person may get wrong, through the whole runner: refused with its message, the attempt says so, and nothing is made of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from peft import LoraConfig, get_peft_model

from lfm_tasks.artifacts.store import Store
from lfm_tasks.cli import main
from lfm_tasks.errors import ConfigError, DataError, IncompatibleModels, IntegrityError, LfmError, ReferenceRefused, UnsafeModel
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.models.saving import save_adapter
from lfm_tasks.runner.job import Job
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings
from lfm_tasks.step import Input
from tests.artifacts.media import tree
from tests.prepared import write_instructions
from tests.toys import make_llama

GOOD = [{"text": f"number {n} is about {word}", "label": word} for n in range(40) for word in ("sport", "tech")]
DATA = {"data": "{place}/rows.jsonl", "model": "{place}/model"}


@dataclass(frozen=True)
class Case:
    error: type[LfmError]
    message: str
    step: str = "prepare"
    inputs: dict[str, str] = field(default_factory=lambda: DATA)
    config: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    """Written below the place, where ``model`` and ``rows.jsonl`` are."""


def rows(*some: dict[str, str]) -> dict[str, bytes]:
    return {"rows.jsonl": "".join(json.dumps(row) + "\n" for row in some).encode()}


def config(step: str, error: str, **values: Any) -> Case:
    return Case(ConfigError, error, step, {}, values)


def reference(text: str, message: str) -> Case:
    return Case(ReferenceRefused, message, inputs=DATA | {"data": text})


FORM = "is not a reference. Use one of sha256:"
PLACE = "is outside the allowed prefixes"
WAY_OUT = "holds '..', escapes, blanks or control characters. Write the plain path"
CASES = {
    "unknown method": config("tune", r"Unknown method 'lorra'. Did you mean 'lora'\? Allowed: ", method="lorra"),
    "unknown option": config("tune", "Unknown option 'rnk'. Did you mean 'rank'", options={"rnk": 8}),
    "out of bounds": config("prepare", "max_length: Input should be greater than or equal to 8. Got 3", max_length=3),
    "rank 10^9": config("tune", "rank: Input should be less than or equal to 1024. Got 1000000000", options={"rank": 10**9}),
    "config of 2 MB": config("prepare", "config of step prepare is 2,000,0.. bytes; at most 65,536", system_prompt="x" * 2_000_000),
    "model name": config("promote", r"model_name: .*match pattern '\^\[a-z0-9\].*Got '\.\./\.\./x'", model_name="../../x"),
    "template in a prompt": config("prepare", "template code is not run. Write {column}", prompt_template="{{ config }} {text}"),
    "template in a column": config("prepare", "text_column: ", text_column="{{ 7*7 }}"),
    "template in a reference": reference("{{ var.value.secret }}", FORM),
    "../": reference("{place}/../secret.jsonl", WAY_OUT),
    "relative ../": reference("../secret.jsonl", FORM),
    "/etc/passwd": reference("file:///etc/passwd", PLACE),
    "other bucket": reference("s3://other/rows.jsonl", PLACE),
    "http://": reference("http://example.org/rows.jsonl", FORM),
    "missing column": Case(DataError, "no column 'label'", files=rows({"text": "x", "topic": "y"})),
    "empty data set": Case(DataError, "holds no rows|no rows", files={"rows.jsonl": b""}),
    "one class": Case(
        DataError, "All rows have the label 'x'; at least two", files=rows(*({"text": f"{n}", "label": "x"} for n in range(40)))
    ),
    "not UTF-8": Case(DataError, "UTF-8", files={"rows.jsonl": b'{"text": "caf\xe9", "label": "x"}\n'}),
    "duplicates across splits": Case(
        DataError,
        "1 rows lie in two splits.*Remove them, or set leakage to 'drop'",
        config={"split_by": "column"},
        files=rows(
            *(row | {"split": "train"} for row in GOOD), GOOD[0] | {"split": "test", "text": GOOD[0]["text"].upper(), "label": "tech"}
        ),
    ),
    "auto_map": Case(
        UnsafeModel, "has the key 'auto_map', which names code", files={"model/processor_config.json": b'{"auto_map": {"x": "y.Z"}}'}
    ),
    "*.py": Case(UnsafeModel, "modeling.py is program code.*Remove it", files={"model/modeling.py": b""}),
    "pickle": Case(UnsafeModel, "Convert the weights to safetensors", files={"model/pytorch_model.bin": b"\x80\x04."}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("toy") / "model"
    make_llama(directory)
    return directory


@pytest.fixture
def place(tmp_path, model) -> Path:
    """A folder that references may read, with a model and good rows."""
    files = {f"model/{path.name}": path.read_bytes() for path in model.iterdir()}
    tree(tmp_path, {"secret.jsonl": b"{}"})
    return tree(tmp_path / "place", files | rows(*GOOD))


@pytest.fixture
def settings(home, place) -> Settings:
    return Settings(home=home, allowed_prefixes=f"file://{place},s3://bucket/data")


def refused(error: type[LfmError], message: str, job: Job, settings: Settings) -> None:
    with pytest.raises(error, match=re.compile(message, re.S)) as caught:
        run_job(job, settings, StopSignal())
    assert type(caught.value) is error and not caught.value.retryable
    assert not list(Store.open(settings.store).records()) and not list(Store.open(settings.store).backend.list("cache/"))
    client = MlflowClient(settings.tracking_uri)
    for run in client.search_runs([one.experiment_id for one in client.search_experiments()]):
        assert run.info.status == "FAILED" and run.data.tags["lfm.error"].startswith(f"{error.__name__}: {str(caught.value)[:200]}")


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_with_its_message(settings, place, name):
    case = CASES[name]
    tree(place, case.files)
    inputs = {key: text.replace("{place}", f"file://{place}") for key, text in case.inputs.items()}
    refused(case.error, case.message, Job(step=case.step, config=case.config, inputs=inputs), settings)


def test_good_input_passes(settings, place):
    """What every case changes one thing of."""
    inputs = {key: text.replace("{place}", f"file://{place}") for key, text in DATA.items()}
    assert run_job(Job(step="prepare", inputs=inputs), settings, StopSignal()).summary["rows"]["train"] > 20


def evaluate(settings: Settings, model: str, data: Path) -> Job:
    dataset = Store.open(settings.store).commit(data, "dataset")
    return Job(step="evaluate", config={"bootstrap_samples": 100}, inputs={"model": model, "dataset": f"sha256:{dataset.sha256}"})


def test_a_data_set_of_another_vocabulary_is_refused(settings, place, tmp_path):
    make_llama(tmp_path / "other", vocabulary=300)
    data = write_instructions(tmp_path / "data", tmp_path / "other")
    refused(IncompatibleModels, "was prepared with the tokenizer [0-9a-f]+", evaluate(settings, f"file://{place}/model", data), settings)


@pytest.mark.parametrize(
    ("base", "error", "message"),
    [
        (
            "another model",
            IncompatibleModels,
            "does not fit its base sha256:[0-9a-f]{64}: size mismatch .*Use the base that it was made from",
        ),
        (
            "a model that is gone",
            IntegrityError,
            "The base sha256:f{64} of adapter sha256:[0-9a-f]{64} is not in the store. Import it again.",
        ),
        ("nothing", IncompatibleModels, "Adapter sha256:[0-9a-f]{64} does not name its base. Import it together with its base model."),
    ],
)
def test_an_adapter_on_the_wrong_base_is_refused(settings, model, tmp_path, base, error, message):
    store = Store.open(settings.store)
    make_llama(tmp_path / "wider", hidden=64)
    wider = store.commit(tmp_path / "wider", "model")
    adapted = get_peft_model(open_causal_lm(Input("m", "model", "", model)), LoraConfig(r=2, target_modules="all-linear"))
    named = "f" * 64 if base == "a model that is gone" else wider.sha256
    save_adapter(adapted, tmp_path / "adapter", method="lora", base_sha256=named, task="causal_lm")
    if base == "nothing":
        (tmp_path / "adapter" / "lfm_adapter.json").unlink()
    adapter = store.commit(tmp_path / "adapter", "adapter")
    data = write_instructions(tmp_path / "data", model)
    refused(error, message, evaluate(settings, f"sha256:{adapter.sha256}", data), settings)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (
            b'{"step": "prepare", "config": {"system_prompt": "' + b"x" * 2_000_000 + b'"}}',
            "The job file is 2,000,0.. bytes; at most 262,144",
        ),
        (b'{"step": "prepare", ', "The job file job.json is not JSON: "),
        (b'{"step": "prepare", "inptus": {}}', "job: Unknown option 'inptus'. Did you mean 'inputs'"),
        (b'{"step": "prepare", "config": {"seed": NaN}}', "seed: "),
    ],
    ids=["2 MB", "no JSON", "unknown key", "NaN"],
)
def test_a_bad_job_file_ends_with_status_2_and_its_message(home, tmp_path, monkeypatch, job, message):
    monkeypatch.setattr("lfm_tasks.runner.stopping.StopSignal.install", lambda *_: None)
    (tmp_path / "job.json").write_bytes(job)
    assert main(["run-job", str(tmp_path / "job.json"), "--result", str(tmp_path / "result.json")]) == 2
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["state"] == "failed" and re.search(message, result["error"]["message"])
