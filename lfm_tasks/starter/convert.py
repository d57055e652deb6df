"""From the files of a starter's package to an artifact's directory: deterministic bytes, no path, no time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lfm_tasks.starter.catalogue import Starter
from lfm_tasks.starter.countries import country_facts
from lfm_tasks.starter.fetch import extract, fetch
from lfm_tasks.starter.images import fashion_mnist

NEUTRAL = 0.5


def build(starter: Starter, cache: Path, scratch: Path, target: Path) -> None:
    """Fetch ``starter`` and write its artifact's directory ``target``; ``scratch`` is an empty directory."""
    files = extract(fetch(starter, cache), starter, scratch)
    CONVERTERS[starter.converter](starter, files, target)


def smollm2(starter: Starter, files: list[Path], target: Path) -> None:
    """GGUF (4 bits) to float32. ``dequantize`` makes the weights ordinary parameters that can be trained and saved."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from lfm_tasks.models.saving import save_model

    (gguf,) = files
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        local_files_only=True,
    ).eval()
    # The header names no padding token and no longest text. Padding takes the end token, as the model's authors do.
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = model.config.bos_token_id = tokenizer.bos_token_id
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    for config in (model.config, model.generation_config):
        for name in ("_model_name_or_path", "_from_model_config"):
            config.__dict__.pop(name, None)
    save_model(model, tokenizer, target)


def minilm(starter: Starter, files: list[Path], target: Path) -> None:
    """The encoder alone: weights and tokenizer as they are, without the pooling settings of sentence-transformers."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from lfm_tasks.models.saving import save_model

    directory = files[0].parent
    model = AutoModel.from_pretrained(directory, dtype=torch.float32, local_files_only=True, use_safetensors=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    # The package's file pads and cuts to 128 tokens by itself.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    save_model(model, tokenizer, target)


def bbc_news(starter: Starter, files: list[Path], target: Path) -> None:
    rows = []
    recoded = 0
    for path in sorted(files):
        text, changed = _decode(path.read_bytes())
        recoded += changed
        rows.append((text.strip(), path.parent.name))
    _write(starter, rows, {"recoded_from_cp1252": recoded}, target)


def vader_snippets(starter: Starter, files: list[Path], target: Path) -> None:
    """Lines of ``id TAB mean rating TAB text``; ratings between -0.5 and 0.5 are neutral and left out."""
    rows, neutral = [], 0
    for line in files[0].read_text(encoding="utf-8").splitlines():
        _, rating, text = line.split("\t")
        if abs(float(rating)) <= NEUTRAL:
            neutral += 1
        else:
            rows.append((text.strip(), "positive" if float(rating) > 0 else "negative"))
    _write(starter, rows, {"neutral_left_out": neutral}, target)


def sarcasm(starter: Starter, files: list[Path], target: Path) -> None:
    names = {"0": "sincere", "1": "sarcastic"}
    rows = []
    for line in files[0].read_text(encoding="utf-8").splitlines():
        sample = json.loads(line)
        rows.append((sample["input"][-1]["content"].strip(), names[sample["ideal"]]))
    _write(starter, rows, {}, target)


CONVERTERS: dict[str, Callable[[Starter, list[Path], Path], None]] = {
    "smollm2": smollm2,
    "minilm": minilm,
    "bbc_news": bbc_news,
    "vader_snippets": vader_snippets,
    "sarcasm": sarcasm,
    "country_facts": country_facts,
    "fashion_mnist": fashion_mnist,
}


def _decode(data: bytes) -> tuple[str, bool]:
    """Text as UTF-8, or as Windows-1252 where it is not; the second value says which."""
    try:
        return data.decode("utf-8"), False
    except UnicodeDecodeError:
        return data.decode("cp1252"), True


def _write(starter: Starter, rows: Iterable[tuple[str, str]], counts: dict[str, Any], target: Path) -> None:
    """``data.parquet`` with the columns text and label, and ``source.json``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, labels = zip(*rows, strict=True)
    target.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": pa.array(texts, pa.string()), "label": pa.array(labels, pa.string())})
    pq.write_table(table, target / "data.parquet", compression="zstd", compression_level=3, store_schema=False)
    source = starter.provenance() | {"rows": len(texts), "labels": dict(sorted(Counter(labels).items())), **counts}
    (target / "source.json").write_text(json.dumps(source, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
