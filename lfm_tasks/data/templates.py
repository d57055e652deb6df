"""Prompts and completions as they stand, and through the model's own chat template. Nothing is evaluated."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from lfm_tasks.errors import DataError
from lfm_tasks.models.tokenizers import chat_prompt, special_frame

_REPLY = "REPLY-STANDS-HERE"


class Plain:
    """The prompt as it stands, begun as the tokenizer begins a text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.prefix = special_frame(tokenizer)[0]
        self.closing = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def prompt(self, text: str) -> str:
        return text

    def completion(self, text: str) -> str:
        return text


class Chat:
    """The prompt as the user's turn of the model's chat template, which writes its special tokens itself."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system_prompt: str) -> None:
        if not tokenizer.chat_template:
            raise DataError("The model has no chat template. Set template to 'plain', or take a model that was tuned to chat.")
        self._tokenizer, self._system_prompt = tokenizer, system_prompt
        self._system = [{"role": "system", "content": system_prompt}] if system_prompt else []
        self.prefix: list[int] = []
        self.closing = self._closing()

    def prompt(self, text: str) -> str:
        return chat_prompt(self._tokenizer, text, self._system_prompt)

    def completion(self, text: str) -> str:
        return text.strip()

    def _closing(self) -> list[int]:
        """What ends the assistant's turn: the template's text after the reply, up to its first special token."""
        turns = [*self._system, {"role": "user", "content": "-"}, {"role": "assistant", "content": _REPLY}]
        tail = self._tokenizer.apply_chat_template(turns, tokenize=False).rpartition(_REPLY)[2]
        ids = self._tokenizer(tail, add_special_tokens=False).input_ids
        special = [position for position, token in enumerate(ids) if token in self._tokenizer.all_special_ids]
        if special:
            return ids[: special[0] + 1]
        return [] if self._tokenizer.eos_token_id is None else [self._tokenizer.eos_token_id]
