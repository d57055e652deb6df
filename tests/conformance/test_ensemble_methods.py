"""Every card of the step ensemble, on members' scores: the same laws for each."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from lfm_tasks.catalogue import METHODS, methods_of
from lfm_tasks.errors import ConfigError
from lfm_tasks.evaluation.answers import ClassScores, Texts, TokenLikelihoods, softmax
from lfm_tasks.evaluation.ensemble.combine import combine
from lfm_tasks.evaluation.ensemble.config import EnsembleConfig
from lfm_tasks.models.prepared import Rows

NAMES = [card.name for card in methods_of("ensemble")]
KINDS = {"classification": "classes", "choice": "classes", "perplexity": "tokens", "generation": "ranker"}
LABELS = ["a", "b", "c", "d"]
CASES = [(card.name, task) for card in methods_of("ensemble") for task in card.tasks]
cases = pytest.mark.parametrize(("name", "task"), CASES, ids=["-".join(case) for case in CASES])
THE_MEMBER = {"stacking": {"penalty": 1e9}, "temperature_scaled": {}}
"""Options with which a fitted method leaves one member as it is, or says what it says with another confidence."""


def rows(task: str, n: int = 30) -> Rows:
    columns = {"text": [f"text {i}" for i in range(n)], "prompt": [f"prompt {i}" for i in range(n)]}
    columns |= {"label": [i * 7 % len(LABELS) for i in range(n)], "completion": ["yes"] * n}
    kind = "instruction" if task in ("choice", "generation") else task
    ids = [np.arange(3 + i % 4) for i in range(n)]
    return Rows({"task": kind, "labels": LABELS}, [f"{i:064d}" for i in range(n)], ids, columns)


def member(task: str, seed: int) -> ClassScores | TokenLikelihoods | Texts:
    """Answers that are right more often than not, with confidences and mistakes of their own."""
    asked, random = rows(task), np.random.default_rng(seed)
    n, ones = len(asked), np.ones(len(asked), np.int64)
    if KINDS[task] == "classes":
        scores = random.normal(size=(n, len(LABELS))) * (1 + seed) + 2 * np.eye(len(LABELS))[asked.columns["label"]]
        return ClassScores(task, asked, scores, np.zeros(n), ones)
    if KINDS[task] == "tokens":
        return TokenLikelihoods("text", asked, [-random.exponential(size=len(ids)) for ids in asked.input_ids], ones)
    texts = [" ".join(random.permutation(["yes", "no", "maybe"])[: 1 + seed % 3]) for _ in range(n)]
    return Texts(task, asked, [np.arange(2)] * n, texts)


def answer(name: str, task: str, seeds: tuple[int, ...], **options) -> dict[str, list]:
    method, config = METHODS[name].function, METHODS[name].config_class(**options)
    members = [member(task, seed) for seed in seeds]
    judged = {}
    for place, prompt in enumerate(members[0].rows.columns["prompt"] if task == "generation" else []):
        texts = {one.texts[place] for one in members}
        judged |= {(prompt, text): [-float((seed + 1) * len(text) % 7) for seed in sorted(seeds)] for text in texts}
    table, _ = combine(method, config, members, members if method.fitted else [], judged)
    return table.to_pydict()


@cases
def test_one_member_is_itself(name, task):
    found, alone = answer(name, task, (1,), **THE_MEMBER.get(name, {})), member(task, 1).table().to_pydict()
    for column in ("target", "prediction", "correct"):
        assert found[column] == alone[column]
    if task == "perplexity":
        np.testing.assert_allclose(found["nll"], alone["nll"])
    if KINDS[task] == "classes" and name not in ("vote", "temperature_scaled"):
        np.testing.assert_allclose(found["probabilities"], softmax(member(task, 1).scores), atol=1e-6)


@cases
def test_copies_of_one_member_are_it(name, task):
    assert answer(name, task, (2, 2, 2))["prediction"] == answer(name, task, (2,))["prediction"]


@cases
def test_the_order_of_the_members_does_not_matter(name, task):
    first = answer(name, task, (0, 1, 2))
    for order in permutations((0, 1, 2)):
        found = answer(name, task, order)
        if task == "perplexity":
            np.testing.assert_allclose(found["nll"], first["nll"])
        elif KINDS[task] == "classes":
            assert found["prediction"] == first["prediction"]
            np.testing.assert_allclose(found["probabilities"], first["probabilities"], atol=1e-5)
            np.testing.assert_allclose(np.sum(found["probabilities"], axis=1), 1)
        else:
            _same_merit(name, order, found["prediction"], first["prediction"])


def _same_merit(name: str, order: tuple[int, ...], found: list[str], first: list[str]) -> None:
    """The same answer; of answers that are equally good that of the first member, which is another in another order."""
    differing = [place for place, pair in enumerate(zip(found, first, strict=True)) if pair[0] != pair[1]]
    for place in differing:
        assert found[place] == member("generation", order[0]).texts[place] or first[place] == member("generation", 0).texts[place]


@pytest.mark.parametrize("name", [name for name in NAMES if "weights" in METHODS[name].config_class.model_fields])
def test_weights_count_by_their_shares_and_a_weight_of_all_is_the_member(name):
    for task in METHODS[name].tasks:
        column = "nll" if task == "perplexity" else "probabilities"
        twice, thrice = answer(name, task, (0, 1), weights=[2, 1])[column], answer(name, task, (0, 0, 1))[column]
        np.testing.assert_allclose(twice, thrice, atol=1e-9)
        assert answer(name, task, (0, 1), weights=[0, 5])["prediction"] == answer(name, task, (1,))["prediction"]


@pytest.mark.parametrize("name", NAMES)
def test_the_card_says_what_it_is_and_what_it_combines(name):
    card = METHODS[name]
    assert (card.area, card.step) == ("reuse", "ensemble")
    assert card.title and card.preconditions and card.cost and any(character.isdigit() for character in card.paper)
    assert {KINDS[task] for task in card.tasks} == {kind for kind in KINDS.values() if getattr(card.function, kind)}
    assert type(EnsembleConfig(method=name).method_config()) is card.config_class
    with pytest.raises(ConfigError, match=f"options of {name}: Unknown option 'nonsense'"):
        EnsembleConfig(method=name, options={"nonsense": 1})


def test_an_option_of_one_name_is_one_option():
    seen: dict[str, tuple] = {}
    for name in NAMES:
        for option, field in METHODS[name].config_class.model_fields.items():
            assert seen.setdefault(option, (field.description, field.default)) == (field.description, field.default), (name, option)
