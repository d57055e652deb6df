"""An edit as the model shows it: hooks, layouts and biases, shares of layers, what is left behind; beside the published algorithms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from lfm_tasks.editing import pipeline
from lfm_tasks.editing.contexts import OPENINGS, fixed_contexts, mean_weights, sampled_contexts
from lfm_tasks.editing.keys import Climb, subject_rows
from lfm_tasks.editing.methods.config import TargetOptions
from lfm_tasks.editing.targets import find_targets
from lfm_tasks.errors import ConfigError, DataError, IncompatibleModels
from lfm_tasks.facts.locate import encode
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.partial import shifted
from tests.located import FACTS, LAYERS, WIDTH, edit, editing_of, key_moments, make, opened, same, state, with_edit

KINDS = ("llama", "gpt2")
FAST = {"steps": 6, "prefixes": 1}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    return {kind: make(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def editing(request, directories, tmp_path):
    return prepared(directories[request.param], tmp_path)


def prepared(directory, tmp_path, **values):
    editing = editing_of(directory, tmp_path / "work", **values)
    return replace(editing, statistics=key_moments(tmp_path / "moments", editing.decoder))


def asked(editing, fact, context=""):
    one = encode(editing.tokenizer, fact, fact.target_new, context)
    return torch.tensor([one.input_ids]), one.subject_last


def output_at(editing, module, fact, context=""):
    ids, place = asked(editing, fact, context)
    seen = []
    with module.register_forward_hook(lambda _, args, out: seen.append((out[0] if isinstance(out, tuple) else out)[0, place])):
        editing.model(ids)
    return seen[0]


def key_at(editing, layer, fact, context=""):
    ids, place = asked(editing, fact, context)
    seen = []
    with editing.decoder.site(layer).module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, place])):
        editing.model(ids)
    return seen[0]


def test_an_edited_model_says_what_the_search_promised(editing):
    """The value stands at the module's output, and the logits are those of the shifted model: place, layout, bias and key are right.

    Nothing stands before the subject, which the edit would change too."""
    fact, site = replace(FACTS[0], prompt="{} scored in the", subject="Article"), editing.decoder.site(1)
    targets = find_targets(editing, [fact], ("",), 1, [site.module], TargetOptions(steps=6, clamp=4))
    ids, place = asked(editing, fact)
    with shifted(site.module, torch.tensor([place]), targets.shift):
        promised = editing.model(ids).logits[0, place:]
    assert place == 0
    made = edit("rome", editing, [fact], layer=1, keys="prompt", steps=6, prefixes=0)
    clean = editing.model(ids).logits[0, place:]
    with_edit(editing, made)
    torch.testing.assert_close(output_at(editing, site.module, fact), targets.value[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(editing.model(ids).logits[0, place], promised[0], atol=1e-3, rtol=1e-3)
    assert not torch.allclose(clean[0], promised[0], atol=0.1)


def test_rome_writes_the_mean_output_at_the_mean_key(editing):
    contexts, site, fact = fixed_contexts(2), editing.decoder.site(2), FACTS[1]
    key = torch.stack([key_at(editing, 2, fact, context) for context in contexts]).mean(0)
    targets = find_targets(editing, [fact], contexts, 2, [site.module], TargetOptions(steps=6, clamp=4))
    bare = {"output": "bare", "layer": 2, "steps": 6, "two_keys": False}
    made = edit("rome", editing, FACTS[1:], layer=2, steps=6, two_keys=False)
    torch.testing.assert_close(made.changes[0].left @ (made.changes[0].right.T @ key), targets.shift[0], atol=1e-4, rtol=1e-3)
    as_upstream = edit("rome", editing, FACTS[1:], **bare).changes[0]
    now = site.matrix @ key + (site.module.bias if site.module.bias is not None else 0)
    torch.testing.assert_close(now + as_upstream.left @ (as_upstream.right.T @ key), targets.value[0], atol=1e-4, rtol=1e-3)


def test_two_keys_write_the_bare_prompt_and_the_others(editing):
    contexts, site = fixed_contexts(2), editing.decoder.site(0)
    fact = replace(FACTS[0], prompt="{} scored in the", subject="Article")
    made = edit("rome", editing, [fact], layer=0, steps=6)
    assert made.facts[0]["key_cosine"] < 0.7 and made.changes[0].left.shape[1] == 2
    shift = find_targets(editing, [fact], contexts, 0, [site.module], TargetOptions(steps=6, clamp=4)).shift[0]
    keys = [key_at(editing, 0, fact, context) for context in contexts]
    for key in (keys[0], torch.stack(keys[1:]).mean(0)):
        torch.testing.assert_close(made.changes[0].left @ (made.changes[0].right.T @ key), shift, atol=1e-4, rtol=1e-3)


def opening_key(editing, layer, subject):
    seen = []
    with editing.decoder.site(layer).module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1])):
        editing.model(torch.tensor([editing.tokenizer(subject)["input_ids"]]))
    return seen[0]


@pytest.mark.parametrize("method", ["rome", "emmet"])
def test_a_fact_is_written_as_well_where_its_subject_opens_a_text(editing, method, monkeypatch):
    """Exactly, where the keys are equality constraints: W k gets the same shift as at the bare prompt."""
    monkeypatch.setattr(pipeline.solvers, "COSINE", 0.999)
    fact = replace(FACTS[0], prompt="Article about {} scored in the", subject="market")
    layer = {"rome": {"layer": 0}, "emmet": {"layers": [0], "ridge_share": 0.0}}[method] | {"steps": 6, "two_keys": False}
    (without,), (change,) = (edit(method, editing, [fact], **layer, openings=one).changes for one in (False, True))
    assert (without.left.shape[1], change.left.shape[1]) == (1, 2)
    keys = torch.stack([key_at(editing, 0, fact, context) for context in fixed_contexts(2)])
    weights = mean_weights(3, "equal" if method == "rome" else "halves").float()
    moved = [change.left @ (change.right.T @ key) for key in (weights @ keys, opening_key(editing, 0, "market"))]
    torch.testing.assert_close(*moved, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(moved[0], without.left @ (without.right.T @ (weights @ keys)), atol=1e-4, rtol=1e-3)


def test_a_subject_that_opens_its_prompt_has_no_further_key(editing):
    fact = replace(FACTS[0], prompt="{} scored in the", subject="Article")
    found = [edit("rome", editing, [fact], layer=0, steps=6, openings=one).changes[0] for one in (False, True)]
    assert torch.equal(*(one.left @ one.right.T for one in found))


def test_the_original_rome_is_too_large_by_the_ratio_of_its_two_keys(editing):
    """Meng et al.'s code: the direction by the mean key, the denominator by the bare prompt's. Ours has one key in all three places."""
    fact = replace(FACTS[0], prompt="{} scored in the", subject="Article")
    contexts, site = fixed_contexts(2), editing.decoder.site(0)
    moments = pipeline._moments(editing, site, pipeline.BatchOptions())
    keys = torch.stack([key_at(editing, 0, fact, context) for context in contexts]).double()
    shift = find_targets(editing, [fact], contexts, 0, [site.module], TargetOptions(steps=6, clamp=4)).shift[0].double()
    u = moments.whiten(keys.mean(0)[:, None])[:, 0]
    original = torch.outer(shift, u) / (u @ keys[0])
    ours = edit("rome", editing, [fact], layer=0, steps=6, two_keys=False, openings=False).changes[0]
    ratio = float((u @ keys.mean(0)) / (u @ keys[0]))
    assert abs(ratio - 1) > 0.02
    torch.testing.assert_close(original / ratio, (ours.left @ ours.right.T).double(), atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize(("name", "place"), [("rome", {}), ("memit", {"layers": [0, 1, 2]})])
def test_a_conv1d_and_a_linear_layer_give_one_edited_model(directories, tmp_path, name, place):
    """Keys as wide as outputs: a transpose by mistake would fit and be wrong.

    What the last layer does to a subject before the prompt's end reaches no logit: its search would follow rounding alone."""
    editing = prepared(directories["gpt2"], tmp_path)
    linear = opened(directories["gpt2"])
    for layer in linear.transformer.h:
        conv = layer.mlp.c_proj
        layer.mlp.c_proj = nn.Linear(WIDTH, WIDTH)
        layer.mlp.c_proj.load_state_dict({"weight": conv.weight.T.contiguous(), "bias": conv.bias})
    other = replace(editing, model=linear.requires_grad_(False), decoder=Decoder(linear))
    assert isinstance(editing.decoder.site(1).module, Conv1D) and editing.decoder.site(1).transposed
    assert isinstance(other.decoder.site(1).module, nn.Linear) and not other.decoder.site(1).transposed
    ids = asked(editing, FACTS[0])[0]
    found = [with_edit(one, edit(name, one, **FAST, **place)).double()(ids).logits for one in (editing, other)]
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-4)


def test_layers_that_do_not_see_each_other_write_equal_shares(directories, tmp_path):
    """1/4, 1/3, 1/2 and all of what is left; PMET by roots."""
    editing = prepared(directories["gpt2"], tmp_path)
    for layer in editing.decoder.layers[1:]:
        layer.ln_1.weight.zero_()
        layer.ln_2.weight.zero_()
    sites, options = editing.decoder.sites, {"steps": 6, "prefixes": 0, "ridge_share": 0.0, "layers": [1, 2, 3]}
    target = find_targets(editing, FACTS[:1], ("",), 3, [editing.decoder.layers[3]], TargetOptions(steps=6)).shift[0]
    made = edit("memit", editing, FACTS[:1], **options)
    for change, layer in zip(made.changes, (1, 2, 3), strict=True):
        key = key_at(editing, layer, FACTS[0])
        torch.testing.assert_close(change.left @ (change.right.T @ key), target / 3, atol=1e-4, rtol=1e-3)
    assert [change.name for change in made.changes] == [sites[layer].name for layer in (1, 2, 3)]
    roots = edit("pmet", editing, FACTS[:1], **options).changes
    parts = [
        float((change.left @ (change.right.T @ key_at(editing, layer, FACTS[0]))).norm())
        for change, layer in zip(roots, (1, 2, 3), strict=True)
    ]
    assert parts[1] / parts[0] == pytest.approx((3 / 2) ** 0.5, rel=1e-3)


@pytest.mark.parametrize("name", ["memit", "emmet"])
def test_without_a_ridge_the_last_layer_leaves_no_residual(editing, name):
    made = edit(name, editing, layers=[0, 1, 2], steps=6, prefixes=0, ridge_share=0.0)
    targets = find_targets(editing, FACTS, ("",), 2, [editing.decoder.layers[2]], TargetOptions(steps=6))
    with_edit(editing, made)
    for place, fact in enumerate(FACTS):
        torch.testing.assert_close(output_at(editing, editing.decoder.layers[2], fact), targets.value[place], atol=2e-3, rtol=1e-3)


def test_memit_is_the_published_algorithm(editing):
    """Written out as Meng et al.'s code has it: facts one by one, whole passes, dense systems; fixed contexts, z as found."""
    contexts, layers, ridge = fixed_contexts(2), (0, 1, 2), 40.0
    z = find_targets(editing, FACTS, contexts, 2, [editing.decoder.layers[2]], TargetOptions(steps=6)).value.double()
    made = edit("memit", editing, layers=list(layers), steps=6, ridge=ridge, two_keys=False, openings=False)
    for place, layer in enumerate(layers):
        site = editing.decoder.site(layer)
        by_type = [[key_at(editing, layer, fact, context) for context in contexts] for fact in FACTS]
        keys = torch.stack([(one[0] + torch.stack(one[1:]).mean(0)) / 2 for one in by_type], 1).double()
        now = torch.stack([output_at(editing, editing.decoder.layers[2], fact) for fact in FACTS], 1).double()
        residuals = (z.T - now) / (len(layers) - place)
        moments = pipeline._moments(editing, site, pipeline.BatchOptions())
        covariance = moments.mean + moments.ridge * torch.eye(len(moments.mean), dtype=torch.float64)
        adjusted = torch.linalg.solve(ridge * covariance + keys @ keys.T, keys)
        change = made.changes[place]
        torch.testing.assert_close((change.left @ change.right.T).double(), residuals @ adjusted.T, atol=1e-5, rtol=1e-3)
        site.module.weight += change.stored


def test_later_rounds_leave_what_earlier_ones_said(editing):
    """With the keys that the first round handed on, against the same round without them."""
    options = {"layers": [1], "steps": 6, "prefixes": 0, "openings": False}
    first = edit("memit", editing, FACTS[:1], **options)
    with_edit(editing, first)
    key = key_at(editing, 1, FACTS[0])
    moved = []
    for given in (first.state, {}):
        change = edit("memit", replace(editing, state=given), FACTS[1:], **options).changes[0]
        moved.append(float((change.left @ (change.right.T @ key)).norm()))
    assert moved[0] < 0.5 * moved[1]
    assert edit("memit", replace(editing, state=first.state), FACTS[1:], **options).state["keys.1"].shape[1] == 3


def test_the_model_is_borrowed_whatever_happens(editing, monkeypatch):
    before = state(editing.model)
    for name in ("rome", "memit", "emmet", "pmet", "alphaedit"):
        edit(name, editing, **FAST)
        assert same(editing.model, before), name
    solve, calls = pipeline.solvers.solve, []

    def third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("stop")
        return solve(*args)

    monkeypatch.setattr(pipeline.solvers, "solve", third)
    with pytest.raises(RuntimeError, match="stop"):
        edit("memit", editing, layers=[0, 1, 2, 3], **FAST)
    assert same(editing.model, before)


def test_the_same_again_has_the_same_bits(editing):
    for name in ("rome", "memit", "alphaedit"):
        first, again = (edit(name, editing, contexts="sampled", **FAST) for _ in range(2))
        assert all(torch.equal(a.left, b.left) and torch.equal(a.right, b.right) for a, b in zip(first.changes, again.changes, strict=True))


def test_values_keep_the_length_of_the_first_round(editing):
    options = {"layers": [1], "anchor": True, **FAST}
    first = edit("memit", editing, FACTS[:2], **options)
    targets = find_targets(editing, FACTS[2:], fixed_contexts(1), 1, [editing.decoder.layers[1]], TargetOptions(**FAST))
    value, length = pipeline.anchored(targets, first.state["reference_length"])
    torch.testing.assert_close(value.norm(dim=1), length.expand(1))
    second = edit("memit", replace(editing, state=first.state), FACTS[2:], **options)
    assert torch.equal(second.state["reference_length"], first.state["reference_length"])


def test_rect_makes_a_change_sparse(editing):
    plain, kept = (edit("memit", editing, layers=[1], filter=name, keep=0.25, **FAST).changes[0] for name in ("none", "rect"))
    dense, sparse = plain.left @ plain.right.T, kept.left @ kept.right.T
    assert int((sparse != 0).sum()) == round(0.25 * dense.numel())
    torch.testing.assert_close(sparse[sparse != 0], dense[sparse != 0])


def test_contexts_are_keyed_and_braces_are_text(editing):
    drawn = [sampled_contexts(editing.model, editing.tokenizer, 3, 6, seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] == "" and all(text.startswith(opening) for text, opening in zip(drawn[0][1:], OPENINGS, strict=False))
    fact = replace(FACTS[0], subject="fox {0} %s")
    rows = subject_rows(editing, [fact], ("", "Said {x} and {}: "))
    texts = [editing.tokenizer.decode(row) for row in rows.rows]
    assert texts == ["Article: fox {0} %s", "Said {x} and {}: Article: fox {0} %s"]


def test_the_bare_prompt_weighs_half_or_as_the_others():
    assert mean_weights(5, "halves").tolist() == [0.5, 0.125, 0.125, 0.125, 0.125]
    assert mean_weights(4, "equal").tolist() == [0.25] * 4
    assert mean_weights(1, "halves").tolist() == [1.0]


def test_keys_do_not_depend_on_who_shares_a_pass(editing, monkeypatch):
    rows = subject_rows(editing, FACTS, fixed_contexts(3))
    module = editing.decoder.site(2).module
    together = rows.states(editing, [module])[0]
    assert together.shape[:2] == (3, 4)
    for place, fact in enumerate(FACTS):
        for context, prefix in enumerate(fixed_contexts(3)):
            torch.testing.assert_close(together[place, context], key_at(editing, 2, fact, prefix), atol=1e-5, rtol=1e-4)
    monkeypatch.setattr("lfm_tasks.editing.keys.PASS_TOKENS", 1)
    torch.testing.assert_close(rows.states(editing, [module])[0], together, atol=1e-5, rtol=1e-4)


def test_what_cannot_be_is_refused(editing, tmp_path):
    with pytest.raises(ConfigError, match=f"layer 9: the model has the layers 0 to {LAYERS - 1}"):
        edit("memit", editing, layers=[9])
    with pytest.raises(ConfigError, match="needs second moments of keys.*method=key_moments"):
        edit("memit", replace(editing, statistics=None))
    few = key_moments(tmp_path / "few", editing.decoder, tokens=3)
    with pytest.raises(DataError, match="gathered from 3 tokens.*Gather statistics from more rows"):
        edit("memit", replace(editing, statistics=few))
    other = replace(few, description=few.description | {"kind": "gram"})
    with pytest.raises(IncompatibleModels, match="of the kind gram, not key_moments"):
        edit("rome", replace(editing, statistics=other))
    del few.tensors[editing.decoder.site(1).name]
    with pytest.raises(IncompatibleModels, match="knows the keys of the layers 0, 2, 3, not of layer 1"):
        edit("rome", replace(editing, statistics=few), layer=1)
    with pytest.raises(DataError, match="null space at energy=1e-09 has 0 of .* directions.*Raise energy"):
        edit("alphaedit", editing, energy=1e-9, **FAST)


@pytest.mark.parametrize("kept", [1000, 0])
def test_a_climb_sees_what_whole_passes_see_while_the_weights_below_change(editing, monkeypatch, kept):
    monkeypatch.setattr("lfm_tasks.editing.keys.KEPT_TOKENS", kept)
    rows, last = subject_rows(editing, FACTS, fixed_contexts(2)), editing.decoder.layers[3]
    climb = Climb(rows, editing)
    for layer in (0, 1, 3):
        site = editing.decoder.site(layer)
        found = climb.states([site.module], [last], following=layer)
        for part, whole in zip(found, rows.states(editing, [site.module], [last]), strict=True):
            torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-5)
        with torch.no_grad():
            site.module.weight += 0.1 * torch.randn(site.module.weight.shape, generator=torch.Generator().manual_seed(layer))
