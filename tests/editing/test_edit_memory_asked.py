"""Facts are asked of a model with an in-context memory by the prompts that stand in for theirs."""

from __future__ import annotations

import numpy as np

from lfm_tasks.evaluation.edits.asking import forced, free_running
from lfm_tasks.evaluation.task import Subject
from lfm_tasks.models.memories.installing import installed
from lfm_tasks.models.memories.prompting import rewrite
from tests.editing_toys import FACTS, PROBE, editing, remembered, toy


def test_questions_of_facts_are_asked_after_what_is_remembered(tmp_path):
    model, tokenizer = toy(tmp_path)
    subject, memory = Subject(model, tokenizer), remembered("ice", editing(model, tokenizer, tmp_path), threshold=-1.0)
    with installed(model, memory, tokenizer):
        told = {prompt: rewrite(model, prompt) for prompt in (FACTS[0].text, PROBE)}
        asked = forced(subject, [(prompt, "sport") for prompt in told], 512)
        made = free_running(subject, told, 4, 512)
    assert told[PROBE] == PROBE and told[FACTS[0].text] != FACTS[0].text
    by_hand, left = forced(subject, [(prompt, "sport") for prompt in told.values()], 512), free_running(subject, told.values(), 4, 512)
    for prompt, rewritten in told.items():
        np.testing.assert_allclose(asked[prompt, "sport"].log_probability, by_hand[rewritten, "sport"].log_probability, atol=1e-6)
        assert made[prompt] == left[rewritten]
