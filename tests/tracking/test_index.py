"""The index of a store: it reads only what is new, and its pages agree with the graph made from scratch."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from tracking_records import make_record

from lfm_tasks.artifacts.store import Artifact, Store
from lfm_tasks.config import canonical_json
from lfm_tasks.errors import ReferenceRefused
from lfm_tasks.tracking.index import LineageIndex
from lfm_tasks.tracking.lineage import Graph

Commit = Callable[..., Artifact]


@pytest.fixture
def chain(store: Store, commit: Commit) -> dict[str, str]:
    """raw → prepare → data → tune → model → evaluate → report, and a cache hit of the tune step: {name: address}."""
    raw, base, data, model, report = (
        commit(*it) for it in [("dataset", "raw"), ("model", "base"), ("dataset", "data"), ("model", "m"), ("report", "r")]
    )
    addresses = {"raw": raw.sha256, "base": base.sha256, "data": data.sha256, "model": model.sha256, "report": report.sha256}
    prepare = make_record("prepare", {"data": raw, "model": base}, {"dataset": data}, number=1, metrics={"rows": 10.0})
    tune = make_record("tune", {"model": base, "dataset": data}, {"model": model}, number=2, method="lora")
    addresses |= {"prepare": store.put_record(prepare), "tune": store.put_record(tune)}
    hit = {"hit": True, "record": addresses["tune"], "run_id": "r"}
    addresses["hit"] = store.put_record(make_record("tune", {"model": base, "dataset": data}, {"model": model}, number=3, cache=hit))
    evaluate = make_record("evaluate", {"model": model, "dataset": data}, {"report": report}, number=4, metrics={"choice/accuracy": 0.9})
    addresses["evaluate"] = store.put_record(evaluate)
    return addresses


@pytest.fixture
def index(store: Store, chain: dict[str, str]) -> LineageIndex:
    index = LineageIndex(store)
    assert index.refresh() == 4
    return index


def ids(page: dict) -> set[str]:
    return {node["id"] for node in page["nodes"]}


def test_a_page_is_the_graph_with_the_hits_collapsed_and_counted(store: Store, chain: dict[str, str], index: LineageIndex) -> None:
    page, whole = index.neighbourhood(chain["model"]), Graph.of(store)
    reached = whole.ancestors(chain["model"]) | whole.descendants(chain["model"]) | {chain["model"]}
    assert ids(page) == reached - {chain["hit"]}
    assert not page["truncated"]
    nodes = {node["id"]: node for node in page["nodes"]}
    assert nodes[chain["tune"]]["hits"] == 1 and nodes[chain["tune"]]["method"] == "lora"
    assert nodes[chain["model"]]["metric"] == {"name": "choice/accuracy", "value": 0.9}
    assert {"from": chain["tune"], "to": chain["model"], "name": "model"} in page["edges"]
    json.dumps(page)


def test_a_cache_hit_leads_to_the_record_that_did_the_work(chain: dict[str, str], index: LineageIndex) -> None:
    assert index.neighbourhood(chain["hit"])["roots"] == [chain["tune"]]
    assert index.node(chain["hit"])["hit_of"] == chain["tune"]


def test_directions_are_kept_apart(chain: dict[str, str], index: LineageIndex) -> None:
    assert ids(index.neighbourhood(chain["model"], "descendants")) == {chain["model"], chain["evaluate"], chain["report"]}
    assert ids(index.neighbourhood(chain["data"], "ancestors")) == {chain[name] for name in ("data", "prepare", "raw", "base")}


def test_a_page_that_is_full_shows_the_nearest_and_says_what_is_left(chain: dict[str, str], index: LineageIndex) -> None:
    page = index.neighbourhood(chain["model"], limit=3)
    assert page["truncated"] and ids(page) == {chain["model"], chain["tune"], chain["evaluate"]}
    more = {node["id"]: node["more"] for node in page["nodes"]}
    assert more[chain["tune"]] == {"ancestors": 2, "descendants": 0}
    assert more[chain["evaluate"]] == {"ancestors": 1, "descendants": 1}


def test_refreshing_reads_new_records_alone_and_gives_what_a_fresh_index_gives(
    store: Store, chain: dict[str, str], index: LineageIndex, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = commit("model", "other")
    fresh = store.put_record(make_record("tune", {"model": other}, {"adapter": commit("adapter", "a")}, number=5))
    read, get = [], store.get_record
    monkeypatch.setattr(store, "get_record", lambda address: read.append(address) or get(address))
    assert index.refresh() == 1 and read == [fresh]
    again = LineageIndex(store)
    again.refresh()
    for name in chain.values():
        assert index.neighbourhood(name) == again.neighbourhood(name)
    assert ids(index.neighbourhood(other.sha256)) == ids(again.neighbourhood(other.sha256))


def test_aliases_and_labels_come_from_the_ledgers_copies(store: Store, chain: dict[str, str], index: LineageIndex) -> None:
    for n, name in enumerate(("base", "model"), start=1):
        entry = {"model": "bbc", "n": n, "alias": "champion", "to": str(n), "artifact_sha256": chain[name]}
        store.backend.put_bytes(f"ledger/bbc/{n}.json", canonical_json(entry))
    index.refresh()
    assert (index.node(chain["model"])["label"], index.node(chain["model"])["aliases"]) == ("bbc version 2 (champion)", ["bbc@champion"])
    assert (index.node(chain["base"])["label"], index.node(chain["base"])["aliases"]) == ("bbc version 1", [])
    assert [node["id"] for node in index.search("champion")] == [chain["model"]]


def test_a_search_looks_at_hashes_steps_labels_and_runs_and_needs_every_word(chain: dict[str, str], index: LineageIndex) -> None:
    assert [node["id"] for node in index.search(chain["data"][:10])] == [chain["data"]]
    assert [node["id"] for node in index.search("tune lora")] == [chain["tune"]]
    assert len(index.search("tune", limit=1)) == 1
    assert index.search("tune nothing") == []
    assert index.of_run("dag", "run", "evaluate") == [chain["evaluate"]]


def test_a_node_holds_what_a_person_asks_for(chain: dict[str, str], index: LineageIndex) -> None:
    made = index.node(chain["model"])
    assert made["stored"] and made["size"] > 0 and made["maker"]["id"] == chain["tune"]
    assert [one["id"] for one in made["measurements"]] == [chain["evaluate"]]
    assert (made["cost"]["records"], made["cost"]["cpu_seconds"]) == (3, 60.0)
    record = index.node(chain["tune"])
    assert record["record"]["config"]["rank"] == 8
    assert {given["name"]: given["short"] for given in record["inputs"]} == {"model": chain["base"][:12], "dataset": chain["data"][:12]}


def test_a_record_that_was_changed_is_left_out_and_named(store: Store, chain: dict[str, str]) -> None:
    store.backend.put_bytes(f"records/{chain['evaluate']}.json", b"{}")
    index = LineageIndex(store)
    assert index.refresh() == 3
    assert "was changed after it was written" in index.snapshot.damaged[f"records/{chain['evaluate']}.json"]


def test_an_address_that_is_nowhere_is_refused(index: LineageIndex) -> None:
    with pytest.raises(ReferenceRefused, match="is in no record of this store"):
        index.neighbourhood("0" * 64)


def test_many_threads_ask_while_records_arrive(store: Store, chain: dict[str, str], index: LineageIndex, commit: Commit) -> None:
    models = [commit("model", f"child {n}") for n in range(20)]

    def work(n: int) -> bool:
        if n % 2:
            given = index.graph.artifacts[chain["model"]]
            parent = type(models[0])(given, chain["model"], models[0].manifest, "")
            store.put_record(make_record("tune", {"model": parent}, {"model": models[n]}, number=n % 9 + 1, seed=n))
        index.refresh()
        return chain["tune"] in ids(index.neighbourhood(chain["model"]))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(20)))
    index.refresh()
    assert {model.sha256 for model in models[1::2]} <= ids(index.neighbourhood(chain["model"]))
