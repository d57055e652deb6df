"""Open a model's tokenizer, and name it by its content."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lfm_tasks.artifacts.hashing import sha256_file
from lfm_tasks.errors import DataError, InvalidInput


def open_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The fast tokenizer of the model directory ``path``; raises :class:`InvalidInput` where there is none."""
    _tokenizer_file(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises plain Exception on a malformed file
        raise InvalidInput(
            f"The tokenizer cannot be opened ({type(error).__name__}: {error}). Save the model's tokenizer again."
        ) from error
    if not tokenizer.is_fast:
        raise InvalidInput(f"{type(tokenizer).__name__} is not a fast tokenizer. Save the model with the fast version of its tokenizer.")
    return tokenizer


def tokenizer_digest(path: Path) -> str:
    """SHA-256 of the model directory's ``tokenizer.json``: what a prepared data set is bound to."""
    return sha256_file(_tokenizer_file(path))


def special_frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False).input_ids
    framed = tokenizer("a", add_special_tokens=True).input_ids
    for start in range(len(framed) - len(bare) + 1):
        if framed[start : start + len(bare)] == bare:
            return framed[:start], framed[start + len(bare) :]
    raise DataError(f"{type(tokenizer).__name__} changes a text when it adds special tokens; it cannot be used to prepare data.")


def chat_prompt(tokenizer: PreTrainedTokenizerBase, text: str, system: str = "") -> str:
    """``text`` as the user's turn of the model's chat template, and the beginning of the assistant's; with the special tokens.

    Raises :class:`DataError` for a model without a template.
    """
    if not tokenizer.chat_template:
        raise DataError("The model has no chat template. Ask it in plain text, or take a model that was tuned to chat.")
    turns = [{"role": "system", "content": system}] if system else []
    return tokenizer.apply_chat_template([*turns, {"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)


def _tokenizer_file(path: Path) -> Path:
    file = path / "tokenizer.json"
    if not file.is_file():
        raise InvalidInput("The model directory has no tokenizer.json. Save the model with the fast version of its tokenizer.")
    return file
