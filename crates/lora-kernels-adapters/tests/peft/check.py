"""Loads each adapter as PEFT saved it, and as it was written again (NAME-ours), from the folder that is named."""

import pathlib
import sys
import warnings

import torch
from model import CONFIGS, base
from peft import PeftModel
from safetensors.torch import load_file

folder = pathlib.Path(sys.argv[1])
for name in CONFIGS:
    merged = []
    for path in folder / name, folder / f"{name}-ours":
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            model = PeftModel.from_pretrained(base(), path)
        merged.append(model.merge_and_unload(safe_merge=True).state_dict())
    theirs, ours = (load_file(folder / path / "adapter_model.safetensors") for path in (name, f"{name}-ours"))
    for one, other, what in (theirs, ours, "the adapter"), (*merged, "the merged model"):
        assert one.keys() == other.keys(), (name, what)
        for key in one:
            assert one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]), (name, what, key)
    expected = load_file(folder / name / "merged.safetensors")
    assert all(torch.equal(merged[1][key], value) for key, value in expected.items()), name
    print(f"{name}: {len(ours)} tensors of the adapter and {len(merged[1])} of the merged model are equal")

model = PeftModel.from_pretrained(base(), folder / "new")
new = load_file(folder / "new" / "adapter_model.safetensors")
merged, before = model.merge_and_unload(safe_merge=True).state_dict(), base().state_dict()
for path in "blocks.0.attn.q", "blocks.1.attn.q":
    a, b = (new[f"base_model.model.{path}.lora_{which}.weight"] for which in "AB")
    delta = merged[f"{path}.weight"] - before[f"{path}.weight"]
    assert torch.allclose(delta, 1.5 * b @ a, atol=1e-6) and delta.abs().max() > 0.1
print("new: PEFT merges what this crate made alone")
