"""Run by mergekit's interpreter: ``INPUTS.safetensors CASES.json MERGED.safetensors``.

A case: ``id``, ``method``, ``parameters``, ``base`` (place among the inputs, or null), ``inputs`` (names of tensors), ``draws`` (names of
uniform numbers that replace the random ones of ``torch.bernoulli``, in the order of the calls).
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

import torch
from mergekit.merge_methods.api import merge_tensors
from safetensors.torch import load_file, save_file


def run(case, tensors):
    draws = iter([tensors[name] for name in case["draws"]])

    def bernoulli(p):
        if p.isnan().any():  # as torch.bernoulli refuses it
            raise ValueError("Expected p_in >= 0 && p_in <= 1")
        return (next(draws).reshape(p.shape) < p).to(p.dtype)

    torch.bernoulli = bernoulli
    inputs = [tensors[name] for name in case["inputs"]]
    return merge_tensors(
        inputs,
        case["method"],
        parameters=case["parameters"],
        base_index=case["base"],
        dtype=torch.promote_types(inputs[0].dtype, torch.float32),
        out_dtype=inputs[0].dtype,
    )


def main(inputs, cases, merged):
    """Cases that mergekit refuses are left out of what is written."""
    tensors, found = load_file(inputs), {}
    for case in json.loads(Path(cases).read_text()):
        with suppress(RuntimeError, ValueError, IndexError):
            found[case["id"]] = run(case, tensors).contiguous()
    save_file(found, merged)


main(*sys.argv[1:])
