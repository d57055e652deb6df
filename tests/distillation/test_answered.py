"""The step *distill* with an API's answers as the teacher: beside the same teacher asked directly, and beside losses written out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from lfm_tasks.data import prepare
from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.distillation import distill
from lfm_tasks.distillation.across.answered import open_answered
from lfm_tasks.errors import ConfigError, DataError, InvalidInput
from lfm_tasks.models.opening import open_causal_lm
from lfm_tasks.models.tokenizers import open_tokenizer
from lfm_tasks.step import Input, Outcome
from lfm_tasks.training import report
from lfm_tasks.training.split import read_split
from tests.distillation.conftest import rows_of
from tests.distilled import chunks_of, config, loud, prepared, recorded, step_gradients
from tests.teacher_server import Spoken
from tests.toys import CORPUS
from tests.tuned import Context, llama_input

TEXTS = [*CORPUS, *(text[::-1] for text in CORPUS)]
ANSWERS = {f"{place} {text[:9]}": f" {text[9:40].strip()}é or → so" for place, text in enumerate(TEXTS)}
"""What is said to each prompt, with characters of several tokens, apart, and a space that is not kept."""
ONE_STEP = {"max_steps": 1, "max_grad_norm": 0, "alpha": 0.7, "temperature": 1.0, "batch_size": 64}


class Model:
    """A local model as what an API says: ``model.spoken`` is a server's."""

    def __init__(self, source: Input) -> None:
        self.model, self.tokenizer = open_causal_lm(source), open_tokenizer(source.path)
        self.texts = self.tokenizer.batch_decode([[token] for token in range(len(self.tokenizer))], clean_up_tokenization_spaces=False)

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def log_p(self, asked: str, answer: str) -> torch.Tensor:
        """[tokens of the answer, vocabulary]"""
        before, said = self.ids(asked), self.ids(answer)
        with torch.no_grad():
            return self.model(torch.tensor([before + said])).logits[0, len(before) - 1 : -1].log_softmax(-1)

    def spoken(self, answer: str, asked: str, count: int) -> Spoken:
        found = []
        for token, log_p in zip(self.ids(answer), self.log_p(asked, answer), strict=True):
            order = log_p.argsort(descending=True)[: count if count < 20 else None].tolist()
            found.append((self.texts[token], float(log_p[token]), {self.texts[other]: float(log_p[other]) for other in reversed(order)}))
        return found


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A student, and teachers with its tokenizer and with another one."""
    root = tmp_path_factory.mktemp("models")
    return {
        "student": llama_input(root / "student", layers=1, hidden=16),
        "same": loud(llama_input(root / "same", seed=1)),
        "other": loud(llama_input(root / "other", seed=1, vocabulary=290)),
    }


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr(report, "learning_curve", lambda *_: None)


@pytest.fixture
def answered(ask, server, models):
    """``answered(teacher, k)``: the step *ask_teacher* against one of the models; k = 20: all tokens are listed."""

    def run(teacher: str = "other", k: int = 5, answers: dict[str, str] = ANSWERS, **options: Any) -> Outcome:
        server.answer, server.spoken = answers.__getitem__, Model(models[teacher]).spoken
        return ask([{"text": prompt} for prompt in answers], {"top_logprobs": k, **options.pop("options", {})}, **options)

    return run


def made(rows: Path, model: Input, directory: Path, **options: Any) -> Input:
    """The rows, prepared."""
    plain = {"prompt_template": "{prompt}", "completion_template": " {completion}", "label_choices": False, "append_eos": False}
    parts = {"max_length": 200, "validation_fraction": 0.1, "test_fraction": 0.0}
    raw = {"data": Input("raw", "dataset", "", rows), "model": model}
    outcome = prepare.run(PrepareConfig(**plain | parts | options), raw, Context(directory))
    return Input(directory.name, "dataset", "d" * 64, outcome.outputs["dataset"].path)


def signals_of(outcome: Outcome) -> Input:
    return Input("the answers", "signals", "5" * 64, outcome.outputs["signals"].path)


def given(models, outcome: Outcome, directory: Path, **options: Any) -> dict[str, Input]:
    dataset = made(outcome.outputs["dataset"].path, models["student"], directory / "data", **options)
    return {"student": models["student"], "dataset": dataset, "signals.0": signals_of(outcome)}


def close(one, other, tolerance: float = 1e-6) -> None:
    assert one[0] == pytest.approx(other[0], rel=tolerance)
    for name, gradient in other[1].items():
        torch.testing.assert_close(one[1][name], gradient, atol=tolerance, rtol=1e-4)


@pytest.mark.parametrize("method", ["alm", "hybrid"])
@pytest.mark.parametrize("teacher", ["same", "other"])
def test_an_api_that_lists_all_tokens_teaches_as_its_model_does(models, answered, tmp_path, teacher, method):
    outcome = answered(teacher, k=20)
    inputs = given(models, outcome, tmp_path)
    theirs = made(outcome.outputs["dataset"].path, models[teacher], tmp_path / "theirs")
    local = {"student": inputs["student"], "dataset": inputs["dataset"], "teacher_dataset": theirs, "teachers.0": models[teacher]}
    both = [
        step_gradients(prepared(models, tmp_path / f"w{i}", inputs=one, method=method, **ONE_STEP)) for i, one in enumerate((inputs, local))
    ]
    close(*both)


def written_out(models, outcome: Outcome, dataset: Input, method: str, chunk_temperature: float) -> float:
    """The loss of all training rows as one step, in float64, from the bytes that tokens stand for."""
    student = Model(models["student"])
    student.model = student.model.double()
    vocabulary = {text: token for text, token in student.tokenizer.get_vocab().items() if token not in student.tokenizer.all_special_ids}

    def piece(text: str) -> str:
        return "".join(part for part, _ in student.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text))

    other = Model(models["other"])
    told = {row["prompt"]: row for row in pq.read_table(outcome.outputs["signals"].path / "signals.parquet").to_pylist()}
    total = count = 0.0
    for row in pq.read_table(dataset.path / "train.parquet").to_pylist():
        answer, text = told[row["prompt"]], row["completion"]
        log_q = student.log_p(row["prompt"], text)
        mine = [log_q[place, token] for place, token in enumerate(student.ids(text))]
        far = 0.0
        for ours, theirs in chunks_of(*(one.tokenizer.convert_ids_to_tokens(one.ids(text)) for one in (student, other)), text):
            if method == "alm" or len(ours) > 1 or len(theirs) > 1:
                p, q = sum(answer["logprob"][k] for k in theirs), float(sum(mine[k] for k in ours))
                x, y = (math.exp(one / chunk_temperature) for one in (p, q))
                far += chunk_temperature * (x * math.log(x / y) + (1 - x) * math.log((1 - x) / (1 - y)))
            if method == "hybrid":
                place = theirs[0]
                listed = {answer["tokens"][place]: answer["logprob"][place]}
                listed |= dict(zip(answer["top_tokens"][place], answer["top_logprobs"][place], strict=True))
                known = {vocabulary[piece(one)]: math.exp(value) for one, value in listed.items() if piece(one) in vocabulary}
                if known:
                    q = log_q[ours[0]].exp()[list(known)].tolist()
                    outcomes = [*zip(known.values(), q, strict=True), (1 - sum(known.values()), 1 - sum(q))]
                    far += sum(a * math.log(a / b) for a, b in outcomes)
        total += 0.7 * far - 0.3 * float(sum(mine))
        count += len(mine)
    return total / count


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("method", ["alm", "hybrid"])
def test_a_steps_loss_is_that_of_its_rows_written_out(models, answered, tmp_path, method, api):
    outcome = answered(k=5, options={"api": api})
    inputs = given(models, outcome, tmp_path)
    values = ONE_STEP | {"method": method, "options": {"chunk_temperature": 5.0}}
    found = prepared(models, tmp_path / "w", inputs=inputs, **values).run().history[0]["loss"]
    assert found == pytest.approx(written_out(models, outcome, inputs["dataset"], method, 5.0), rel=1e-4)


@pytest.mark.parametrize("method", ["alm", "hybrid"])
def test_how_a_step_is_cut_into_passes_and_answers_into_artifacts_changes_no_gradient(models, answered, tmp_path, method):
    outcome = answered()
    inputs = given(models, outcome, tmp_path)
    whole = step_gradients(prepared(models, tmp_path / "w", inputs=inputs, method=method, **ONE_STEP))
    cut = prepared(models, tmp_path / "v", inputs=inputs, method=method, **ONE_STEP, micro_batch_size=2, packing=False)
    close(step_gradients(cut), whole, 1e-5)
    signals = inputs.pop("signals.0").path
    table = pq.read_table(signals / "signals.parquet")
    for number, rows in enumerate((table.slice(0, 5), table.slice(5))):
        part = tmp_path / f"part-{number}"
        part.mkdir()
        (part / "signals.json").write_bytes((signals / "signals.json").read_bytes())
        pq.write_table(rows, part / "signals.parquet")
        inputs[f"signals.{number}"] = Input(part.name, "signals", str(number) * 64, part)
    close(step_gradients(prepared(models, tmp_path / "u", inputs=inputs, method=method, **ONE_STEP)), whole, 1e-5)


EMOJI = "Yes: 😀 then é, and 😀😀 done"
CASES: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "as it is": (f" {EMOJI}", [], {}),
    "no space": (EMOJI, [], {}),
    "echo": (f"{{prompt}}  {EMOJI}", [], {}),
    "stop": (f"{EMOJI}\nQ: 😀", ["\nQ:"], {}),
    "spaces around": (f"\n {EMOJI} \n", [], {}),
    "cut in a character": (f"{EMOJI} \ufffd", [], {}),
    "chat": (f" {EMOJI}", [], {"template": "chat"}),
    "in a template": (EMOJI, [], {"completion_template": " I say: {completion}, {prompt} {completion}!"}),
}


@pytest.mark.parametrize("case", CASES)
def test_every_chunk_is_the_same_bytes_on_both_sides(models, answered, tmp_path, case):
    raw, stop, options = CASES[case]
    prompts = [f"{number} what is it now?" for number in range(3)]
    outcome = answered(answers={prompt: raw.replace("{prompt}", prompt) for prompt in prompts}, stop=stop)
    inputs = given(models, outcome, tmp_path, **{"append_eos": True, "validation_fraction": 0.0} | options)
    split, student, teacher = read_split(inputs["dataset"].path, "train", "completion"), Model(models["student"]), Model(models["other"])
    found = open_answered(inputs["signals.0"].path, "x", split, inputs["dataset"].path, student.tokenizer)
    rows = pq.read_table(inputs["signals.0"].path / "signals.parquet").to_pylist()
    assert found.rows == len(split) == 3
    for example, (pair, words) in enumerate(zip(found.pairs, found.words, strict=True)):
        row = next(one for one in rows if np.float32(one["logprob"]).tobytes().find(words.log_p.tobytes()) >= 0)
        first = np.float32(row["logprob"]).tobytes().find(words.log_p.tobytes()) // 4
        ours = split.tokens[example][split.first[example] :]
        theirs = np.array(teacher.ids(row["text"]))[first : first + len(pair.theirs)]
        for chunk in range(pair.count):
            sides = [
                bytes_of(one.tokenizer, ids[side == chunk])
                for one, ids, side in ((student, ours, pair.ours), (teacher, theirs, pair.theirs))
            ]
            assert sides[0] == sides[1] != b""
        matched = student.tokenizer.decode(ours[pair.ours < pair.count])
        assert len(matched) > len(EMOJI) - 4 and matched.strip() in EMOJI + ","


def bytes_of(tokenizer, ids) -> bytes:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    known = {character: byte for byte, character in bytes_to_unicode().items()}
    return bytes(known[character] for piece in tokenizer.convert_ids_to_tokens(ids.tolist()) for character in piece)


def test_ask_prepare_distill_the_loss_falls_and_rows_without_an_answer_are_counted(models, answered, tmp_path):
    outcome = answered()
    rows = tmp_path / "rows"
    rows.mkdir()
    more = [{"prompt": f"{place} is", "completion": "without an answer"} for place in range(40)]
    (rows / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows_of(outcome), *more]))
    dataset = made(rows, models["student"], tmp_path / "data", append_eos=True)
    inputs = {"student": models["student"], "dataset": dataset, "signals.0": signals_of(outcome)}
    context = Context(tmp_path / "w")
    values = {"method": "hybrid", "alpha": 0.8, "temperature": 1.0, "max_steps": 30, "batch_size": 64, "learning_rate": 1e-2}
    found = distill.run(config(**values), inputs, context)
    kept = set(pq.read_table(dataset.path / "train.parquet")["prompt"].to_pylist())
    assert found.summary["rows_without_signals"] == len(kept - set(ANSWERS)) > 30
    assert found.summary["signals"] == ["the answers"] and any(
        f"has a word on {len(kept & set(ANSWERS))} of" in one for one in context.lines
    )
    losses = [metrics["loss"] for _, _, metrics in context.reports if "loss" in metrics]
    assert losses[-1] < 0.7 * losses[0]


def test_at_alpha_0_nothing_of_an_answer_is_needed(models, answered, tmp_path):
    inputs = given(models, answered(), tmp_path)
    outcome = distill.run(config(alpha=0.0), inputs, Context(tmp_path / "w"))
    assert outcome.summary["signals"] == [] and "rows_without_signals" not in outcome.summary


def test_what_cannot_be_learnt_from_answers_is_refused(models, answered, tmp_path):
    inputs = given(models, answered(), tmp_path)
    local = {"teachers.0": models["same"]}
    tokens = {name: inputs[name] for name in ("student", "dataset")}
    whole = {"signals.0": recorded({"teacher": models["same"], **tokens}, tmp_path / "recorded", temperatures=[1.0])}
    for values, more, message in (
        (
            {"method": "forward_kl"},
            {},
            "forward_kl needs a teacher's logits; the answers are an API's answers .* which alm and hybrid learn",
        ),
        ({"method": "uld"}, {}, "uld needs a teacher's logits; .*alm and hybrid"),
        ({"method": "minilm"}, {}, "minilm needs a teacher's logits, activations; .*alm and hybrid"),
        ({"method": "hybrid", "temperature": 2.0}, {}, "temperature=2: an API's log-probabilities are at the temperature 1"),
        ({"method": "alm", "on_policy": 0.5}, {}, "signals are of given texts"),
        ({"method": "alm"}, local, "alm needs teachers and the rows in their tokens: .*or the signals of an API"),
        ({"method": "alm"}, whole, "alm compares texts; signals recorded was recorded over the student's tokens"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepared(models, tmp_path / "w", inputs=inputs | more, **{"temperature": 1.0} | values)
    with pytest.raises(ConfigError, match="answers, which are completions; the objective is tokens. Set it to auto"):
        distill.prepare(config(method="alm"), open_causal_lm(models["student"]), inputs, "tokens", Context(tmp_path / "v"))


def test_rows_that_are_no_answers_are_refused(models, answered, tmp_path):
    outcome = answered()
    inputs = given(models, outcome, tmp_path)
    answers = rows_of(outcome)

    def refused(error: type[Exception], message: str, **changes: Input) -> None:
        with pytest.raises(error, match=message):
            prepared(models, tmp_path / "w", inputs=inputs | {name.replace("_", "."): one for name, one in changes.items()}, method="alm")

    def rows(name: str, changed: dict[str, str], **options: Any) -> Input:
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text("".join(json.dumps(row | changed) + "\n" for row in answers))
        return made(tmp_path / name, models["student"], tmp_path / f"{name}-made", **options)

    refused(DataError, "None of the .* training rows is an answer of the answers", dataset=rows("changed", {"completion": "another"}))
    columns = {"prompt_template": "{prompt} by {model}"}
    refused(DataError, "made of the columns prompt, model, completion: .*prompt_template", dataset=rows("columns", {}, **columns))

    forged = tmp_path / "forged"
    forged.mkdir()
    for file in inputs["dataset"].path.iterdir():
        (forged / file.name).write_bytes(file.read_bytes())
    described = json.loads((forged / "dataset.json").read_text())
    described["template"]["completion_template"] = "{completion}"
    (forged / "dataset.json").write_text(json.dumps(described))
    refused(DataError, "The completion of the row .* is ' .*, and its answer", dataset=Input("forged", "dataset", "", forged))

    before = tmp_path / "before"
    before.mkdir()
    (before / "signals.json").write_text(json.dumps({"format": 1, "access": "text"}))
    refused(InvalidInput, "before has tokens without the answers .*Run ask_teacher again", signals_0=Input("before", "signals", "", before))


def test_answers_that_no_tokens_spell_are_refused(models, ask, server, tmp_path):
    server.answer, server.spoken = ANSWERS.__getitem__, lambda answer, *_: [(f"▁{answer}", -0.5, {"▁": -1.0})]
    inputs = given(models, ask([{"text": prompt} for prompt in ANSWERS], {"top_logprobs": 1}), tmp_path)
    with pytest.raises(DataError, match="No tokens of the answers are a piece .*▁.*tune on it instead"):
        prepared(models, tmp_path / "w", inputs=inputs, method="alm")


def test_single_words_are_learnt_where_the_template_joins_nothing_to_them(models, answered, tmp_path):
    """A chat's answer begins without a space: with that of a template it is another token, which the teacher said nothing of."""
    outcome = answered("same", answers=dict.fromkeys(ANSWERS, "the"))
    with pytest.raises(DataError, match="'the' .*, and the completion is ' the'.*completion_template '{completion}'"):
        prepared(models, tmp_path / "w", inputs=given(models, outcome, tmp_path), method="alm")
    inputs = given(models, outcome, tmp_path / "bare", completion_template="{completion}")
    found = prepared(models, tmp_path / "v", inputs=inputs, method="alm").objective.setting.answered[0]
    assert found.rows == len(found.pairs) and found.share == 1
