"""Merges whose inputs stay in a real S3 store: the same bytes as from local files, no weights on disk, nothing damaged committed."""

from __future__ import annotations

import itertools
import json
import secrets
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lfm_tasks.artifacts.file_backend import FileBackend
from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import AttemptKilled, IntegrityError
from lfm_tasks.runner.job import Job
from lfm_tasks.runner.run import run_job
from lfm_tasks.runner.stopping import StopSignal
from lfm_tasks.settings import Settings, settings
from lfm_tasks.step import Input
from lfm_tasks.steps import STEPS
from tests.artifacts.media import BUCKET, client
from tests.loras import make_lora
from tests.s3_proxy import Proxy, proxy_of
from tests.toys import make_llama

SPAN = 16 << 10


@pytest.fixture(scope="module", params=["one file", "shards"])
def models(request, tmp_path_factory) -> list[Path]:
    """A base and two fine-tunings of it, in bf16 but for the norms, which safetensors puts before the others."""
    root = tmp_path_factory.mktemp("models")
    make_llama(root / "base", hidden=64)
    found = [root / name for name in ("base", "one", "two")]
    for number, directory in enumerate(found):
        if number:
            shutil.copytree(found[0], directory)
    weights = load_file(found[0] / "model.safetensors")
    for number, directory in enumerate(found):
        generator = torch.Generator().manual_seed(number)
        moved = {name: tensor + 0.05 * number * torch.randn(tensor.shape, generator=generator) for name, tensor in weights.items()}
        _write(directory, {name: tensor if "norm" in name else tensor.bfloat16() for name, tensor in moved.items()}, request.param)
    return found


def _write(directory: Path, tensors: dict[str, torch.Tensor], layout: str) -> None:
    if layout == "one file":
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        return
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {name: f"model-{1 + place * 3 // len(names):05}-of-00003.safetensors" for place, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, directory / file, {"format": "pt"})
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


one_file = pytest.mark.parametrize("models", ["one file"], indirect=True)


@pytest.fixture
def proxy(swift):
    with proxy_of(swift) as proxy:
        yield proxy


@pytest.fixture
def store(swift, proxy, home, monkeypatch) -> Store:
    """The settings' store, in a bucket that is reached through ``proxy``."""
    monkeypatch.setattr("lfm_tasks.reuse.ranged.SPAN", SPAN)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", swift.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", swift.secret_key)
    monkeypatch.setenv("LFM_S3_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setenv("LFM_STORE_URI", f"s3://{BUCKET}/{secrets.token_hex(6)}")
    settings.cache_clear()
    return Store.open(settings().store)


def inputs_of(store: Store, models: list[Path], base: bool = True) -> dict[str, str]:
    addresses = [f"sha256:{store.commit(directory, 'model').sha256}" for directory in models]
    named = {"base": addresses[0]} if base else {}
    return named | {f"models.{place}": address for place, address in enumerate(addresses[1:] if base else addresses)}


def run(step: str, inputs: dict[str, str], stop: StopSignal | None = None, config: Settings | None = None, **values):
    return run_job(Job(step=step, config=values, inputs=inputs), config or settings(), StopSignal() if stop is None else stop)


def locally(step: str, models: list[Path], home: Path, base: bool = True, **values) -> dict[str, str]:
    """What comes out where the store is a directory."""
    here = Settings(home=home, store_uri=f"file://{home}/local-store")
    return run(step, inputs_of(Store.open(here.store), models, base), config=here, **values).outputs


def downloaded(home: Path) -> set[str]:
    return {path.suffix for path in (home / "downloads").rglob("*") if path.is_file()}


def sizes(models: list[Path]) -> int:
    return sum(path.stat().st_size for directory in models for path in directory.glob("*.safetensors"))


USES = {
    "linear": ("merge", False, {"method": "linear"}),
    "ties in three passes": ("merge", True, {"method": "ties", "options": {"trim": "global"}}),
    "smile": ("mix", True, {"method": "smile", "options": {"rank": 4}}),
    "restack": ("restack", False, {"slices": [{"model": 0, "layers": [0, 2]}, {"model": 1, "layers": [1, 2]}]}),
}


@pytest.mark.live
@pytest.mark.parametrize("use", USES)
def test_the_result_is_that_of_local_files_bit_for_bit_and_no_weights_are_on_disk(models, store, proxy, home, use):
    step, base, values = USES[use]
    inputs = inputs_of(store, models, base)
    result = run(step, inputs, **values)
    assert downloaded(home) >= {".json"} and ".safetensors" not in downloaded(home)
    reads = proxy.of_weights
    assert result.outputs == locally(step, models, home, base, **values)
    record = store.get_record(result.record)
    if use == "linear":
        small = sum(path.stat().st_size for directory in models for path in directory.rglob("*") if path.suffix != ".safetensors")
        assert sum(1 + last - first for _, first, last in reads) == sizes(models) == record["bytes_read"] - small
        assert len(set(reads)) == len(reads)


@pytest.mark.live
def test_small_neighbours_are_read_together_and_a_large_tensor_at_once(models, store, proxy):
    run("merge", inputs_of(store, models, base=False), method="linear")
    reads = sorted(proxy.of_weights)
    for key in {key for key, _, _ in reads}:
        sizes = [1 + last - first for name, first, last in reads if name == key]
        assert sizes[0] == 8 and all(one + other > SPAN for one, other in itertools.pairwise(sizes[2:]))
    embedding = max(tensor.nbytes for path in models[0].glob("*.safetensors") for tensor in load_file(path).values())
    assert max(1 + last - first for _, first, last in reads) == embedding > 2 * SPAN


@pytest.mark.live
@one_file
def test_what_is_in_the_local_cache_is_not_asked_for_again(models, store, proxy, home):
    inputs = inputs_of(store, models, base=False)
    for address in inputs.values():
        store.materialise(store.find(address.removeprefix("sha256:")), home / "downloads")
    proxy.ranges.clear()
    run("merge", inputs, method="linear")
    assert proxy.of_weights == []


def test_models_that_data_are_looked_at_with_are_opened_from_disk():
    merge = STEPS["merge"]
    assert merge.reads_by_range("models.1", ["models.0", "models.1"]) and merge.reads_by_range("base", ["base", "statistics.0"])
    assert not merge.reads_by_range("models.0", ["models.0", "datasets.0"]) and not merge.reads_by_range("statistics.0", [])
    assert not STEPS["evaluate"].reads_by_range("model", [])
    adapters = STEPS["merge_adapters"]
    assert adapters.reads_by_range("adapters.1", ["adapters.0"]) and not adapters.reads_by_range("adapters.1", ["adapters.0", "dataset"])


@pytest.fixture
def away(home, monkeypatch) -> Store:
    """The settings' store, in a directory that nobody may look into."""
    monkeypatch.setattr(FileBackend, "local_path", lambda backend, key: None)
    return Store.open(settings().store)


@one_file
def test_a_mixture_of_models_that_are_away_is_that_of_local_files_and_no_weights_are_on_disk(models, away, home, monkeypatch):
    result = run("mix", inputs_of(away, models), options={"rank": 4})
    assert downloaded(home) >= {".json"} and ".safetensors" not in downloaded(home)
    small = sum(path.stat().st_size for directory in models for path in directory.rglob("*") if path.suffix != ".safetensors")
    assert away.get_record(result.record)["bytes_read"] == sizes(models) + small
    monkeypatch.undo()
    assert result.outputs == locally("mix", models, home, options={"rank": 4})


def test_the_base_of_adapters_that_are_merged_stays_where_it_is(away, home, tmp_path):
    make_llama(tmp_path / "base")
    base = Input("base", "model", away.commit(tmp_path / "base", "model").sha256, tmp_path / "base")
    adapters = [make_lora(base, tmp_path / str(place), seed=place) for place in (0, 1)]
    inputs = {f"adapters.{place}": f"sha256:{away.commit(one.path, 'adapter').sha256}" for place, one in enumerate(adapters)}
    result = run("merge_adapters", inputs)
    assert (home / "downloads" / base.sha256 / "config.json").is_file()
    assert {path.name for path in (home / "downloads").rglob("*.safetensors")} == {"adapter_model.safetensors"}
    read = away.get_record(result.record)["bytes_read"]
    assert read < (tmp_path / "base" / "model.safetensors").stat().st_size + sum(one.stat().st_size for one in tmp_path.glob("[01]/*"))


def flipped(data: bytes, place: int, bit: int = 1) -> bytes:
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def spoil_nan(data: bytes) -> bytes:
    return data[:-2] + b"\xc0\x7f"


DAMAGES = {
    "a bit of the last tensor": lambda data: flipped(data, len(data) - 2),
    "NaN": spoil_nan,
    "a bit of the header": lambda data: flipped(data, 9, 0x80),
    "the header's length": lambda data: flipped(data, 5),
    "cut": lambda data: data[: len(data) // 2],
    "gone": None,
}


@pytest.mark.live
@one_file
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_object_is_named_and_nothing_is_committed(models, store, swift, damage):
    inputs = inputs_of(store, models, base=False)
    key, data = damaged(swift, store, inputs["models.1"], DAMAGES[damage])
    with pytest.raises(IntegrityError, match=rf"{Path(key).name} of model {inputs['models.1']} (has|is gone).* Restore the file"):
        run("merge", inputs, method="linear", checkpoint_every=5)
    assert len(list(store.artifacts())) == len(models) and not list(store.records()) and not list(store.backend.list("cache/"))
    assert not list(store.backend.list("checkpoints/"))
    client(swift).put_object(Bucket=BUCKET, Key=key, Body=data)
    assert run("merge", inputs, method="linear").outputs


def damaged(swift, store: Store, address: str, damage) -> tuple[str, bytes]:
    """Key and bytes of the model's last weight file, which is another one from now on."""
    server = client(swift)
    prefix = f"{store.backend.root}artifacts/model/{address.removeprefix('sha256:')}/"
    found = [one["Key"] for one in server.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]]
    key = max(one for one in found if one.endswith(".safetensors"))
    data = server.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    server.delete_object(Bucket=BUCKET, Key=key)
    if damage is not None:
        server.put_object(Bucket=BUCKET, Key=key, Body=damage(data))
    return key, data


def stopped(proxy: Proxy, inputs: dict[str, str]) -> None:
    """An attempt that is stopped while it reads its first tensors, those that are merged in a checkpoint."""
    stop = StopSignal()
    proxy.fault = lambda place: stop._event.set() or "" if proxy.ranges[-1][1] > 1 << 14 else ""
    with pytest.raises(AttemptKilled, match=r"\d+ of \d+ tensors are kept"):
        run("merge", inputs, stop, method="linear")
    proxy.fault = lambda place: ""


@pytest.mark.live
def test_a_merge_that_was_stopped_goes_on_with_the_same_bytes(models, store, proxy, home, capsys):
    inputs = inputs_of(store, models, base=False)
    stopped(proxy, inputs)
    resumed = run("merge", inputs, method="linear").outputs
    assert "Resumed: " in capsys.readouterr().out
    assert resumed == locally("merge", models, home, base=False, method="linear")


@pytest.mark.live
@one_file
def test_what_a_stopped_attempt_read_of_a_damaged_object_is_not_committed_once_the_object_is_whole_again(models, store, proxy, swift, home):
    inputs = inputs_of(store, models, base=False)
    key, data = damaged(swift, store, inputs["models.1"], lambda data: flipped(data, 8 + int.from_bytes(data[:8], "little")))
    stopped(proxy, inputs)
    client(swift).put_object(Bucket=BUCKET, Key=key, Body=data)
    with pytest.raises(IntegrityError, match=r"Range \d+-\d+ of .* as it was read before"):
        run("merge", inputs, method="linear")
    assert len(list(store.artifacts())) == len(models)
    assert run("merge", inputs, method="linear").outputs == locally("merge", models, home, base=False, method="linear")


@pytest.mark.live
@one_file
def test_a_checkpoint_of_reads_that_cannot_be_verified_any_more_is_not_used(models, store, proxy, home, capsys):
    inputs = inputs_of(store, models, base=False)
    stopped(proxy, inputs)
    store.materialise(store.find(inputs["models.0"].removeprefix("sha256:")), home / "downloads")
    outputs = run("merge", inputs, method="linear").outputs
    assert "Resumed" not in capsys.readouterr().out and outputs == locally("merge", models, home, base=False, method="linear")


@pytest.mark.live
@one_file
def test_reads_that_fail_are_tried_again(models, store, proxy, home):
    inputs = inputs_of(store, models, base=False)
    proxy.fault = lambda place: {5: "refuse", 9: "cut", 11: "refuse"}.get(place, "")
    assert run("merge", inputs, method="linear").outputs == locally("merge", models, home, base=False, method="linear")
