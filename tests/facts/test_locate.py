"""Where subject and target are, for tokenizers of every kind (the upstream editors count tokens of pieces, and miss)."""

from __future__ import annotations

from functools import cache

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lfm_tasks.errors import DataError
from lfm_tasks.facts.locate import encode, encode_answer
from lfm_tasks.facts.record import Fact
from tests.toys import make_tokenizer

CORPUS = [
    "The capital of France is Paris. France's capital is Paris. The capital of Cuba is Havana.",
    "Cuba is an island. 日本の首都は東京です。 Straße nach Köln. He said that the capital of Peru is Lima.",
    "The capital of Papua New Guinea is Port Moresby. Q: Is Köln-Süd an {100 %} [x]? A: €",
] * 3


def trained(model, trainer, pre_tokenizer, decoder, **options) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    tokenizer.train_from_iterator(CORPUS, trainer)
    if "post" in options:
        tokenizer.post_processor = options.pop("post")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", **options)


def byte_level(**options) -> PreTrainedTokenizerFast:
    trainer = trainers.BpeTrainer(
        vocab_size=350, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    return trained(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), **options)


def sentencepiece_bpe(**options) -> PreTrainedTokenizerFast:
    """As Llama 2's: spaces are letters, one more at the beginning; no merge that was learnt crosses a space."""
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    model = models.BPE(unk_token="<unk>", fuse_unk=True)
    made = trained(model, trainer, pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace(), **options)
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return made


def sentencepiece_unigram(**options) -> PreTrainedTokenizerFast:
    trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False)
    return trained(models.Unigram(), trainer, pre_tokenizers.Metaspace(), decoders.Metaspace(), **options)


def around(before: str = "<s> ", after: str = "") -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=f"{before}$A{after}", special_tokens=[("<s>", 1), ("</s>", 2)])


@cache
def made(kind: str) -> PreTrainedTokenizerFast:
    return TOKENIZERS[kind]()


TOKENIZERS = {
    "byte-level BPE": byte_level,
    "byte-level BPE, offsets without the space": lambda: byte_level(post=processors.ByteLevel(trim_offsets=True)),
    "SentencePiece BPE": sentencepiece_bpe,
    "SentencePiece BPE, BOS": lambda: sentencepiece_bpe(post=around()),
    "SentencePiece BPE, BOS and EOS": lambda: sentencepiece_bpe(post=around(after=" </s>")),
    "SentencePiece unigram": sentencepiece_unigram,
    "SentencePiece unigram, EOS": lambda: sentencepiece_unigram(post=around(before="", after=" </s>")),
}
CASES = {
    "in the middle": ("France", "The capital of {} is", "Paris", ""),
    "at position 0": ("Cuba", "{} is an island whose capital is", "Havana", ""),
    "at position 0 after a prefix": ("Cuba", "{} is an island whose capital is", "Havana", "He said that. "),
    "with 's": ("France", "{}'s capital is", "Paris", ""),
    "last before the target": ("France", "The capital of {}", "Paris", ""),
    "last before the target, space after it": ("France", "The capital of {} ", "Paris", ""),
    "braces and percent": ("{100 %} [x]", "The price of {} is", "Paris", ""),
    "another script": ("日本", "{}の首都は", "東京", ""),
    "accents": ("Köln", "Straße nach {} is", "Köln-Süd", ""),
    "of several tokens": ("Papua New Guinea", "The capital of {} is", "Port Moresby", ""),
    "also elsewhere in the text": ("France", "The capital of {} is", "France", ""),
    "line break before the target": ("France", "Q: The capital of {}?\nA:\n", "Paris", ""),
}


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("case", CASES)
def test_subject_and_target_by_their_characters(kind: str, case: str):
    """The tokens up to the subject's last one spell its last character, and not before; those from the target's first spell the target."""
    subject, prompt, target, prefix = CASES[case]
    tokenizer, fact = made(kind), Fact("1", subject, prompt, target)
    found = encode(tokenizer, fact, target, prefix)
    text = f"{prefix}{fact.text.rstrip(' ')}"
    whole = text + ("" if text.endswith("\n") else " ") + target
    assert list(found.input_ids) == [i for i in tokenizer(whole)["input_ids"] if i != tokenizer.eos_token_id]
    assert found.prompt_ids + found.target_ids == found.input_ids and found.target_ids
    offsets = tokenizer(whole, return_offsets_mapping=True)["offset_mapping"]
    end = len(prefix) + fact.subject_span[1]
    start, stop = offsets[found.subject_last]
    assert start < end <= stop
    assert max(b for _, b in offsets[: found.target_start]) <= len(text) < min(b for _, b in offsets[found.target_start :] if b)
    assert tokenizer.unk_token_id not in found.target_ids
    assert tokenizer.decode(list(found.target_ids)).replace(" ", "").endswith(target.replace(" ", ""))


def test_bos_is_there_once_though_a_chat_template_writes_it(tmp_path):
    tokenizer = byte_level(post=around())
    plain = encode(tokenizer, Fact("1", "Cuba", "The capital of {} is", "Havana"), "Havana")
    assert plain.input_ids[0] == tokenizer.bos_token_id and plain.input_ids.count(tokenizer.bos_token_id) == 1
    chat = encode(tokenizer, Fact("1", "Cuba", "The capital of {} is", "Havana"), "Havana", "<s>user\n")
    assert chat.input_ids.count(tokenizer.bos_token_id) == 1 and chat.input_ids[0] == tokenizer.bos_token_id
    assert chat.target_ids == plain.target_ids


def test_a_chat_template_as_prefix(tmp_path):
    tokenizer = make_tokenizer(tmp_path)
    prefix = tokenizer.apply_chat_template([{"role": "user", "content": "Go on."}], tokenize=False, add_generation_prompt=True)
    fact = Fact("1", "the minister", "The election was won by {} in", "May")
    bare, found = encode(tokenizer, fact, "May"), encode(tokenizer, fact, "May", prefix)
    assert found.target_ids == bare.target_ids
    assert found.input_ids.count(tokenizer.bos_token_id) == 2  # the template's, one for each turn; none is added
    moved = len(found.input_ids) - len(bare.input_ids)
    assert moved > 0 and found.subject_last == bare.subject_last + moved


def merging() -> PreTrainedTokenizerFast:
    """Without a pre-tokenizer a merge may cross the border: "s P" is one token."""
    letters = sorted(set("The capitl of rnsPR om."))
    vocabulary = {letter: place for place, letter in enumerate(letters)}
    merges = [("s", " "), ("s ", "P")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab=vocabulary, merges=merges)))


def test_a_token_across_the_border_counts_to_the_target():
    tokenizer, fact = merging(), Fact("1", "of", "The capital {} is", "Paris")
    found = encode(tokenizer, fact, "Paris")
    assert tokenizer.convert_ids_to_tokens(list(found.target_ids)) == ["s P", "a", "r", "i", "s"]
    assert tokenizer.convert_ids_to_tokens(list(found.prompt_ids))[-1] == "i"
    other = encode(tokenizer, fact, "Rom")
    assert tokenizer.convert_ids_to_tokens(list(other.target_ids)) == ["s ", "R", "o", "m"]


def test_a_space_that_is_a_token_counts_to_the_target():
    tokenizer = byte_level(post=processors.ByteLevel(trim_offsets=True))
    ids, _, start = encode_answer(tokenizer, "The capital is", "€")
    assert tokenizer.convert_ids_to_tokens(ids)[start] == "Ġ"


def test_refusals(tmp_path):
    tokenizer, fact = make_tokenizer(tmp_path), Fact("7", "Cuba", "The capital of {} is", "Havana")
    for target in ("", "  "):
        with pytest.raises(DataError, match=f"Fact 7: the target {target!r} has no token"):
            encode(tokenizer, fact, target)
    with pytest.raises(DataError, match="Fact 7: .* tokens with its target; the model takes 512"):
        encode(tokenizer, fact, "Havana", "long " * 600)
    with pytest.raises(DataError, match="Fact 1: no token of the subject 's' stands before the target"):
        encode(merging(), Fact("1", "s", "The capital i{}", "Paris"), "Paris")
