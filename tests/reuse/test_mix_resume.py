"""A mixture that was stopped while its routers, or its layers' experts, were being made."""

from __future__ import annotations

import pytest

from lfm_tasks.errors import AttemptKilled
from tests.mixed import CLASSES, encoders, files, mixed
from tests.prepared import write_labelled
from tests.tuned import Context, StoppingAt

TRAINED = {"steps": 5, "batch_size": 5, "learning_rate": 0.01}
CASES = {
    "smile": {"rank": 2, "gate_rank": 2},
    "wemoe": TRAINED,
    "e_wemoe": TRAINED | {"router_depth": 2},
    "pareto_moe": TRAINED,
    "pareto_moe, epo": TRAINED | {"scalarisation": "epo"},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def data(models, tmp_path_factory):
    root = tmp_path_factory.mktemp("rows")
    return [write_labelled(root / str(len(labels)), models[0], labels=labels) for labels in CLASSES]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stopped", [1, 3, 5])
def test_stopped_and_resumed_is_never_stopped_bit_for_bit(models, data, tmp_path, case, stopped):
    method = case.partition(",")[0]
    given = {"method": method, "options": CASES[case]} | ({} if method == "smile" else {"split": "validation"})
    rows = [] if method == "smile" else data
    whole = mixed(models, tmp_path / "whole", rows, **given)
    with pytest.raises(AttemptKilled, match=rf"Stopped on request. {stopped} of \d+ steps are kept; the same job goes on from there"):
        mixed(models, tmp_path / "again", rows, StoppingAt(tmp_path / "again", stopped), **given)
    context = Context(tmp_path / "again")
    resumed = mixed(models, tmp_path / "again", rows, context, **given)
    assert f"Resumed: {stopped} steps were done before." in context.lines
    assert [done for done, _, _ in context.reports][:1] == ([] if stopped == 5 and method != "smile" else [stopped + 1])
    assert files(whole.outputs["model"].path) == files(resumed.outputs["model"].path)
    same = whole.metrics.keys() - {"cpu_seconds", "peak_memory_bytes"}
    assert {name: whole.metrics[name] for name in same} == {name: resumed.metrics[name] for name in same}
