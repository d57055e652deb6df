"""Causal tracing: its three identities, and single states beside a whole forward pass with hooks of its own."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from lfm_tasks.editing import trace
from lfm_tasks.editing.trace_config import TraceFactsConfig
from lfm_tasks.editing.tracing import KINDS, Trace, Traced, embedding_deviation, roles_of, window_of
from lfm_tasks.errors import DataError
from lfm_tasks.facts.reading import write_facts
from lfm_tasks.facts.record import Fact
from lfm_tasks.step import Input
from tests.located import FACTS, LAYERS, editing_of, make, opened
from tests.tuned import Context, model_input

FACT = dataclasses.replace(FACTS[0], target_true="sport")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def editing(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    make(root / "model", request.param)
    return editing_of(root / "model", root / "work", opened(root / "model", torch.float64))


def traced(editing, scale: float = 0.3, samples: int = 3, window: int = 2) -> Traced:
    return Trace(editing, FACT, scale, samples, 0).traced(window)


def test_restoring_the_subject_before_the_first_layer_gives_the_clean_probability(editing):
    one = Trace(editing, FACT, 0.3, 3, 0)
    restored = one.corrupted[0].clone()
    restored[:, one.subject] = one.embedded[one.subject]
    whole = torch.nn.functional.softmax(editing.model(one.ids[None]).logits[0, -1].float(), -1)[one.answer]
    torch.testing.assert_close(one.probability(0, restored), whole.expand(3), rtol=1e-6, atol=0)
    assert float((one.probability(0, one.corrupted[0]) - whole).abs().max()) > 1e-4


def test_without_noise_nothing_has_an_effect(editing):
    found = traced(editing, scale=0.0)
    assert found.corrupted == pytest.approx(found.clean, rel=1e-6)
    for kind in KINDS:
        torch.testing.assert_close(found.effects[kind], torch.zeros_like(found.effects[kind]), rtol=0, atol=1e-7)


def test_restoring_the_last_layer_at_the_last_token_gives_the_clean_probability(editing):
    found = traced(editing)
    assert float(found.effects["state"][-1, -1]) == pytest.approx(found.clean - found.corrupted, rel=1e-5)
    assert float(found.effects["state"][:-1, -1].abs().max()) < 1e-7


@pytest.mark.parametrize(("kind", "layer"), [("state", 1), ("mlp", 2), ("attention", 1)])
def test_a_single_effect_is_that_of_a_whole_pass(editing, kind, layer):
    """From the embeddings, one row at a time, every module patched by a plain hook."""
    one = Trace(editing, FACT, 0.3, 2, 0)
    found, place = one.traced(2), one.subject[-1]
    span = [layer] if kind == "state" else list(window_of(layer, 2, LAYERS))
    low, high = [], []
    for noise in one.noise:
        for patched, kept in ((False, low), (True, high)):
            handles = [
                editing.decoder.layers[0].register_forward_pre_hook(lambda _, args, kw, n=noise: _noisy(args, kw, n), with_kwargs=True)
            ]
            for at in span if patched else ():
                clean = one.clean[kind][at][place]
                handles.append(one.modules[kind][at].register_forward_hook(lambda _, args, out, c=clean: _put(out, place, c)))
            kept.append(editing.model(one.ids[None]).logits[0, -1].float().softmax(-1)[one.answer])
            for handle in handles:
                handle.remove()
    expected = torch.stack(high).mean() - torch.stack(low).mean()
    torch.testing.assert_close(found.effects[kind][place, layer], expected, rtol=1e-4, atol=1e-8)


def _noisy(args, kwargs, noise):
    return ((args[0] + noise, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": kwargs["hidden_states"] + noise})


def _put(output, place, value):
    tensor = (output[0] if isinstance(output, tuple) else output).clone()
    tensor[0, place] = value
    return (tensor, *output[1:]) if isinstance(output, tuple) else tensor


def test_chunks_change_nothing(editing, monkeypatch):
    whole = traced(editing)
    monkeypatch.setattr("lfm_tasks.editing.tracing.PASS_TOKENS", 1)
    for kind, effects in traced(editing).effects.items():
        torch.testing.assert_close(effects, whole.effects[kind], rtol=0, atol=1e-7)


def test_windows_and_roles():
    assert [list(window_of(layer, 4, 6)) for layer in (0, 3, 5)] == [[0, 1], [1, 2, 3, 4], [3, 4, 5]]
    assert window_of(3, 1, 6) == range(3, 4)
    assert roles_of(9, range(1, 4)) == (-1, 0, 1, 2, 3, 4, 4, 4, 5)
    assert roles_of(3, range(0, 1)) == (2, 3, 5) and roles_of(2, range(1, 2)) == (-1, 2)


def test_the_noise_is_keyed_by_fact_and_draw_and_scaled_by_the_subjects(editing):
    few, more = Trace(editing, FACT, 0.3, 2, 0), Trace(editing, FACT, 0.3, 5, 0)
    assert torch.equal(few.noise, more.noise[:2]) and not torch.equal(few.noise[0], few.noise[1])
    outside = [place for place in range(len(few.ids)) if place not in few.subject]
    assert not few.noise[:, outside].any() and few.noise[:, few.subject].std() == pytest.approx(0.3, rel=0.2)
    one = Trace(editing, FACT, 0.0, 1, 0)
    assert embedding_deviation(editing, [FACT]) == pytest.approx(float(one.embedded[one.subject].std()))


def test_the_step_reports_where_facts_are_read(tmp_path):
    model = model_input(make(tmp_path / "model", "llama"))
    known = Fact("chip", "chip", "The {} won three", "film", target_true="he")
    write_facts([FACTS[1], known], tmp_path / "facts")
    inputs = {"model": model, "facts": Input("facts", "dataset", "f" * 64, tmp_path / "facts")}
    config = TraceFactsConfig(samples=2, window=2)
    outcome = trace.run(config, inputs, Context(tmp_path / "work"))
    described = json.loads((tmp_path / "work" / "report" / "trace.json").read_text())
    assert [one["id"] for one in described["facts"]] == ["chip"] and outcome.summary["facts"] == 1
    there = set(Trace(editing_of(tmp_path / "model", tmp_path / "w"), known, 0.0, 1, 0).traced(2).roles)
    assert [row is not None for row in described["effects"]["mlp"]] == [role in there for role in range(6)]
    assert all(len(row) == LAYERS for row in described["effects"]["mlp"] if row is not None)
    again = trace.run(config, inputs, Context(tmp_path / "again"))
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(again.figures, outcome.figures, strict=True))
    write_facts([FACTS[1]], tmp_path / "unknown")
    with pytest.raises(DataError, match="none of the 1 facts, so that there is nothing to trace"):
        trace.run(config, inputs | {"facts": Input("u", "dataset", "0" * 64, tmp_path / "unknown")}, Context(tmp_path / "none"))
