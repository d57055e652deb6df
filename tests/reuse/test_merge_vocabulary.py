"""Models of different vocabularies: rows matched by token, and the union's tokenizer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lfm_tasks.errors import IncompatibleModels
from lfm_tasks.reuse import merge as step
from lfm_tasks.reuse.config import MergeConfig
from lfm_tasks.step import Input
from tests.toys import make_llama
from tests.tuned import Context

EMBEDDING = "model.embed_tokens.weight"
TEXT = "the new phone<|tool|> was shown on Monday"


@pytest.fixture
def llamas(tmp_path) -> list[Path]:
    """A base and two of its fine-tunings, all of one vocabulary."""
    make_llama(tmp_path / "base")
    for seed, name in enumerate(("one", "two"), start=1):
        shutil.copytree(tmp_path / "base", tmp_path / name)
        generator = torch.Generator().manual_seed(seed)
        tensors = load_file(tmp_path / name / "model.safetensors")
        moved = {key: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for key, tensor in tensors.items()}
        save_file(moved, tmp_path / name / "model.safetensors", {"format": "pt"})
    return [tmp_path / name for name in ("base", "one", "two")]


def merged(directories: list[Path], **values) -> Path:
    names = ("base", *(f"models.{place}" for place in range(len(directories) - 1)))
    inputs = {name: Input(path.name, "model", path.name, path) for name, path in zip(names, directories, strict=True)}
    work = directories[0].parent / "-".join(["work", *map(str, values.values())])
    return step.run(MergeConfig(**({"method": "task_arithmetic"} | values)), inputs, Context(work)).outputs["model"].path


def permute(directory: Path, seed: int = 0) -> None:
    """Give the tokens other ids, and their rows other places; special tokens stay."""
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    count = len(content["model"]["vocab"])
    new = [0, 1, 2, *(3 + torch.randperm(count - 3, generator=torch.Generator().manual_seed(seed))).tolist()]
    content["model"]["vocab"] = {token: new[place] for token, place in content["model"]["vocab"].items()}
    path.write_text(json.dumps(content))
    tensors = load_file(directory / "model.safetensors")
    moved = torch.empty_like(tensors[EMBEDDING])
    moved[torch.tensor(new)] = tensors[EMBEDDING]
    save_file(tensors | {EMBEDDING: moved}, directory / "model.safetensors", {"format": "pt"})


def add_tokens(directory: Path, *tokens: str, row: float = 1.0) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(directory), AutoModelForCausalLM.from_pretrained(directory)
    tokenizer.add_tokens(list(tokens))
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        for token in tokens:
            model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids(token)] = row
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_equal_vocabularies_have_one_result(llamas):
    assert content(merged(llamas)) == content(merged(llamas, vocabulary="union")) == content(merged(llamas, vocabulary="base"))


@pytest.mark.parametrize("vocabulary", ["base", "union"])
def test_a_permuted_vocabulary_changes_nothing(llamas, vocabulary):
    plain = content(merged(llamas))
    permute(llamas[1])
    with pytest.raises(IncompatibleModels, match="Set vocabulary to base or union"):
        merged(llamas)
    assert content(merged(llamas, vocabulary=vocabulary)) == plain


def test_the_union_has_every_token_with_the_row_of_who_has_it(llamas):
    add_tokens(llamas[1], "<|tool|>", "<|one|>", row=1.0)
    add_tokens(llamas[2], "<|two|>", "<|tool|>", row=3.0)
    result = merged(llamas, vocabulary="union", options={"weights": [0.5, 0.25]})
    tokenizer, model = AutoTokenizer.from_pretrained(result), AutoModelForCausalLM.from_pretrained(result)
    size = len(AutoTokenizer.from_pretrained(llamas[0]))
    assert [tokenizer.convert_tokens_to_ids(token) for token in ("<|tool|>", "<|one|>", "<|two|>")] == [size, size + 1, size + 2]
    rows = model.get_input_embeddings().weight
    assert rows.shape[0] == model.config.vocab_size == len(tokenizer) == size + 3
    # <|tool|>: the mean, 2, stands in for the base; 2 + 0.5 * (1 - 2) + 0.25 * (3 - 2). The others are of one model alone.
    torch.testing.assert_close(rows[size:].mean(1), torch.tensor([1.75, 1.0, 3.0]))
    base = AutoTokenizer.from_pretrained(llamas[0])
    assert tokenizer(TEXT.replace("<|tool|>", "")).input_ids == base(TEXT.replace("<|tool|>", "")).input_ids
    assert size in tokenizer(TEXT).input_ids and tokenizer.decode(tokenizer(TEXT).input_ids) == TEXT
    assert model(**tokenizer(TEXT, return_tensors="pt")).logits.isfinite().all()


def test_a_token_that_a_model_lacks_has_the_bases_row(llamas):
    add_tokens(llamas[0], "<|tool|>", row=2.0)
    result = load_file(merged(llamas, vocabulary="base") / "model.safetensors")[EMBEDDING]
    torch.testing.assert_close(result[-1], torch.full((32,), 2.0))


def test_pieces_of_other_merges_come_with_their_merges(tmp_path):
    for name, vocabulary in (("base", 300), ("one", 340)):
        make_llama(tmp_path / name, vocabulary=vocabulary)
    result = merged([tmp_path / "base", tmp_path / "one"], vocabulary="union")
    union, theirs = AutoTokenizer.from_pretrained(result), AutoTokenizer.from_pretrained(tmp_path / "one")
    text = "the central bank raised rates and markets fell"
    assert union.tokenize(text) == theirs.tokenize(text) != AutoTokenizer.from_pretrained(tmp_path / "base").tokenize(text)
    rows, own = (load_file(path / "model.safetensors")[EMBEDDING] for path in (result, tmp_path / "one"))
    for token in set(union.tokenize(text)):
        expected = own[theirs.convert_tokens_to_ids(token)]
        torch.testing.assert_close(rows[union.convert_tokens_to_ids(token)], expected, atol=1e-6, rtol=1e-5)


def test_tokenizers_without_a_union_and_without_a_file_are_refused(llamas):
    path = llamas[1] / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pre_tokenizer": {"type": "Whitespace"}}))
    add_tokens(llamas[2], "<|two|>")
    with pytest.raises(IncompatibleModels, match=r"of base \(BPE\) and one \(BPE\) have no union.*Set vocabulary=base"):
        merged(llamas, vocabulary="union")
    path.unlink()
    with pytest.raises(IncompatibleModels, match=r"one lacks a tokenizer.json or a vocab_size.*Set vocabulary=same"):
        merged(llamas, vocabulary="base")
