"""What lies outside the store becomes an artifact once, checked, with where it came from."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from lfm_tasks.artifacts.references import parse_reference
from lfm_tasks.artifacts.store import Store
from lfm_tasks.errors import DataError, InvalidInput, ReferenceRefused, Unavailable, UnsafeModel
from lfm_tasks.models.tokenizers import tokenizer_digest
from lfm_tasks.runner.imports import import_reference, imports
from lfm_tasks.settings import Settings
from lfm_tasks.starter.catalogue import STARTERS, find_starter
from tests.toys import make_llama

ROWS = '{"text": "a", "label": "x"}\n'
COMMIT = "a" * 40


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("toy-llama")
    make_llama(directory)
    return directory


@pytest.fixture
def place(tmp_path):
    """A store, an allowed folder, and ``bring(text, kind)``."""
    allowed, work = tmp_path / "allowed", tmp_path / "work"
    allowed.mkdir()
    work.mkdir()
    store = Store.open(f"file://{tmp_path / 'store'}")
    settings = Settings(home=tmp_path / "home", allowed_prefixes=f"file://{allowed},s3://bucket/data", hf_cache=tmp_path / "hub")

    def bring(text, kind="dataset", **changes):
        chosen = settings.model_copy(update=changes)
        artifact = import_reference(parse_reference(text, chosen.prefixes), kind, store, chosen, work)
        assert not list(work.iterdir()), "scratch is removed"
        return artifact

    def refused(error, match, *arguments, **changes):
        with pytest.raises(error, match=match):
            bring(*arguments, **changes)
        assert not list(work.iterdir()) and not list(store.artifacts()), "nothing is committed"

    return SimpleNamespace(bring=bring, refused=refused, store=store, allowed=allowed, hub=tmp_path / "hub", work=work, settings=settings)


def names(artifact):
    return [entry.path for entry in artifact.manifest.files]


def copy(source, target):
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def hub_repository(hub, name, source, kind="models", commit=COMMIT):
    """A repository as the hub's client caches it: blobs, and a snapshot of links to them."""
    root = hub / f"{kind}--{name.replace('/', '--')}"
    for folder in ("refs", "blobs", f"snapshots/{commit}"):
        (root / folder).mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    for path in source.iterdir():
        (root / "blobs" / f"blob-{path.name}").write_bytes(path.read_bytes())
        (root / "snapshots" / commit / path.name).symlink_to(f"../../blobs/blob-{path.name}")
    return root


class TestFiles:
    def test_single_file(self, place):
        (place.allowed / "rows.jsonl").write_text(ROWS)
        artifact = place.bring(f"file://{place.allowed}/rows.jsonl")
        assert (artifact.kind, names(artifact)) == ("dataset", ["rows.jsonl"])
        (entry,) = imports(place.store)
        assert entry["artifact"] == {"kind": "dataset", "sha256": artifact.sha256}
        assert entry["provenance"] == {"scheme": "file", "reference": f"file://{place.allowed}/rows.jsonl"}

    def test_directory_is_a_snapshot_by_content(self, place):
        folder = place.allowed / "news"
        folder.mkdir()
        for name, content in {"b.csv": "text\nx\n", "a.jsonl": ROWS, ".hidden.csv": "x", "notes.docx": "x"}.items():
            (folder / name).write_text(content)
        first = place.bring(f"file://{folder}")
        assert names(first) == ["a.jsonl", "b.csv"]
        assert place.bring(f"file://{folder}").sha256 == first.sha256
        (folder / "b.csv").write_text("text\ny\n")
        assert place.bring(f"file://{folder}").sha256 != first.sha256
        place.store.verify(first)

    def test_nothing_there(self, place):
        place.refused(ReferenceRefused, "absent names nothing on this machine", f"file://{place.allowed}/absent")

    def test_no_data(self, place):
        (place.allowed / "readme.md").write_text("x")
        place.refused(DataError, r"holds no .jsonl, .csv, .parquet file; it holds readme.md", f"file://{place.allowed}")

    @pytest.mark.parametrize("inside", [False, True])
    def test_link_to_a_file(self, place, tmp_path, inside):
        target = (place.allowed if inside else tmp_path) / "target.txt"
        target.write_text(ROWS)
        folder = place.allowed / "folder"
        folder.mkdir()
        (folder / "rows.jsonl").symlink_to(target)
        if inside:
            assert names(place.bring(f"file://{folder}")) == ["rows.jsonl"]
        else:
            place.refused(ReferenceRefused, "rows.jsonl leads outside the allowed prefixes by a symbolic link", f"file://{folder}")

    def test_link_in_the_reference_itself(self, place, tmp_path):
        (tmp_path / "secret").mkdir()
        (tmp_path / "secret" / "rows.jsonl").write_text(ROWS)
        (place.allowed / "way-out").symlink_to(tmp_path / "secret")
        place.refused(ReferenceRefused, "leads outside the allowed prefixes", f"file://{place.allowed}/way-out/rows.jsonl")
        place.refused(ReferenceRefused, "leads outside the allowed prefixes", f"file://{place.allowed}/way-out")

    def test_linked_directory_inside(self, place, tmp_path):
        (place.allowed / "folder").mkdir()
        (place.allowed / "folder" / "sub").symlink_to(tmp_path)
        place.refused(ReferenceRefused, "sub is a symbolic link to a directory", f"file://{place.allowed}/folder")

    @pytest.mark.parametrize("text", ["file:///etc/passwd", "s3://other/data/x", "s3://bucket/database", "http://x/y"])
    def test_outside_the_prefixes(self, place, text):
        place.refused(ReferenceRefused, "outside the allowed prefixes|is not a reference", text)

    def test_model_is_dressed_for_mlflow_and_keeps_its_files(self, place, toy_model):
        copy(toy_model, place.allowed / "model")
        artifact = place.bring(f"file://{place.allowed}/model", "model")
        assert {"MLmodel", "components/tokenizer/tokenizer.json", "model.safetensors", "config.json"} <= set(names(artifact))
        directory = place.store.materialise(artifact, place.work)
        assert (directory / "model.safetensors").read_bytes() == (toy_model / "model.safetensors").read_bytes()
        assert tokenizer_digest(directory) == tokenizer_digest(toy_model)
        assert "LlamaForCausalLM" in (directory / "MLmodel").read_text()

    def test_model_that_did_not_change_is_recognised_by_its_bytes(self, place, toy_model):
        model, text = copy(toy_model, place.allowed / "model"), f"file://{place.allowed}/model"
        first = place.bring(text, "model")
        assert heavy_modules_of_an_import(place, text, "model") == ""
        assert place.bring(text, "model") == first and len(list(imports(place.store))) == 1
        (model / "generation_config.json").write_text("{}")
        assert place.bring(text, "model") != first
        (model / "evil.py").write_text("")
        with pytest.raises(UnsafeModel, match="evil.py"):
            place.bring(text, "model")

    @pytest.mark.parametrize("extra", ["modeling_evil.py", "pytorch_model.bin"])
    def test_unsafe_model(self, place, toy_model, extra):
        (copy(toy_model, place.allowed / "model") / extra).write_text("x")
        place.refused(UnsafeModel, extra, f"file://{place.allowed}/model", "model")

    def test_auto_map(self, place, toy_model):
        path = copy(toy_model, place.allowed / "model") / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": {"AutoModel": "x.Y"}}))
        place.refused(UnsafeModel, "auto_map", f"file://{place.allowed}/model", "model")

    def test_no_weights_and_no_config(self, place, toy_model):
        model = copy(toy_model, place.allowed / "model")
        (model / "config.json").unlink()
        place.refused(InvalidInput, "has no config.json. Give a Hugging Face model directory", f"file://{model}", "model")
        (model / "model.safetensors").unlink()
        place.refused(InvalidInput, "holds no .safetensors weights", f"file://{model}", "model")

    def test_report_cannot_be_imported(self, place):
        place.refused(ReferenceRefused, "cannot be imported as a report. Give a sha256: address", f"file://{place.allowed}", "report")


class TestObjects:
    """The backend is stood in for by a folder; the real one has its own tests against a server."""

    @pytest.fixture(autouse=True)
    def bucket(self, tmp_path, monkeypatch):
        from lfm_tasks.artifacts.file_backend import FileBackend

        folder = tmp_path / "buckets"
        monkeypatch.setattr(
            "lfm_tasks.runner.snapshots.open_backend", lambda uri: FileBackend(f"file://{folder}/{uri.removeprefix('s3://')}")
        )
        (folder / "bucket" / "data" / "news").mkdir(parents=True)
        (folder / "bucket" / "data" / "news" / "rows.jsonl").write_text(ROWS)
        (folder / "bucket" / "data" / "news" / "rows.bak").write_text(ROWS)

    @pytest.mark.parametrize("text", ["s3://bucket/data/news", "s3://bucket/data/news/", "s3://bucket/data/news/rows.jsonl"])
    def test_prefix_and_object(self, place, text):
        artifact = place.bring(text)
        assert names(artifact) == ["rows.jsonl"]
        assert [entry["provenance"]["reference"] for entry in imports(place.store)] == [text]

    def test_nothing_there(self, place):
        place.refused(ReferenceRefused, "names nothing in the bucket", "s3://bucket/data/absent")


class TestHub:
    def test_model(self, place, toy_model, tmp_path):
        source = copy(toy_model, tmp_path / "source")
        (source / "pytorch_model.bin").write_bytes(b"pickle")
        (source / "README.md").write_text("x")
        hub_repository(place.hub, "org/toy", source)
        artifact = place.bring("hf://org/toy", "model")
        assert "pytorch_model.bin" not in names(artifact) and "MLmodel" in names(artifact)
        place.store.verify(artifact)
        (entry,) = imports(place.store)
        assert entry["provenance"] == {"scheme": "hf", "name": "org/toy", "kind": "model", "revision": "main", "commit": COMMIT}
        assert place.bring(f"hf://org/toy@{COMMIT}", "model").sha256 == artifact.sha256

    def test_dataset(self, place, tmp_path):
        (tmp_path / "source").mkdir()
        (tmp_path / "source" / "train.jsonl").write_text(ROWS)
        hub_repository(place.hub, "org/rows", tmp_path / "source", "datasets")
        assert names(place.bring("hf://org/rows")) == ["train.jsonl"]

    def test_newer_commit_is_another_artifact(self, place, tmp_path):
        source = tmp_path / "source"
        source.mkdir()
        (source / "train.jsonl").write_text(ROWS)
        root = hub_repository(place.hub, "org/rows", source, "datasets")
        first = place.bring("hf://org/rows")
        newer = root / "snapshots" / ("b" * 40)
        newer.mkdir()
        (newer / "train.jsonl").write_text(ROWS * 2)
        (root / "refs" / "main").write_text("b" * 40)
        assert place.bring("hf://org/rows").sha256 != first.sha256

    @pytest.mark.parametrize(("kind", "option"), [("model", ""), ("dataset", " --repo-type dataset")])
    def test_offline_and_not_cached(self, place, kind, option):
        message = (
            rf"hf://org/none@v2: the {kind} org/none at revision v2 is not in the hub cache {place.hub}, and LFM_HF_OFFLINE is on."
            rf" Fill the cache where the hub can be reached \(`hf download org/none{option}`\), point LFM_HF_CACHE at it, or set"
        )
        place.refused(ReferenceRefused, message, "hf://org/none@v2", kind)

    def test_hub_out_of_reach(self, place, monkeypatch):
        from huggingface_hub.errors import LocalEntryNotFoundError

        def unreachable(*_, **__):
            raise LocalEntryNotFoundError("no route")

        monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
        place.refused(Unavailable, "the hub cannot be reached", "hf://org/none", "model", hf_offline=False)

    def test_weights_in_pickle_only(self, place, toy_model, tmp_path):
        source = copy(toy_model, tmp_path / "source")
        (source / "model.safetensors").rename(source / "pytorch_model.bin")
        hub_repository(place.hub, "org/old", source)
        place.refused(InvalidInput, r"hf://org/old holds no .safetensors weights; it holds .*pytorch_model.bin", "hf://org/old", "model")

    def test_remote_code(self, place, toy_model, tmp_path):
        source = copy(toy_model, tmp_path / "source")
        config = json.loads((source / "config.json").read_text()) | {"auto_map": {"AutoModelForCausalLM": "modeling.Net"}}
        (source / "config.json").write_text(json.dumps(config))
        hub_repository(place.hub, "org/remote", source)
        place.refused(UnsafeModel, "config.json has the key 'auto_map'", "hf://org/remote", "model")

    def test_link_out_of_the_cache(self, place, tmp_path):
        (tmp_path / "source").mkdir()
        root = hub_repository(place.hub, "org/rows", tmp_path / "source", "datasets")
        (tmp_path / "secret.jsonl").write_text(ROWS)
        (root / "snapshots" / COMMIT / "rows.jsonl").symlink_to(tmp_path / "secret.jsonl")
        place.refused(ReferenceRefused, "rows.jsonl leads outside the allowed prefixes", "hf://org/rows")


class TestStarters:
    @pytest.fixture
    def built(self, monkeypatch):
        """Building stood in for: it counts, and writes one row."""
        calls = []

        def build(starter, cache, scratch, target):
            calls.append(starter.name)
            target.mkdir()
            (target / "data.jsonl").write_text(ROWS)

        monkeypatch.setattr("lfm_tasks.starter.convert.build", build)
        return calls

    def test_second_time_costs_nothing(self, place, built):
        first = place.bring("starter://bbc-news")
        assert place.bring("starter://bbc-news") == first and built == ["bbc-news"]
        (entry,) = imports(place.store)
        assert entry["provenance"] == {"scheme": "starter", **find_starter("bbc-news").provenance()}

    def test_other_package_or_converter_is_built_anew(self, place, built, monkeypatch):
        place.bring("starter://bbc-news")
        for change in ({"sha256": "0" * 64}, {"converter_version": 2}):
            monkeypatch.setitem(STARTERS, "bbc-news", dataclasses.replace(find_starter("bbc-news"), **change))
            place.bring("starter://bbc-news")
        assert len(built) == 3

    def test_artifact_gone_from_the_store_is_built_anew(self, place, built):
        artifact = place.bring("starter://bbc-news")
        place.store.backend.delete(f"artifacts/dataset/{artifact.sha256}")
        assert place.bring("starter://bbc-news") == artifact and len(built) == 2

    def test_wrong_kind_is_refused_before_any_work(self, place, built):
        place.refused(
            ReferenceRefused,
            "starter://bbc-news is a dataset; a model is wanted here: starter://smollm2-135m",
            "starter://bbc-news",
            "model",
        )
        assert not built

    def test_unknown_name(self, place):
        place.refused(ReferenceRefused, "Unknown starter 'nothing'", "starter://nothing")

    def test_second_time_imports_no_torch(self, place, built):
        place.bring("starter://bbc-news")
        assert heavy_modules_of_an_import(place, "starter://bbc-news", "dataset") == ""


def heavy_modules_of_an_import(place, text, kind):
    """Which of torch, transformers and pyarrow a fresh process loads to import ``text``."""
    code = f"""
import sys
from pathlib import Path
from lfm_tasks.artifacts.references import parse_reference
from lfm_tasks.artifacts.store import Store
from lfm_tasks.runner.imports import import_reference
from lfm_tasks.settings import Settings
settings = Settings(allowed_prefixes={place.settings.allowed_prefixes!r})
reference = parse_reference({text!r}, settings.prefixes)
import_reference(reference, {kind!r}, Store.open({place.store.backend.uri!r}), settings, Path({str(place.work)!r}))
print(*{{"torch", "transformers", "pyarrow"}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
