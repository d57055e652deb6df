"""Every way in which a model directory can carry code is refused by name; every toy model passes."""

from __future__ import annotations

import json
import shutil

import pytest

from lfm_tasks.errors import InvalidInput, UnsafeModel
from lfm_tasks.models.safety import check_model_directory
from lfm_tasks.models.tokenizers import open_tokenizer, tokenizer_digest
from tests.toys import make_llama


@pytest.fixture(scope="module")
def toy_llama(tmp_path_factory):
    directory = tmp_path_factory.mktemp("toy-llama")
    make_llama(directory)
    return directory


@pytest.fixture
def model(toy_llama, tmp_path):
    return shutil.copytree(toy_llama, tmp_path / "model")


def test_plain_model_passes(model):
    check_model_directory(model)


@pytest.mark.parametrize("name", ["modeling.py", "deep/down/hook.PY", "native.so", "run.sh"])
def test_code_is_refused(model, name):
    path = model / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("print('hi')")
    with pytest.raises(UnsafeModel, match=f"{name} is program code.*Remove it"):
        check_model_directory(model)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "ckpt", "pkl", "h5", "msgpack", "npz", "joblib", "BIN"])
def test_pickled_weights_are_refused(model, suffix):
    (model / f"weights.{suffix}").write_bytes(b"\x80\x04.")
    with pytest.raises(UnsafeModel, match=f"weights.{suffix} is a format that can carry code. Convert the weights to safetensors"):
        check_model_directory(model)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "processor_config.json"])
@pytest.mark.parametrize(
    "content",
    [
        {"auto_map": {"AutoModel": "evil--model.Net"}},
        {"text_config": {"auto_map": {"AutoModel": "m.Net"}}},
        {"custom_pipelines": {"x": {"impl": "m.P"}}},
        {"list": [{"auto_map": {"AutoModel": "m.Net"}}]},
    ],
)
def test_settings_that_name_code_are_refused(model, file, content):
    path = model / file
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | content))
    with pytest.raises(UnsafeModel, match=f"{file} has the key '(auto_map|custom_pipelines)', which names code to run"):
        check_model_directory(model)


def test_a_token_may_be_called_auto_map(model):
    vocabulary = json.loads((model / "tokenizer.json").read_text())
    vocabulary["model"]["vocab"]["auto_map"] = 9999
    (model / "tokenizer.json").write_text(json.dumps(vocabulary))
    check_model_directory(model)


def test_adapter_may_not_import_a_foreign_library(model):
    (model / "adapter_config.json").write_text(json.dumps({"auto_mapping": {"parent_library": "os.path", "base_model_class": "x"}}))
    with pytest.raises(UnsafeModel, match="would import 'os.path'"):
        check_model_directory(model)
    (model / "adapter_config.json").write_text(json.dumps({"auto_mapping": {"parent_library": "transformers.models.bert.modeling_bert"}}))
    check_model_directory(model)


@pytest.mark.parametrize(
    "flavours",
    [
        "python_function: {loader_module: evil}",
        "sklearn: {pickled_model: x}",
        "python_function: {loader_module: mlflow.transformers, code: code}",
    ],
)
def test_foreign_mlflow_loader_is_refused(model, flavours):
    (model / "MLmodel").write_text(f"flavors:\n  {flavours}\n")
    with pytest.raises(UnsafeModel, match="MLmodel names a loader or code of its own"):
        check_model_directory(model)


def test_unreadable_mlmodel_is_refused(model):
    (model / "MLmodel").write_text("!!python/object:os.system {}")
    with pytest.raises(UnsafeModel, match="MLmodel cannot be read"):
        check_model_directory(model)


def test_own_mlmodel_passes(model):
    from lfm_tasks.models.saving import mlmodel

    (model / "MLmodel").write_text(json.dumps(mlmodel("LlamaForCausalLM", "TokenizersBackend")))
    check_model_directory(model)


@pytest.mark.parametrize("target", ["config.json", "/etc/passwd", "absent"])
def test_symbolic_links_are_refused(model, target):
    (model / "link.txt").symlink_to(target)
    with pytest.raises(UnsafeModel, match="link.txt is a symbolic link"):
        check_model_directory(model)


@pytest.mark.parametrize("damage", ["truncated", "huge header", "pickle", "empty"])
def test_broken_safetensors_are_refused(model, damage):
    path = model / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(
        {"truncated": data[:-4], "huge header": b"\xff" * 8 + data[8:], "pickle": b"\x80\x04" + b"x" * 64, "empty": b""}[damage]
    )
    with pytest.raises(UnsafeModel, match="model.safetensors is not a valid safetensors file"):
        check_model_directory(model)


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("../other/model.safetensors", "a shard is a .safetensors file beside the index"),
        ("/etc/model.safetensors", "a shard is a .safetensors file beside the index"),
        ("pytorch_model-00001.bin", "a shard is a .safetensors file beside the index"),
        ("model-00002-of-00002.safetensors", "which is absent"),
    ],
)
def test_index_names_shards_beside_it(model, shard, message):
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": shard}}))
    with pytest.raises(UnsafeModel, match=message):
        check_model_directory(model)


def test_invalid_json_is_refused(model):
    (model / "config.json").write_text("{")
    with pytest.raises(UnsafeModel, match="config.json is not valid JSON"):
        check_model_directory(model)


def test_missing_directory(tmp_path):
    with pytest.raises(UnsafeModel, match="nothing is not a directory"):
        check_model_directory(tmp_path / "nothing")


def test_digest_follows_the_tokenizer_alone(model):
    before = tokenizer_digest(model)
    (model / "config.json").write_text("{}")
    assert tokenizer_digest(model) == before
    (model / "tokenizer.json").write_text((model / "tokenizer.json").read_text() + " ")
    assert tokenizer_digest(model) != before


def test_tokenizer_is_absent_or_broken(model):
    (model / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidInput, match="The tokenizer cannot be opened"):
        open_tokenizer(model)
    (model / "tokenizer.json").unlink()
    with pytest.raises(InvalidInput, match="no tokenizer.json"):
        open_tokenizer(model)
