"""A memory by the step edit: beside the rounds' record, opened with its base, gone on from, looked at by a guard."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lfm_tasks.catalogue import METHODS
from lfm_tasks.editing import edit
from lfm_tasks.editing.config import EditConfig
from lfm_tasks.errors import ConfigError, DataError, IncompatibleModels
from lfm_tasks.facts.reading import write_facts
from lfm_tasks.facts.record import Fact
from lfm_tasks.models.edits import read_edits
from lfm_tasks.models.memories.files import read_memory
from lfm_tasks.models.memories.installing import KINDS, remembered
from lfm_tasks.models.memories.prompting import rewrite
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.models.tokenizers import open_tokenizer
from lfm_tasks.step import Input
from tests.hyper_toys import SERAC, trained
from tests.located import FACTS, editing_of, make
from tests.tuned import Context, model_input

QUICK = {"grace": {"steps": 30}, "wise": {"steps": 5}, "t_patcher": {"steps": 5}, "ike": {"demonstrations": 0}}
HALF = len(FACTS) // 2


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Input]:
    root = tmp_path_factory.mktemp("inputs")
    facts = {}
    for name, part in (("all", FACTS), ("first", FACTS[:HALF]), ("rest", FACTS[HALF:])):
        write_facts(part, root / name)
        facts[name] = Input(name, "dataset", name[0] * 64, root / name)
    model = model_input(make(root / "model", "llama"))
    trained(editing_of(model.path, root / "work"), "serac_editor", root / "editor", model.sha256, **SERAC)
    return {"model": model, "editor": Input("editor", "statistics", "5" * 64, root / "editor"), **facts}


def edited(name: str, model: Input, facts: Input, work, given=None, **values) -> Input:
    config = EditConfig(method=name, options=QUICK.get(name, {}), **{"guard": "off"} | values)
    outcome = edit.run(config, {"model": model, "facts": facts, **(given or {})}, Context(work))
    return Input(name, "adapter", "e" * 64, outcome.outputs["adapter"].path, base=model.base or model)


@pytest.mark.parametrize("name", KINDS)
def test_a_memory_opens_with_its_base_and_is_gone_on_from(name, inputs, tmp_path):
    given = {"editor": inputs["editor"]} if METHODS[name].needs else {}
    whole = edited(name, inputs["model"], inputs["all"], tmp_path / "a", given, round_size=HALF)
    first = edited(name, inputs["model"], inputs["first"], tmp_path / "b", given)
    second = edited(name, first, inputs["rest"], tmp_path / "c", round_size=HALF)
    ids = [fact.id for fact in FACTS]
    assert remembered(read_memory(whole.path)) == remembered(read_memory(second.path)) == ids
    assert [fact for one in read_edits(second.path) for fact in one.facts] == ids
    opened = [open_causal_lm(one) for one in (whole, second)]
    tokens = torch.tensor([open_tokenizer(inputs["model"].path)(FACTS[0].text)["input_ids"]])
    assert torch.equal(*(model(tokens).logits for model in opened))
    assert rewrite(opened[0], FACTS[0].text) == rewrite(opened[1], FACTS[0].text)
    base = open_causal_lm(inputs["model"])
    told = rewrite(opened[0], FACTS[0].text) != FACTS[0].text
    assert told or name not in ("grace", "ike", "ice") or not torch.equal(opened[0](tokens).logits, base(tokens).logits)


def test_memories_and_other_edits_do_not_go_on_from_one_another(inputs, tmp_path):
    memory = edited("grace", inputs["model"], inputs["first"], tmp_path / "a")
    weights = edited("ultraedit", inputs["model"], inputs["first"], tmp_path / "b")
    for model, name, says in (
        (memory, "ultraedit", "holds edits of grace, which ultraedit cannot go on from. Edit its base, or edit by grace again"),
        (weights, "grace", "holds edits of the weights, which grace cannot go on from"),
        (memory, "ice", "holds edits of grace, which ice cannot go on from"),
    ):
        with pytest.raises(IncompatibleModels, match=says):
            edited(name, model, inputs["rest"], tmp_path / f"c-{name}")


def test_a_memory_is_not_saved_as_weights(inputs, tmp_path):
    with pytest.raises(ConfigError, match="wise keeps its edits beside the weights"):
        edited("wise", inputs["model"], inputs["first"], tmp_path / "a", save_merged=True)


def test_ike_shows_training_facts_of_other_subjects(inputs, tmp_path):
    shown = replace(FACTS[0], id="again", prompt="{} is fast and", target_new="final")
    other = Fact("may", "May", "In {} the", "election", paraphrases=("It is May and the",))
    write_facts([shown, other], tmp_path / "training")
    given = {"training": Input("training", "dataset", "7" * 64, tmp_path / "training")}
    config = EditConfig(method="ike", options={"threshold": -1.0, "scope": "likeness"}, guard="off")
    outcome = edit.run(config, {"model": inputs["model"], "facts": inputs["all"], **given}, Context(tmp_path / "work"))
    opened = open_causal_lm(Input("ike", "adapter", "e" * 64, outcome.outputs["adapter"].path, base=inputs["model"]))
    asked = rewrite(opened, FACTS[0].text)
    assert "New Fact: In May the election\n" in asked and "is fast and" not in asked
    with pytest.raises(DataError, match="Give training facts, or demonstrations 0"):
        edit.run(config, {"model": inputs["model"], "facts": inputs["all"]}, Context(tmp_path / "none"))
