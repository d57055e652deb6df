"""MEND and MALMEN against their formulas written out, their training, and the faults of others that they do not have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lfm_tasks.catalogue import METHODS as CARDS
from lfm_tasks.editing.gradients import Factors, gradient_factors
from lfm_tasks.editing.hyper import editing as hyper_editing
from lfm_tasks.editing.hyper import malmen, mend
from lfm_tasks.editing.hyper.editing import changes, gathered, matrices
from lfm_tasks.editing.hyper.episodes import drawn, split
from lfm_tasks.editing.hyper.network import Editor, Matrix
from lfm_tasks.editing.hyper.training import gradient_norms, judged, new_editor
from lfm_tasks.editing.likelihood import fact_batch, target_nll
from lfm_tasks.errors import ConfigError, DataError, IncompatibleModels
from lfm_tasks.models.decoder import Decoder
from tests.editing_toys import FACTS, edit, editing, toy
from tests.hyper_toys import SCHOOL, lesson, trained

METHODS = {"mend": mend.MEND_EDITOR, "malmen": malmen.MALMEN_EDITOR}
both = pytest.mark.parametrize("name", METHODS)


@pytest.fixture(scope="module", params=("llama", "gpt2"))
def decoder(request, tmp_path_factory):
    return toy(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return toy(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def exact(decoder):
    """The toy in float64."""
    model, tokenizer = decoder
    yield model.double(), tokenizer
    model.float()


@pytest.fixture(scope="module")
def editors(llama, tmp_path_factory):
    made = {}

    def of(name):
        if name not in made:
            given = editing(*llama, tmp_path_factory.mktemp("lesson"))
            made[name] = trained(given, f"{name}_editor", tmp_path_factory.mktemp(name))
        return made[name]

    return of


def shaken(editor: Editor) -> Editor:
    """As if it had learnt something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in editor.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return editor


# --- factors


def test_factors_rebuild_the_gradient_of_every_linear_layer_of_an_mlp(exact):
    """Sequences of several lengths, padded; Linear and Conv1D."""
    model, tokenizer = exact
    sites, batch = list(matrices(Decoder(model)).values()), fact_batch(tokenizer, FACTS)
    assert not batch.given.all() and len(sites) in (6, 9)
    found = gradient_factors(model, batch, sites)
    for site in sites:
        weight = site.module.weight.detach().clone().requires_grad_()
        (stored,) = torch.autograd.grad(target_nll(model, batch, {site.name: weight}).sum(), weight)
        expected, factors = stored.T if site.transposed else stored, found[site.name]
        torch.testing.assert_close(factors.grads.T @ factors.keys, expected, rtol=1e-10, atol=1e-14)


def test_tokens_without_gradient_are_left_out_and_the_gradient_is_still_whole(exact, tmp_path):
    model, tokenizer = exact
    given, sites = editing(model, tokenizer, tmp_path), Decoder(model).sites[-1:]
    whole, found = gradient_factors(model, fact_batch(tokenizer, FACTS), sites)[sites[0].name], gathered(given, FACTS, sites)[sites[0].name]
    assert 0 < len(found.factors.keys) < len(whole.keys) and bool(found.factors.grads.any(1).all())
    torch.testing.assert_close(found.factors.grads.T @ found.factors.keys, whole.grads.T @ whole.keys, rtol=1e-10, atol=1e-14)
    norms = gradient_norms(found, len(FACTS))
    for place, fact in enumerate(FACTS):
        alone = gathered(given, [fact], sites)[sites[0].name].factors
        torch.testing.assert_close(norms[place], (alone.grads.T @ alone.keys).norm(), rtol=1e-8, atol=0)


# --- the network


def test_an_untrained_mend_is_a_step_of_gradient_descent(exact, tmp_path):
    model, tokenizer = exact
    given, options = lesson(editing(model, tokenizer, tmp_path), "mend_editor")
    editor, places = new_editor(given, options).double(), matrices(given.editing.decoder)
    sites = [places[one.name] for one in editor.matrices]
    made = changes(editor, mend.MEND_EDITOR, gathered(given.editing, FACTS, sites))
    batch = fact_batch(tokenizer, FACTS)
    for at, site in enumerate(sites):
        weight = site.module.weight.detach().clone().requires_grad_()
        (stored,) = torch.autograd.grad(target_nll(model, batch, {site.name: weight}).sum(), weight)
        left, right = made[site.name]
        torch.testing.assert_close(left @ right.T, -editor.unit[at] * (stored.T if site.transposed else stored), rtol=1e-9, atol=1e-13)


def test_a_first_step_moves_about_as_much_of_a_matrix_as_was_asked_for(exact, tmp_path):
    """A unit that is measured, so that no step size of a 7B model is carried over to a small one."""
    given, options = lesson(editing(*exact, tmp_path), "mend_editor")
    editor, places = new_editor(given, options).double(), matrices(given.editing.decoder)
    sites = [places[one.name] for one in editor.matrices]
    shares = []
    for fact in given.facts.train:
        made = changes(editor, mend.MEND_EDITOR, gathered(given.editing, [fact], sites))
        shares.append([float((made[site.name][0] @ made[site.name][1].T).norm() / site.matrix.norm()) for site in sites])
    torch.testing.assert_close(torch.tensor(shares).mean(0), torch.full((len(sites),), options.step), rtol=1e-4, atol=0)


def test_matrices_of_one_shape_share_a_network_and_have_a_scale_and_a_shift_of_their_own():
    editor = Editor([Matrix("a", 3, 5), Matrix("b", 3, 5), Matrix("c", 5, 3)], 2, 2, 0)
    assert editor.network == [0, 0, 1] and editor.places == [0, 1, 0] and len(editor.networks) == 2
    keys, grads = torch.randn(4, 5), torch.randn(4, 3)
    with torch.no_grad():
        for block in editor.networks[0]:
            block.up.normal_(generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(editor(0, keys, grads)[0], editor(1, keys, grads)[0])
    with torch.no_grad():
        editor.networks[0][1].shift[1] += 1
    assert (editor(1, keys, grads)[0] - editor(0, keys, grads)[0]).abs().min() > 0.9


def test_the_network_learns_from_where_it_begins():
    """ReLU has no gradient at 0, which is where all of it begins."""
    editor = Editor([Matrix("a", 3, 5)], 2, 2, 0)
    factors = Factors(torch.randn(4, 5), torch.randn(4, 3), torch.zeros(4, 3))
    mend.learn(editor, 0, factors, torch.randn(3, 5))
    assert all(bool(block.up.grad.any()) for block in editor.networks[0])


def test_a_column_that_never_varied_is_not_blown_up():
    editor = Editor([Matrix("a", 2, 3)], 2, 1, 0)
    editor.measured(0, torch.zeros(5), torch.tensor([0.0, 1.0, 1.0, 2.0, 0.0]), 1.0, 1.0)
    assert editor.deviation_0.tolist() == pytest.approx([2 / 3 * 1e-3, 1, 1, 2, 1e-3])


# --- learning without the model


def dense(editor: Editor, name: str, factors: Factors) -> torch.Tensor:
    """The change of the first matrix, as the papers write it, all in one graph."""
    keys, grads = editor(0, factors.keys, factors.grads)
    if name == "mend":
        return -editor.step(0) * grads.T @ keys
    x = factors.keys
    values = -editor.step(0) * (x * keys).sum(1, keepdim=True) * grads
    return torch.linalg.solve(x.T @ x + editor.ridge(0) * torch.eye(x.shape[1], dtype=x.dtype), x.T @ values).T


@both
@pytest.mark.parametrize("tokens", [4, 9])
def test_the_gradient_handed_on_in_parts_is_that_through_all_of_it_at_once(name, tokens, monkeypatch):
    """Cached gradients (MALMEN's section 4.2), for the ridge and the step too."""
    generator = torch.Generator().manual_seed(0)
    keys, grads, by_change = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((tokens, 6), (tokens, 3), (3, 6)))
    editor, factors = shaken(Editor([Matrix("a", 3, 6)], 2, 2, 0).double()), Factors(keys, grads, torch.zeros(tokens, 3))
    (dense(editor, name, factors) * by_change).sum().backward()
    expected = {key: parameter.grad.clone() for key, parameter in editor.named_parameters() if parameter.grad is not None}
    editor.zero_grad()
    monkeypatch.setattr(Factors.parts, "__defaults__", (3,))
    METHODS[name].learn(editor, 0, factors, by_change)
    assert ("log_ridge" in expected) == (name == "malmen")
    for key, gradient in expected.items():
        torch.testing.assert_close(dict(editor.named_parameters())[key].grad, gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("tokens", "inner"), [(5, 9), (20, 9)])
def test_malmen_solves_its_normal_equations(tokens, inner):
    generator = torch.Generator().manual_seed(1)
    keys, values = (torch.randn(tokens, width, generator=generator, dtype=torch.float64) for width in (inner, 4))
    left, right = malmen.solved(values, keys, 0.3)
    system = keys.T @ keys + 0.3 * torch.eye(inner, dtype=torch.float64)
    torch.testing.assert_close(left @ right.T, torch.linalg.solve(system, keys.T @ values).T, rtol=1e-9, atol=1e-11)
    sums = [sum(one.T @ other for one, other in zip(keys.split(3), rows.split(3), strict=True)) for rows in (keys, values)]
    torch.testing.assert_close(torch.mm(*_t(malmen.change_of_sums(*sums, 0.3, torch.float64))), left @ right.T, rtol=1e-9, atol=1e-11)


def _t(factors):
    return factors[0], factors[1].T


@both
def test_facts_gathered_in_batches_give_the_change_of_all_at_once(name, exact, tmp_path, monkeypatch):
    given, options = lesson(editing(*exact, tmp_path), f"{name}_editor")
    editor, places = shaken(new_editor(given, options).double()), matrices(given.editing.decoder)
    sites = [places[one.name] for one in editor.matrices]
    whole = changes(editor, METHODS[name], gathered(given.editing, FACTS, sites))
    monkeypatch.setattr(hyper_editing, "AT_ONCE", 1)
    parts = changes(editor, METHODS[name], gathered(given.editing, FACTS, sites))
    for site in whole:
        torch.testing.assert_close(torch.mm(*_t(parts[site])), torch.mm(*_t(whole[site])), rtol=1e-7, atol=1e-9)


def test_the_gradient_by_the_change_is_that_of_finite_differences(exact, tmp_path):
    given, options = lesson(editing(*exact, tmp_path), "mend_editor")
    editor, places = new_editor(given, options).double(), matrices(given.editing.decoder)
    sites = [places[one.name] for one in editor.matrices]
    episode = drawn(given.facts.train, 2, 0, 0, "drawn", ())
    made = changes(editor, mend.MEND_EDITOR, gathered(given.editing, episode.facts, sites))
    name, (left, right) = sites[0].name, made[sites[0].name]
    _, _, by_change = judged(given.editing, sites, made, episode, 0.7)
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn(len(one), 1, generator=generator, dtype=torch.float64) for one in (left, right))
    losses = []
    for h in (1e-3, -1e-3):  # Llama's norms are float32 whatever the model is
        moved = made | {name: (torch.cat([left, h * a], 1), torch.cat([right, b], 1))}
        edit_loss, stay, _ = judged(given.editing, sites, moved, episode, 0.7)
        losses.append(edit_loss + 0.7 * stay)
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(float((by_change[name] * (a @ b.T)).sum()), rel=2e-3)


# --- training


@both
def test_a_trained_editor_edits_what_it_never_saw_better_and_leaves_the_rest(name, llama, tmp_path):
    given, options = lesson(editing(*llama, tmp_path), f"{name}_editor", steps=50)
    made = CARDS[f"{name}_editor"].function(given, options)
    first, best = made.trained.looks[0], made.trained.best
    learnt = [metrics["edit_loss"] for _, _, metrics in given.editing.context.reports]
    assert sum(learnt[-15:]) < 0.8 * sum(learnt[:15])
    assert best.parts["edit_loss"] < 0.8 * first.parts["edit_loss"] and best.score < 0.8 * first.score
    assert best.parts["locality_loss"] < first.parts["edit_loss"] - best.parts["edit_loss"]


def test_network_steps_and_ridges_all_learn_at_any_step_sizes(llama, tmp_path):
    """At equal ones, too."""
    options = {"rank": 4, "layer": 2, "span": 1, "matrices": "all", "step_rate": 0.01}
    given, options = lesson(editing(*llama, tmp_path), "malmen_editor", steps=2, every=2, learning_rate=0.01, options=options)
    made = CARDS["malmen_editor"].function(given, options)
    best = max(one.step for one in made.trained.looks if one.score == made.trained.best.score)
    assert best == 2 and len(made.description["matrices"]) == 3
    assert all(made.tensors[name].all() for name in ("log_step", "log_ridge"))
    assert all(made.tensors[f"networks.{shape}.0.up"].any() for shape in (0, 1))


def test_what_is_held_out_or_will_be_edited_is_not_trained_on_in_any_relation():
    capital = replace(SCHOOL[0], id="other", relation="capital", subject=SCHOOL[0].subject.upper(), prompt="The capital of {} is")
    parts = split((*SCHOOL, capital), [SCHOOL[3]], 0.25, 0)
    subjects = [{one.subject.casefold() for one in part} for part in (parts.train, parts.held_out)]
    assert not subjects[0] & subjects[1] and all(SCHOOL[3].subject not in one for one in subjects)
    assert len(subjects[1]) == 3 and sum(map(len, subjects)) == len(SCHOOL) - 1
    with pytest.raises(DataError, match="2 facts are of 1 subjects beside the 1 that will be edited; .* Give more training facts"):
        split(SCHOOL[:2], SCHOOL[:1], 0.1, 0)


def test_a_step_draws_by_its_number_alone_and_never_asks_an_edited_neighbour():
    seen = [drawn(SCHOOL, 4, step, 0, "drawn", ()) for step in range(40)]
    assert drawn(SCHOOL, 4, 7, 0, "drawn", ()) == seen[7] != drawn(SCHOOL, 4, 7, 1, "drawn", ())
    assert {len(one.facts) for one in seen} == {1, 2, 3, 4}
    assert any(fact.target_new != SCHOOL[int(fact.id[1:])].target_new for one in seen for fact in one.facts)
    for one in seen:
        assert not {prompt for prompt, _ in one.near} & {fact.text for fact in one.facts}
    assert all(fact in SCHOOL for step in range(9) for fact in drawn(SCHOOL, 4, step, 0, "given", ()).facts)


# --- editing by it


@both
def test_looking_and_editing_leave_an_editor_as_it_is(name, llama, editors, tmp_path):
    """Others' running statistics went on running while they were evaluated, and one token alone was an error."""
    given = replace(editing(*llama, tmp_path), editor=editors(name))
    before = {key: given.editor.read(key).clone() for key in given.editor.tensors}
    first, alone = edit(name, given), edit(name, given, FACTS[:1])
    again = edit(name, given)
    assert all(torch.equal(one.stored, other.stored) for one, other in zip(first.changes, again.changes, strict=True))
    assert all(torch.equal(given.editor.read(key), tensor) for key, tensor in before.items()) and len(alone.facts) == 1


@both
def test_a_round_is_solved_again_without_a_fact_by_its_cache_alone(name, llama, editors, tmp_path):
    given = replace(editing(*llama, tmp_path), editor=editors(name))
    whole, without = edit(name, given), edit(name, given, [FACTS[0], *FACTS[2:]])
    cache = {key: tensor[[0, 2, 3]] for key, tensor in whole.cache.items()}
    solved = edit(name, replace(given, editor=None, cache=cache), [FACTS[0], *FACTS[2:]])
    for one, other in zip(solved.changes, without.changes, strict=True):
        torch.testing.assert_close(one.stored, other.stored, rtol=1e-3, atol=1e-6)


@both
def test_many_facts_are_kept_in_no_more_columns_than_the_matrix_has(name, llama, editors, tmp_path):
    given = replace(editing(*llama, tmp_path), editor=editors(name))
    for change in edit(name, given, SCHOOL).changes:
        assert change.left.shape[1] <= min(change.stored.shape) and change.stored.any()


def test_strength_scales_what_is_written(llama, editors, tmp_path):
    given = replace(editing(*llama, tmp_path), editor=editors("mend"))
    one, twice = edit("mend", given), edit("mend", given, strength=2.0)
    torch.testing.assert_close(twice.changes[0].stored, 2 * one.changes[0].stored)


def test_without_an_editor_the_step_that_makes_one_is_named(llama, editors, tmp_path):
    given = editing(*llama, tmp_path)
    with pytest.raises(ConfigError, match="make one by the step 'train_editor' with method=mend_editor, and give it as the input 'editor'"):
        edit("mend", given)
    with pytest.raises(IncompatibleModels, match="of the kind mend_editor, not malmen_editor. .*method=malmen_editor"):
        edit("malmen", replace(given, editor=editors("mend")))
