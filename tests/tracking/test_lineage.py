"""The lineage graph from records alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lfm_tasks.errors import ReferenceRefused
from lfm_tasks.tracking.lineage import Graph
from tests.tracking.tracking_records import make_record


def artifact(kind: str, letter: str) -> SimpleNamespace:
    return SimpleNamespace(kind=kind, sha256=letter * 64)


BASE, RAW, DATA, TUNED, OTHER = (
    artifact(k, c) for k, c in [("model", "a"), ("dataset", "b"), ("dataset", "c"), ("model", "d"), ("model", "e")]
)


@pytest.fixture
def graph() -> Graph:
    tune = {"model": BASE, "dataset": DATA}
    records = {
        "1" * 64: make_record("prepare", {"data": RAW, "model": BASE}, {"dataset": DATA}, number=1),
        "2" * 64: make_record("tune", tune, {"model": TUNED}, number=2, method="lora"),
        "3" * 64: make_record("tune", tune, {"model": TUNED}, number=3, cache={"hit": True, "record": "2" * 64, "run_id": "r"}),
        "4" * 64: make_record("tune", {"model": OTHER, "dataset": RAW}, {"adapter": artifact("adapter", "f")}, number=4),
    }
    return Graph.from_records(reversed(records.items()))


def test_ancestors_and_descendants_are_each_others_converse(graph: Graph) -> None:
    nodes = [*graph.artifacts, *graph.records]
    for one in nodes:
        for other in nodes:
            assert (one in graph.ancestors(other)) == (other in graph.descendants(one))


def test_ancestors_are_exactly_what_went_in(graph: Graph) -> None:
    assert graph.ancestors(TUNED.sha256) == {"1" * 64, "2" * 64, "3" * 64, BASE.sha256, RAW.sha256, DATA.sha256}
    assert graph.ancestors(BASE.sha256) == set()
    assert graph.descendants(OTHER.sha256) == {"4" * 64, "f" * 64}


def test_a_cache_hit_does_not_count_as_the_maker(graph: Graph) -> None:
    assert graph.maker(TUNED.sha256) == "2" * 64
    assert graph.maker(BASE.sha256) is None


def test_the_tree_reads_from_the_model_to_its_sources(graph: Graph) -> None:
    assert graph.tree(TUNED.sha256, labels={TUNED.sha256: "bbc version 2 (champion)"}) == [
        "model dddddddddddd  bbc version 2 (champion)",
        "└─ tune lora  record 222222222222  accuracy 0.75  loss 0.5  2026-01-01 00:02  reused 1x",
        "   ├─ model: model aaaaaaaaaaaa",
        "   └─ dataset: dataset cccccccccccc",
        "      └─ prepare  record 111111111111  accuracy 0.75  loss 0.5  2026-01-01 00:01",
        "         ├─ data: dataset bbbbbbbbbbbb",
        "         └─ model: model aaaaaaaaaaaa",
    ]
    assert graph.tree(OTHER.sha256, "descendants") == [
        "model eeeeeeeeeeee",
        "└─ tune  record 444444444444  accuracy 0.75  loss 0.5  2026-01-01 00:04",
        "   └─ adapter: adapter ffffffffffff",
    ]


def test_the_json_form_holds_the_edges_of_the_part_and_nothing_else(graph: Graph) -> None:
    form = graph.to_json(DATA.sha256)
    assert {node["id"] for node in form["nodes"]} == {DATA.sha256, RAW.sha256, BASE.sha256, "1" * 64}
    assert {(edge["from"], edge["to"], edge["name"]) for edge in form["edges"]} == {
        (RAW.sha256, "1" * 64, "data"),
        (BASE.sha256, "1" * 64, "model"),
        ("1" * 64, DATA.sha256, "dataset"),
    }


def test_addresses_are_found_by_their_beginning(graph: Graph) -> None:
    assert graph.find("sha256:dd") == TUNED.sha256
    with pytest.raises(ReferenceRefused, match="'77' is in no record of this store"):
        graph.find("77")
    with pytest.raises(ReferenceRefused, match="begins 10 addresses; write more digits"):
        graph.find("")
