"""The comparison of two models through the API: `lfm diff` in a process of its own, veiled for those who may not read a DAG."""

from __future__ import annotations

import pytest

from tests.toys import make_llama


@pytest.fixture
def two_models(lineage, tmp_path):
    """Two toy decoders, the second made by a DAG that not everybody may read, from data of its own."""
    base, data = lineage.commit("model", "base"), [lineage.commit("dataset", name) for name in ("first", "second")]
    made = []
    for seed, (dag_id, dataset) in enumerate(zip(("open", "secret"), data, strict=True)):
        directory = tmp_path / f"toy-{seed}"
        make_llama(directory, seed=seed)
        model = lineage.store.commit(directory, "model")
        config = {"rank": 8, "seed": seed, "note": f"{dag_id} note"}
        lineage.put("tune", {"model": base, "dataset": dataset}, {"model": model}, dag_id=dag_id, config=config, number=seed + 1)
        made.append(model)
    child = lineage.commit("report", "child")
    lineage.put("evaluate", {"model": made[1]}, {"report": child}, number=5)
    return [model.sha256 for model in made], data


@pytest.mark.slow
def test_config_data_and_every_layer_are_compared(client, two_models):
    (first, second), data = two_models
    found = client("ada").get("/lfm/api/diff", params={"a": first, "b": f"sha256:{second[:12]}"}).json()
    assert not found["same"] and found["steps_withheld"] == 0
    assert {change["field"] for change in found["steps"][0]["config"]} == {"seed", "note"}
    assert [(entry["first"]["id"], entry["second"]["id"]) for entry in found["data"]] == [(data[0].sha256, data[1].sha256)]
    layers = {layer["name"]: layer["relative"] for layer in found["weights"]["layers"]}
    assert layers.keys() == {"model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm"}
    assert layers["model.embed_tokens"] == pytest.approx(2**0.5, rel=0.05), "two independent draws of the same scale are √2 apart"
    assert layers["model.norm"] == 0


@pytest.mark.parametrize(
    ("choose", "status", "message"),
    [
        (lambda models, data: (models[0], data[0].sha256), 400, "is a dataset. Choose two models or adapters."),
        (lambda models, data: (models[0], "models:/none@champion"), 404, "Unknown registered model 'none'"),
        (lambda models, data: (models[0], ""), 404, "names nothing in this store"),
    ],
    ids=["a data set", "a name that nobody registered", "nothing"],
)
def test_what_cannot_be_compared_is_refused(client, two_models, choose, status, message):
    first, second = choose(*two_models)
    answer = client("ada").get("/lfm/api/diff", params={"a": first, "b": second})
    assert answer.status_code == status and message in answer.json()["detail"]


def test_a_failed_comparison_says_what_lfm_diff_said(client, two_models, lineage):
    (first, second), _ = two_models
    lineage.store.backend.put_bytes(f"artifacts/model/{second}/model.safetensors", b"damaged")
    answer = client("ada").get("/lfm/api/diff", params={"a": first, "b": second})
    assert answer.status_code == 503 and "its bytes changed after they were committed" in answer.json()["detail"]
    assert "Traceback" not in answer.text
