"""The step *distill* with a teacher of other tokens, against losses taken row by row."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lfm_tasks.distillation import distill
from lfm_tasks.distillation.across.pairs import shared_tokens, target_spans, token_texts
from lfm_tasks.errors import ConfigError, DataError
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.models.tokenizers import open_tokenizer
from lfm_tasks.step import Input
from lfm_tasks.training import report
from tests.distilled import chunks_of, config, given, prepared, strangers
from tests.tuned import Context


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    return strangers(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(report, "learning_curve", lambda *_: None)


@pytest.fixture(scope="module")
def sides(toys):
    """(model, tokenizer, rows of the training split by id) of student and teacher."""
    found = []
    for model, dataset in (("student", "dataset"), ("teacher", "teacher_dataset")):
        rows = {row["sample_id"]: row for row in pq.read_table(toys[dataset].path / "train.parquet").to_pylist()}
        found.append((open_causal_lm(toys[model]).double(), open_tokenizer(toys[model].path), rows))
    return found


def said(side, key: str, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Log-probabilities [targets, vocabulary], the targets, and their texts; the closing token is "END"."""
    model, tokenizer, rows = side
    row = rows[key]
    ids, first = torch.tensor(row["input_ids"]), row["prompt_tokens"]
    with torch.no_grad():
        log_p = (model(ids[None]).logits[0, first - 1 : -1] / temperature).log_softmax(-1)
    targets = ids[first:]
    pieces = [tokenizer.convert_ids_to_tokens([token])[0] for token in targets]
    return log_p, targets, ["END" if token == tokenizer.eos_token_id else piece for token, piece in zip(targets, pieces, strict=True)]


def expected(sides, method: str, alpha: float, temperature: float, chunk_temperature: float) -> float:
    """The loss of all rows as one step, written out."""
    total = count = 0.0
    shared = shared_tokens(sides[0][1], sides[1][1])
    for key, row in sides[0][2].items():
        (q, targets, ours), (p, their_targets, theirs) = said(sides[0], key), said(sides[1], key)
        log_q, log_p = (one.gather(-1, t[:, None])[:, 0] for one, t in ((q, targets), (p, their_targets)))
        q_t, p_t = said(sides[0], key, temperature)[0], said(sides[1], key, temperature)[0]
        far = 0.0
        members = chunks_of(ours, theirs, row["completion"])
        if method == "uld":
            for k in range(min(len(ours), len(theirs))):
                a, b = (np.sort(one[k].exp().numpy())[::-1] for one in (q_t, p_t))
                far += np.abs(np.pad(a, (0, max(0, len(b) - len(a)))) - np.pad(b, (0, max(0, len(a) - len(b))))).sum()
        for mine, other in members if method != "uld" else []:
            if method == "alm" or len(mine) > 1 or len(other) > 1:
                x, y = (float(one[which].sum().exp()) ** (1 / chunk_temperature) for one, which in ((log_p, other), (log_q, mine)))
                far += chunk_temperature * (x * np.log(x / y) + (1 - x) * np.log((1 - x) / (1 - y)))
            if method == "hybrid":
                a, b = q_t[mine[0]].exp()[shared[0]], p_t[other[0]].exp()[shared[1]]
                a, b = (torch.cat([one, 1 - one.sum()[None]]) for one in (a, b))
                far += temperature**2 * float((b * (b / a).log()).sum())
        total += alpha * far - (1 - alpha) * float(log_q.sum())
        count += len(ours)
    return total / count


@pytest.mark.parametrize("method", ["alm", "uld", "hybrid"])
def test_a_steps_loss_is_that_of_its_rows_written_out(toys, sides, tmp_path, method):
    options = {} if method == "uld" else {"options": {"chunk_temperature": 5.0}}
    values = {"method": method, "alpha": 0.7, "temperature": 2.0, "batch_size": 64, "max_steps": 1} | options
    found = prepared(toys, tmp_path / "w", **values).run().history[0]["loss"]
    assert found == pytest.approx(expected(sides, method, 0.7, 2.0, 5.0), rel=2e-3)


@pytest.mark.parametrize("method", ["alm", "uld", "hybrid"])
def test_how_a_step_is_cut_into_passes_changes_no_gradient(toys, tmp_path, method):
    gradients = []
    for name, settings in {"whole": {}, "cut": {"micro_batch_size": 2, "packing": False}}.items():
        training = prepared(toys, tmp_path / name, method=method, max_steps=1, **settings)
        training.run()
        gradients.append([p.grad.clone() for p in training.parameters.values()])
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_shared_tokens_say_the_same_and_none_is_a_part_of_a_character_or_special(sides):
    tokenizers = [side[1] for side in sides]
    ours, theirs = shared_tokens(*tokenizers)
    texts = [token_texts(tokenizer) for tokenizer in tokenizers]
    assert [texts[0][token] for token in ours] == [texts[1][token] for token in theirs]
    assert len(ours) > 90 and " " in [texts[0][token] for token in ours]
    assert all(text and "\ufffd" not in text for text in (texts[0][token] for token in ours))
    assert not {0, 1, 2} & {*ours.tolist(), *theirs.tolist()}


def test_of_running_text_what_the_first_token_says_is_in_no_chunk(sides):
    tokenizer = sides[0][1]
    text = "The quick brown fox"
    ids = np.array(tokenizer(text).input_ids + [tokenizer.eos_token_id])
    spans, lost = target_spans(ids, 1, text, tokenizer, "tokens", "k")
    assert lost == 1 and len(spans) == len(ids)
    assert [text[start:end] for start, end in spans[:-1]] == [tokenizer.decode([token]) for token in ids[:-1]]
    assert spans[-1] == (len(text), len(text) + 1)
    cut, _ = target_spans(ids[:3], 1, text, tokenizer, "tokens", "k")
    assert list(cut) == list(spans[:3])


def test_tokens_that_are_not_those_of_the_text_are_refused(sides):
    with pytest.raises(DataError, match="tokens of the row abc are not those of its text"):
        target_spans(np.array([5, 6, 7, 8]), 1, "something else", sides[0][1], "completion", "abc")


def test_a_row_that_the_teachers_data_set_lacks_is_named(toys, tmp_path):
    path = tmp_path / "fewer"
    path.mkdir()
    for name in ("validation.parquet", "dataset.json"):
        (path / name).write_bytes((toys["teacher_dataset"].path / name).read_bytes())
    table = pq.read_table(toys["teacher_dataset"].path / "train.parquet")
    pq.write_table(table.slice(1), path / "train.parquet")
    with pytest.raises(DataError, match=f"The row {table['sample_id'][0].as_py()} .*is not in the teacher's"):
        prepared(toys | {"teacher_dataset": Input("fewer", "dataset", "", path)}, tmp_path / "w", method="alm")


def test_what_cannot_be_is_refused(toys, tmp_path):
    alone = {name: one for name, one in given(toys).items() if name != "teacher_dataset"}
    for inputs, values, message in (
        (alone, {"method": "alm"}, "give teachers, and as teacher_dataset"),
        (given(toys), {"method": "forward_kl"}, "teacher_dataset is for alm, uld and hybrid"),
        (given(toys), {"method": "alm", "on_policy": 0.5}, "alm learns from given texts"),
        (given(toys | {"teacher_dataset": toys["dataset"]}), {"method": "alm"}, "are not those of its text"),
    ):
        with pytest.raises(Exception, match=message) as raised:
            prepared(toys, tmp_path / "w", inputs=inputs, **values)
        assert raised.type.__module__ == "lfm_tasks.errors"
    described = json.loads((toys["dataset"].path / "dataset.json").read_text())
    assert described["task"] == "instruction"
    with pytest.raises(ConfigError, match="the objective labels has none"):
        distill.open_across(config(method="alm"), given(toys), None, "labels")


def test_without_a_share_of_the_teacher_nothing_of_it_is_needed(toys, tmp_path):
    alone = {name: toys[name] for name in ("student", "dataset")}
    outcome = distill.run(config(method="alm", alpha=0.0), alone, Context(tmp_path / "w"))
    assert outcome.summary["teachers"] == []


def test_the_toys_hold_characters_of_several_tokens(sides):
    """Else the tests above would not see a boundary inside of one."""
    texts = [row["completion"] for row in sides[0][2].values()]
    assert all("é→" in text for text in texts)
    pieces = [said(side, next(iter(side[2])))[2] for side in sides]
    assert pieces[0] != pieces[1]
