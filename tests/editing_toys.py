"""Facts and toy decoders for tests of editing methods."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from lfm_tasks.catalogue import METHODS
from lfm_tasks.editing.method import Edit, Editing
from lfm_tasks.facts.record import Fact, Probe
from lfm_tasks.models.decoder import Decoder
from lfm_tasks.models.memories.files import Memory
from tests.hyper_toys import with_editor
from tests.toys import make_llama, make_tokenizer
from tests.tuned import Context

PROMPT = "The topic of {} is"


def toy(directory: Path, kind: str = "llama", layers: int = 3):
    """(model, tokenizer): random weights, large enough that tokens differ."""
    torch.manual_seed(0)
    if kind == "llama":
        model = make_llama(directory, layers=layers)
        tokenizer = make_tokenizer(directory)
    else:
        tokenizer = make_tokenizer(directory)
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=32, n_inner=32, n_layer=layers, n_head=4, bos_token_id=1, eos_token_id=2, pad_token_id=0
        )
        model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(6)
    return model.requires_grad_(False), tokenizer


def fact(subject: str, target: str, **fields) -> Fact:
    return Fact(id=f"{subject}-{target}", subject=subject, prompt=PROMPT, target_new=target, **fields)


FACTS = (fact("the election", "sport"), fact("a striker", "tech news"), fact("the leading actor", "business"), fact("a dog", "politics"))
TRAINING = tuple(
    Fact(
        id=f"t{place}",
        subject=subject,
        prompt="{} was shown at",
        target_new=target,
        paraphrases=(f"On Monday {subject} was at",),
        neighbours=(Probe("The quick brown fox jumps over", ("the lazy dog",)),),
    )
    for place, (subject, target) in enumerate(
        [("a new phone", "the fair"), ("the film", "the cup"), ("a faster chip", "the bank"), ("the minister", "time")]
    )
)
PROBE = "Article: the central bank raised rates"
QUICK = {"steps": 3}


def editing(model, tokenizer, workdir: Path, state=None, seed: int = 0) -> Editing:
    return Editing(model, tokenizer, Decoder(model), seed, Context(workdir / "work"), training=TRAINING, state=state or {})


def edit(name: str, given: Editing, facts=FACTS, **values) -> Edit:
    """The method's edit with few steps, and ``values`` as its options."""
    card = METHODS[name]
    values = {key: value for key, value in {**QUICK, **values}.items() if key in card.config_class.model_fields}
    return card.function.edit(given, facts, card.config_class(**values))


def logits(model, tokenizer, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits


def snapshot(model) -> tuple:
    """Weights, their wish for gradients, and every hook."""
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hooks = [(name, len(m._forward_hooks), len(m._forward_pre_hooks), m.forward.__func__) for name, m in model.named_modules()]
    return weights, [parameter.requires_grad for parameter in model.parameters()], hooks, sorted(vars(model))


def same(before: tuple, after: tuple) -> bool:
    return all(torch.equal(before[0][name], after[0][name]) for name in before[0]) and before[1:] == after[1:]


def remembered(name: str, given: Editing, facts=FACTS, **values):
    """The memory of an edit, as the step saves it."""
    config = METHODS[name].config_class
    options = config(**{key: value for key, value in {**QUICK, **values}.items() if key in config.model_fields})
    return Memory(name, options.model_dump(), METHODS[name].function.edit(with_editor(name, given), facts, options).state)
