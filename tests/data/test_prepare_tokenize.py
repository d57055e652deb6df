"""Ids that fit: what is cut, what never is, and where prompt and completion meet."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfm_tasks.config import parse_config
from lfm_tasks.data.config import PrepareConfig
from lfm_tasks.data.splits import Row
from lfm_tasks.data.templates import Chat
from lfm_tasks.data.tokenize import block_bounds, common_length, make_encoder, shorten, tokens_of
from lfm_tasks.errors import DataError
from lfm_tasks.rows.templates import fill

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120).filter(str.strip)


def encode(tokenizer, values, labels=("x", "y"), **config):
    encoder = make_encoder(parse_config(PrepareConfig, config), tokenizer, list(labels))
    rows = [Row(each, f"{index:064d}", "", "", 0, "train", f"rows:{index}") for index, each in enumerate(values)]
    return encoder(rows)


def ids(tokenizer, content):
    return tokenizer(content, add_special_tokens=False).input_ids


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(text, min_size=1, max_size=4), max_length=st.integers(24, 64))
def test_instruction_fits_and_keeps_what_must_stay(tokenizer, texts, max_length):
    examples = encode(tokenizer, [{"text": each, "label": "x"} for each in texts], max_length=max_length)
    for original, example in zip(texts, examples, strict=True):
        found, cut = example.fields, example.truncated
        assert len(found["input_ids"]) <= max_length
        prompt, completion = found["input_ids"][: found["prompt_tokens"]], found["input_ids"][found["prompt_tokens"] :]
        assert prompt == ids(tokenizer, found["prompt"])
        assert completion == [*ids(tokenizer, " x"), tokenizer.eos_token_id]
        assert found["prompt"].startswith("Article: ") and found["prompt"].endswith("\nTopic:")
        kept = found["prompt"].removeprefix("Article: ").removesuffix("\nTopic:")
        assert original.startswith(kept)
        whole = len(ids(tokenizer, f"Article: {original}\nTopic:")) + len(completion)
        assert cut == (whole > max_length) == (kept != original)


def test_a_long_text_is_cut_no_further_than_needed(tokenizer):
    (example,) = encode(tokenizer, [{"text": "The quick brown fox jumps over the lazy dog. " * 40, "label": "y"}], max_length=48)
    assert example.truncated
    assert len(example.fields["input_ids"]) >= 47


def test_how_much_of_a_text_is_looked_at_changes_nothing(tokenizer, monkeypatch):
    texts = [*(" parliament" * n for n in range(18, 26)), "The quick brown fox. " * 30, "\U0001f600 é" * 90, "short"]
    found = []
    for characters in (3, 6, 1000):
        monkeypatch.setattr("lfm_tasks.data.tokenize._CHARACTERS_A_TOKEN", characters)
        found.append(encode(tokenizer, [{"text": each, "label": "x"} for each in texts], max_length=66))
    assert found[0] == found[1] == found[2]
    whole = [text for text, example in zip(texts, found[0], strict=True) if not example.truncated]
    assert any(len(text) > 3 * 66 for text in whole), "a text that fits is longer than what was looked at first"
    assert len(whole) < len(texts)


def test_two_columns_are_cut_to_one_length(tokenizer):
    values = {"question": "fox " * 60, "passage": "dog " * 90, "hint": "short", "label": "x"}
    (example,) = encode(tokenizer, [values], prompt_template="Q: {question}|P: {passage}|H: {hint}|", max_length=64)
    prompt = example.fields["prompt"]
    question, passage, hint = (part[3:] for part in prompt.strip("|").split("|"))
    assert hint == "short"
    assert abs(len(ids(tokenizer, question)) - len(ids(tokenizer, passage))) <= 2
    assert 60 <= len(example.fields["input_ids"]) <= 64


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5), st.integers(1, 80))
def test_common_length_is_the_largest_that_saves_enough(lengths, excess):
    level = common_length(lengths, excess)

    def saved(limit):
        return sum(max(0, length - limit) for length in lengths)

    expected = max((limit for limit in range(max(lengths) + 1) if saved(limit) >= excess), default=0)
    assert level == expected


def test_completion_longer_than_max_length(tokenizer):
    values = [{"text": "fine", "answer": "ok"}, {"text": "fine", "answer": "many words " * 30}]
    with pytest.raises(
        DataError, match=r"rows:1: the completion alone has \d+ tokens; max_length, prompt included, is 32. Raise max_length"
    ):
        encode(tokenizer, values, (), completion_template=" {answer}", label_choices=False, max_length=32)


def test_template_longer_than_max_length(tokenizer):
    with pytest.raises(DataError, match="rows:0: the prompt's fixed part .* leave no room for the text in max_length 16"):
        encode(tokenizer, [{"text": "t" * 50, "label": "x"}], prompt_template="Please read this article: {text} and answer", max_length=16)


def test_labels_and_completions(tokenizer):
    first, second = encode(tokenizer, [{"text": "a", "label": "y"}, {"text": "b", "label": "x"}])
    assert (first.fields["label"], first.fields["completion"]) == (1, " y")
    assert (second.fields["label"], second.fields["completion"]) == (0, " x")
    (free,) = encode(tokenizer, [{"text": "a", "label": "y"}], (), label_choices=False)
    assert free.fields["label"] == -1


def test_without_eos(tokenizer):
    (example,) = encode(tokenizer, [{"text": "a", "label": "y"}], append_eos=False)
    assert example.fields["input_ids"] == [*ids(tokenizer, "Article: a\nTopic:"), *ids(tokenizer, " y")]


def test_chat_equals_the_template_of_the_whole_conversation(tokenizer):
    options = {"template": "chat", "system_prompt": "Be brief.", "prompt_template": "{text}", "max_length": 200}
    (example,) = encode(tokenizer, [{"text": "Which topic?", "label": "x"}], **options)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which topic?"}]
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "x"}], tokenize=False)
    assert example.fields["completion"] == "x"
    assert tokenizer.decode(example.fields["input_ids"]) == whole.rstrip("\n")
    assert example.fields["input_ids"].count(tokenizer.bos_token_id) == 3


def test_chat_text_is_cut_inside_the_turn(tokenizer):
    (example,) = encode(
        tokenizer, [{"text": "The quick brown fox. " * 30, "label": "x"}], template="chat", prompt_template="{text} Topic?", max_length=48
    )
    assert example.truncated and len(example.fields["input_ids"]) <= 48
    assert example.fields["prompt"].endswith(" Topic?<|im_end|>\n<|im_start|>assistant\n")


def test_model_without_chat_template(toy_tokenizer_directory):
    from lfm_tasks.models.tokenizers import open_tokenizer

    bare = open_tokenizer(toy_tokenizer_directory)
    bare.chat_template = None
    with pytest.raises(DataError, match="The model has no chat template. Set template to 'plain'"):
        Chat(bare, "")


def test_special_tokens_of_the_tokenizer_stand_once(tmp_path):
    from tokenizers.processors import TemplateProcessing

    from lfm_tasks.models.tokenizers import open_tokenizer, special_frame
    from tests.toys import make_tokenizer

    made = make_tokenizer(tmp_path)
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    made.save_pretrained(tmp_path)
    framing = open_tokenizer(tmp_path)
    assert special_frame(framing) == ([1], [2])
    (prompt,) = encode(framing, [{"text": "a", "label": "x"}])
    assert prompt.fields["input_ids"] == [1, *ids(framing, "Article: a\nTopic:"), *ids(framing, " x"), 2]
    (long,) = encode(framing, [{"text": "dog " * 60, "label": "x"}], task="classification", max_length=20)
    assert long.truncated and len(long.fields["input_ids"]) == 20
    assert long.fields["input_ids"] == framing(long.fields["text"]).input_ids


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(text, min_size=1, max_size=4), max_length=st.integers(8, 20), eos=st.booleans())
def test_text_blocks_lose_nothing(tokenizer, texts, max_length, eos):
    rows = [{"text": each} for each in texts]
    blocks = encode(tokenizer, rows, (), task="text", max_length=max_length, append_eos=eos)
    expected = [token for each in texts for token in ids(tokenizer, each) + ([tokenizer.eos_token_id] if eos else [])]
    assert [token for block in blocks for token in block.fields["input_ids"]] == expected
    assert "".join(block.fields["text"] for block in blocks) == "".join(texts)
    assert all(len(block.fields["input_ids"]) <= max_length for block in blocks)
    assert len({block.fields["sample_id"] for block in blocks}) == len(blocks)


@given(st.integers(1, 500), st.integers(8, 64))
def test_block_bounds(length, block):
    bounds = block_bounds(length, block)
    assert [token for start, end in bounds for token in range(start, end)] == list(range(length))
    assert len(bounds) == 1 or all(2 <= end - start <= block for start, end in bounds)


@given(text, st.integers(0, 200))
def test_shorten_always_shortens(tokenizer, content, keep):
    _, (offsets,) = tokens_of(tokenizer, [content])
    short = shorten(content, offsets, keep)
    assert content.startswith(short) and len(short) < len(content)


def test_fill_replaces_once_and_evaluates_nothing():
    values = {"text": "{label} {0.__class__} {{7*7}}", "label": "x"}
    assert fill("{text}|{label}|{not a column}|{}", values) == "{label} {0.__class__} {{7*7}}|x|{not a column}|{}"


def test_tokenizer_without_end_token(toy_tokenizer_directory):
    from lfm_tasks.models.tokenizers import open_tokenizer

    bare = open_tokenizer(toy_tokenizer_directory)
    bare.eos_token = None
    with pytest.raises(DataError, match="no end-of-sequence token. Set append_eos to false"):
        encode(bare, [{"text": "a", "label": "x"}])
