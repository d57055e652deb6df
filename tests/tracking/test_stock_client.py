"""A client with nothing of ours installed loads our registered models through a real MLflow server."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from transformers import AutoModelForCausalLM

from lfm_tasks.artifacts.hashing import sha256_file
from lfm_tasks.artifacts.store import Store
from lfm_tasks.models.saving import save_model
from lfm_tasks.settings import Settings
from lfm_tasks.step import Input
from lfm_tasks.tracking.tracker import Tracker
from tests.toys import make_llama, make_tokenizer
from tests.tracking.tracking_records import make_record

CLIENT = """
import sys
import mlflow
from transformers import AutoModelForCausalLM, AutoTokenizer

try:
    import lfm_tasks
except ImportError:
    pass
else:
    raise SystemExit("lfm_tasks can be imported: this is no stock client")
mlflow.set_tracking_uri(sys.argv[1])
uri = "models:/toy@champion"
pipeline = mlflow.transformers.load_model(uri)
print("TRANSFORMERS", type(pipeline).__name__)
print("PYFUNC", len(mlflow.pyfunc.load_model(uri).predict(["the cat"])))
directory = mlflow.artifacts.download_artifacts(uri)
model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True)
tokens = AutoTokenizer.from_pretrained(directory, local_files_only=True)("the cat", return_tensors="pt")
print("LOGITS", float(model(**tokens).logits.sum()))
"""


def promote_toy(settings: Settings, tmp_path: Path) -> tuple[str, Store, float]:
    """Commit a toy model, log its record and promote it; returns its address, the store and the sum of its logits."""
    tokenizer = make_tokenizer(tmp_path / "plain")
    model = make_llama(tmp_path / "plain").eval()
    save_model(model, tokenizer, tmp_path / "model")
    store = Store.open(settings.store)
    artifact = store.commit(tmp_path / "model", "model")
    tracker = Tracker.open(settings, store)
    record = make_record("tune", {}, {"model": artifact})
    tracker.log_record(store.put_record(record), record)
    given = Input(f"sha256:{artifact.sha256}", "model", artifact.sha256, tmp_path / "model")
    tracker.registry.promote("toy", "champion", given, None, "first", "d" * 64)
    return artifact.sha256, store, model(**tokenizer("the cat", return_tensors="pt")).logits.sum().item()


def load_as_a_stranger(uri: str, cwd: Path) -> dict[str, str]:
    """Run CLIENT in another directory; its lines as a dict. Without ``site`` no ``.pth`` file puts our checkout on the path."""
    hidden = {"PYTHONPATH", "MLFLOW_TRACKING_URI"}
    environment = {k: v for k, v in os.environ.items() if k not in hidden and not k.startswith("LFM_")} | {"HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = sysconfig.get_path("purelib")
    done = subprocess.run([sys.executable, "-S", "-c", CLIENT, uri], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if line[:1].isupper() and " " in line)


@pytest.mark.live
@pytest.mark.slow
def test_a_stock_client_predicts_over_http_and_no_byte_was_copied(server: tuple[str, Path], tmp_path: Path) -> None:
    address, root = server
    settings = Settings(home=tmp_path, store_uri=f"file://{root}", mlflow_uri=address)
    sha256, store, logits = promote_toy(settings, tmp_path)
    (tmp_path / "elsewhere").mkdir()
    said = load_as_a_stranger(address, tmp_path / "elsewhere")
    assert said["TRANSFORMERS"] == "TextGenerationPipeline"
    assert said["PYFUNC"] == "1"
    assert float(said["LOGITS"]) == pytest.approx(logits, rel=1e-5)
    version = MlflowClient(address).get_model_version_by_alias("toy", "champion")
    exposed = root / "mlflow" / version.source.removeprefix("mlflow-artifacts:/")
    assert (exposed / "model.safetensors").samefile(root / "artifacts" / "model" / sha256 / "model.safetensors")
    store.verify(store.find(sha256))


def test_without_a_server_a_client_of_the_database_finds_the_same_files(settings: Settings, tmp_path: Path) -> None:
    sha256, _, _ = promote_toy(settings, tmp_path)
    mlflow.set_tracking_uri(settings.tracking_uri)
    directory = Path(mlflow.artifacts.download_artifacts("models:/toy@champion"))
    assert sha256_file(directory / "manifest.json") == sha256
    assert AutoModelForCausalLM.from_pretrained(directory, local_files_only=True).config.hidden_size == 32


@pytest.mark.live
def test_a_model_without_a_maker_is_registered_too(server: tuple[str, Path], tmp_path: Path) -> None:
    address, root = server
    tracker = Tracker.open(Settings(home=tmp_path, store_uri=f"file://{root}", mlflow_uri=address), store := Store.open(f"file://{root}"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    artifact = store.commit(tmp_path / "model", "model")
    given = Input(f"sha256:{artifact.sha256}", "model", artifact.sha256, tmp_path / "model")
    assert tracker.registry.promote("orphan", "champion", given, None, "", "d" * 64).version == "1"
