"""Every kind of memory: the same laws for each; then what is WISE's and T-Patcher's own."""

from __future__ import annotations

import json

import pytest
import torch

from lfm_tasks.editing.likelihood import fact_batch, target_nll
from lfm_tasks.editing.memory.config import WiseConfig
from lfm_tasks.editing.memory.elsewhere import elsewhere
from lfm_tasks.editing.memory.t_patcher import memory_loss
from lfm_tasks.editing.memory.wise import routing_loss
from lfm_tasks.errors import AttemptKilled, ConfigError, IncompatibleModels, InvalidInput
from lfm_tasks.facts.record import Probe
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.memories import neurons, wise
from lfm_tasks.models.memories.files import Memory, read_memory, save_memory
from lfm_tasks.models.memories.installing import KINDS, forget, install, installed
from lfm_tasks.models.memories.installing import remembered as held
from lfm_tasks.models.memories.texts import packed, unpacked
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.models.partial import until_seen
from lfm_tasks.models.saving import write_entry
from lfm_tasks.step import Input
from tests.editing_toys import FACTS, PROBE, TRAINING, editing, fact, logits, remembered, same, snapshot, toy

ROUTED = ("grace", "wise", "t_patcher")
GENERATOR = torch.Generator().manual_seed(0)
LEARNT = {"steps": 80, "radius": 0.01, "learning_rate": 0.3, "ball": 1e3, "share": 1.0, "enough": 0.05}
kinds, routed = pytest.mark.parametrize("name", KINDS), pytest.mark.parametrize("name", ROUTED)


@pytest.fixture(scope="module", params=("llama", "gpt2"))
def decoder(request, tmp_path_factory):
    return toy(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def memories(decoder, tmp_path_factory):
    """One of each kind, made when it is first asked for."""
    made: dict[str, Memory] = {}

    def of(name: str) -> Memory:
        if name not in made:
            made[name] = remembered(name, editing(*decoder, tmp_path_factory.mktemp(name)), **LEARNT)
        return made[name]

    return of


@kinds
def test_the_model_is_borrowed_and_the_memory_is_removable(decoder, memories, tmp_path, name):
    model, tokenizer = decoder
    before = snapshot(model)
    memory = memories(name)
    assert same(before, snapshot(model))
    with pytest.raises(RuntimeError, match="in between"), installed(model, memory, tokenizer):
        assert not same(before, snapshot(model))
        raise RuntimeError("in between")
    assert same(before, snapshot(model))
    again = remembered(name, editing(model, tokenizer, tmp_path), **LEARNT)
    assert all(torch.equal(again.tensors[key], tensor) for key, tensor in memory.tensors.items())


@routed
def test_after_a_stop_the_model_is_as_before(decoder, tmp_path, name):
    before, given = snapshot(decoder[0]), editing(*decoder, tmp_path)
    given.context.stop_at = given.context.polls = 1
    with pytest.raises(AttemptKilled):
        remembered(name, given)
    assert same(before, snapshot(decoder[0]))


@routed
def test_a_row_is_answered_alike_alone_and_among_others(decoder, memories, name):
    """EasyEdit's WISE takes one decision for a batch, so that prompts in and out of scope mix."""
    model, tokenizer = decoder
    rows = [tokenizer(text)["input_ids"] for text in (FACTS[0].text, PROBE, FACTS[2].text, "a good film")]
    with installed(model, memories(name), tokenizer), torch.no_grad():
        alone = [model(torch.tensor([row])).logits[0] for row in rows]
        length = max(map(len, rows))
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        together = model(ids).logits
    for row, (one, expected) in enumerate(zip(rows, alone, strict=True)):
        torch.testing.assert_close(together[row, : len(one)], expected, atol=1e-3, rtol=1e-4)


@routed
def test_generation_with_a_cache_is_that_without(decoder, memories, name):
    model, tokenizer = decoder
    with installed(model, memories(name), tokenizer):
        for text in (FACTS[1].text, PROBE):
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            made = [model.generate(ids, max_new_tokens=8, do_sample=False, use_cache=cached, pad_token_id=0) for cached in (True, False)]
            assert torch.equal(*made)


@routed
def test_what_is_in_no_scope_keeps_the_bases_bits(decoder, memories, name):
    model, tokenizer = decoder
    memory = memories(name)
    part, change = {"grace": ("queries", 1e3), "wise": ("deltas", None), "t_patcher": ("biases", -1e9)}[name]
    out_of_reach = {part: memory.tensors[part] + change if change else torch.zeros_like(memory.tensors[part])}
    base = [logits(model, tokenizer, text) for text in (PROBE, FACTS[0].text)]
    with installed(model, Memory(name, memory.options, {**memory.tensors, **out_of_reach}), tokenizer):
        assert all(torch.equal(logits(model, tokenizer, text), old) for text, old in zip((PROBE, FACTS[0].text), base, strict=True))


@routed
def test_facts_are_learnt(decoder, memories, name):
    model, tokenizer = decoder
    batch, memory = fact_batch(tokenizer, FACTS), memories(name)
    with torch.no_grad():
        before = target_nll(model, batch)
        with installed(model, memory, tokenizer):
            after = target_nll(model, batch)
    assert (after < before - 0.5).all() and after.mean() < before.mean() - 0.8


@kinds
def test_a_memory_is_an_adapter_that_opens_with_its_base(decoder, memories, tmp_path, name):
    model, tokenizer = decoder
    if model.config.model_type != "llama":
        pytest.skip("one layout is enough for files")
    toy(tmp_path / "base")
    model.save_pretrained(tmp_path / "base")
    memory = memories(name)
    for place in ("a", "b"):
        save_memory(tmp_path / place, memory)
        write_entry(tmp_path / place, name, "a" * 64, "causal_lm", None)
    assert all((tmp_path / "a" / file.name).read_bytes() == file.read_bytes() for file in (tmp_path / "b").iterdir())
    base = Input("base", "model", "a" * 64, tmp_path / "base")
    opened = open_causal_lm(Input("memory", "adapter", "b" * 64, tmp_path / "a", base))
    assert held(read_memory(tmp_path / "a")) == [one.id for one in FACTS]
    with installed(model, memory, tokenizer):
        for text in (FACTS[0].text, PROBE):
            assert torch.equal(logits(opened, tokenizer, text), logits(model, tokenizer, text))


def test_memories_that_do_not_fit_are_refused(decoder, memories, tmp_path):
    model, tokenizer = decoder
    memory = memories("grace")
    wide = {**memory.tensors, "queries": torch.zeros(4, 7)}
    with pytest.raises(IncompatibleModels, match=r"The memory's queries have 7 columns, .*Use the base that it was made from"):
        install(model, Memory("grace", memory.options, wide), tokenizer)
    with pytest.raises(IncompatibleModels, match=r"Unknown kind of memory 'grease'. Did you mean 'grace'"):
        install(model, Memory("grease", {}, {}), tokenizer)
    save_memory(tmp_path, memory)
    content = json.loads((tmp_path / "lfm_memory.json").read_text())
    for change, says in (({"format": 9}, "has format 9; this version reads 1"), ({"method": None}, None)):
        (tmp_path / "lfm_memory.json").write_text(json.dumps(content | change) if says else "{}")
        with pytest.raises(InvalidInput, match=says or "cannot be read"):
            read_memory(tmp_path)


def test_texts_of_any_script_come_back():
    texts = ["", "Paris {}", "東京 \x1e", "Ζεύς %s"]
    assert unpacked("x", packed("x", texts)) == texts and unpacked("x", {}) == []


# --- WISE


def test_a_change_that_is_none_answers_as_the_base_everywhere():
    x, output = torch.randn(5, 4, generator=GENERATOR), torch.randn(5, 3, generator=GENERATOR)
    assert torch.equal(wise.respond(torch.zeros(2, 3, 4), torch.zeros(2), x, output), output)


def test_the_change_that_answers_most_above_its_own_threshold_is_taken():
    deltas, output = torch.stack([torch.eye(2), 3 * torch.eye(2)]), torch.zeros(4, 2)
    x = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.1, 0.0], [5.0, 0.0]])
    found = wise.respond(deltas, torch.tensor([0.5, 5.0]), x, output)
    assert torch.equal(found[:, 0], torch.tensor([1.0, 6.0, 0.0, 15.0]))


def test_entries_outside_of_the_mask_never_change(decoder, tmp_path):
    model, tokenizer = decoder
    first = remembered("wise", editing(model, tokenizer, tmp_path), FACTS[:2], steps=5, share=0.2)
    both = remembered("wise", editing(model, tokenizer, tmp_path, first.tensors), FACTS[2:], steps=5, share=0.2)
    shares = (both.tensors["deltas"] != 0).float().mean((1, 2))
    assert ((shares - 0.2).abs() < 0.05).all() and torch.equal(both.tensors["deltas"][0], first.tensors["deltas"][0])
    overlap = (both.tensors["deltas"] != 0).all(0).float().mean()
    assert abs(overlap - 0.04) < 0.03, "each round draws a mask of its own"


def test_the_change_stays_in_its_ball(decoder, tmp_path):
    memory = remembered("wise", editing(*decoder, tmp_path), steps=10, ball=0.3, learning_rate=0.2)
    unit = Decoder(decoder[0]).site(int(memory.tensors["layer"])).matrix.square().mean().sqrt()
    assert memory.tensors["deltas"].abs().max() == pytest.approx(0.3 * unit.item(), rel=1e-4)


def test_ties_is_trim_elect_and_mean_written_out():
    deltas = torch.tensor([[[4.0, -3.0, 0.5, 0.0]], [[2.0, 5.0, 0.0, 1.0]], [[-1.0, 1.0, 6.0, 0.2]]])
    # halves: [4, -3, 0, 0], [2, 5, 0, 0], [-1, 1, 6, 0] with the tie of 1 and 1 kept
    assert wise.ties(deltas, 0.5).tolist() == [[3.0, 3.0, 6.0, 0.0]]
    disjoint = torch.tensor([[[1.0, 0.0]], [[0.0, -2.0]]])
    assert wise.ties(disjoint, 0.5).tolist() == [[1.0, -2.0]], "the original divides by the number of shards, which wears every edit down"


def test_merged_changes_answer_in_the_place_of_all(decoder, tmp_path):
    given = editing(*decoder, tmp_path)
    first = remembered("wise", given, FACTS[:2], steps=5, combine="merge", density=1.0)
    both = remembered("wise", editing(*decoder, tmp_path, first.tensors), FACTS[2:], steps=5, combine="merge", density=1.0)
    deltas, thresholds = wise.read(both)
    assert len(deltas) == len(thresholds) == 1
    assert torch.equal(deltas[0], wise.ties(both.tensors["deltas"], 1.0))
    answers = (both.tensors["keys"] @ deltas[0].T).norm(dim=-1)
    assert thresholds[0] == pytest.approx(0.88 * answers.min().item(), rel=1e-5)


def test_the_routing_loss_is_its_three_hinges():
    options = WiseConfig(outside=0.25, inside=1.0, apart=0.5)
    inside, outside = torch.tensor([[0.8, 0.0], [1.2, 0.0]]), torch.tensor([[0.0, 0.5], [0.0, 0.1]])
    assert routing_loss(inside, outside, options).item() == pytest.approx(0.25 / 2 + 0.2 / 2 + (0.5 - (0.8 - 0.5)), rel=1e-5)


def test_wise_cannot_forget_one_fact_and_says_what_to_do(decoder, memories):
    with pytest.raises(ConfigError, match=r"the election-sport, a striker-tech.* into one change of the matrix.*Go back to the"):
        forget(memories("wise"), FACTS[0].id)


def test_the_neighbours_that_locality_is_measured_on_are_not_trained_on(decoder, tmp_path):
    one = fact("a dog", "sport", neighbours=(Probe("The topic of a fox is", ("tech",)),), locality=(Probe("The bank", ("raised",)),))
    found = elsewhere(editing(*decoder, tmp_path), [one])
    assert one.neighbours[0].prompt not in found and {"The bank", TRAINING[0].text, TRAINING[0].neighbours[0].prompt} <= set(found)


# --- T-Patcher


def test_neurons_are_relu_units_beside_the_mlp_and_idle_ones_leave_its_bits():
    keys, biases, values = torch.randn(3, 4, generator=GENERATOR), torch.tensor([0.1, -0.2, 0.3]), torch.randn(3, 2, generator=GENERATOR)
    h, output = torch.randn(6, 4, generator=GENERATOR), torch.randn(6, 2, generator=GENERATOR)
    expected = output.clone()
    for token in range(6):
        for neuron in range(3):
            expected[token] += max(0.0, float(keys[neuron] @ h[token] + biases[neuron])) * values[neuron]
    torch.testing.assert_close(neurons.respond(keys, biases, values, h, output), expected)
    assert torch.equal(neurons.respond(keys, biases - 100, values, h, output), output)


def test_the_memory_loss_is_zero_where_neurons_keep_to_their_tokens():
    assert memory_loss(torch.tensor([1.0, 2.0]), torch.tensor([[-0.5, -1.0]]), 0.5) == 0
    assert memory_loss(torch.tensor([0.5]), torch.tensor([[0.0], [-3.0]]), 0.5).item() == pytest.approx(0.5 + 0.5)


@pytest.mark.parametrize("gone", [0, 1, 3])
def test_a_facts_neurons_can_be_taken_out(decoder, memories, gone):
    model, tokenizer = decoder
    memory = memories("t_patcher")
    left = forget(memory, FACTS[gone].id)
    mine = memory.tensors["fact"] == gone
    assert torch.equal(left.tensors["keys"], memory.tensors["keys"][~mine]) and held(left) == [f.id for f in FACTS if f is not FACTS[gone]]
    assert left.tensors["fact"].unique().tolist() == [0, 1, 2]
    (h,) = until_seen(Decoder(model), torch.tensor([tokenizer(FACTS[gone].text)["input_ids"]]), [neurons.mlp(model)])
    assert h.shape[-1] == model.config.hidden_size


def test_a_fact_of_several_tokens_has_a_neuron_for_each(decoder, tmp_path):
    model, tokenizer = decoder
    one = fact("a dog", "tech news")
    tokens = len(tokenizer(" tech news")["input_ids"])
    assert len(remembered("t_patcher", editing(model, tokenizer, tmp_path), [one]).tensors["keys"]) == tokens > 1
