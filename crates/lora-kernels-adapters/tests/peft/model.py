"""A tiny model with a layer of every kind that PEFT puts LoRA on, and what to train on it."""

import json
import pathlib

import loralib
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers.pytorch_utils import Conv1D


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Linear(12, 10)
        self.k = nn.Linear(12, 6)
        self.v = nn.Linear(12, 12, bias=False)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = Attention()
        self.c_fc = Conv1D(20, 12)
        self.c_proj = Conv1D(12, 12)
        self.norm = nn.LayerNorm(12)


class Tiny(nn.Module):
    """Nothing here is ever called: adapters are put on, filled, saved and merged."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 12)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.conv = nn.Conv2d(3, 5, 3)
        self.classifier = nn.Linear(12, 3)


CONFIGS = {
    "patterns": dict(
        r=3,
        lora_alpha=5,
        use_rslora=True,
        target_modules=["q", "k", "v"],
        # The first that matches counts, and a key is a regular expression. PEFT sorts them when it
        # saves.
        rank_pattern={r"^blocks\.1\..*q": 4, "attn.q": 5, "k": 2},
        alpha_pattern={"0.attn.[qk]": 7.5},
    ),
    "lora_bias": dict(r=2, lora_alpha=3, target_modules=["q", "k"], lora_bias=True, modules_to_save=["classifier"]),
    "bias_all": dict(r=2, lora_alpha=3, target_modules=["q"], bias="all"),
    "bias_lora_only": dict(r=2, lora_alpha=3, target_modules=["q", "v"], bias="lora_only"),
    "conv1d": dict(r=3, lora_alpha=4, target_modules=["c_fc", "c_proj"], fan_in_fan_out=True),
    "dora": dict(r=3, lora_alpha=4, target_modules=["q", "embed"], use_dora=True),
    "embedding": dict(r=3, lora_alpha=4, target_modules=["embed", "q"]),
    "conv": dict(r=2, lora_alpha=4, target_modules=["conv", "k"]),
}


def fill(module, only=lambda name, parameter: True, scale=0.5):
    """Numbers that no default has: lora_B and the biases are not zero."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if only(name, parameter):
                parameter.copy_(torch.randn_like(parameter) * scale)


def base():
    torch.manual_seed(1)
    model = Tiny()
    fill(model)
    return model


def adapted(name):
    model = get_peft_model(base(), LoraConfig(**CONFIGS[name]))
    torch.manual_seed(2)
    fill(model, lambda name, parameter: parameter.requires_grad and "magnitude" not in name)
    # A magnitude stays near what it was made as, the norms of the weight's rows.
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "magnitude" in key:
                parameter.mul_(1 + 0.25 * torch.rand_like(parameter))
    return model


class Loralib(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = loralib.Linear(12, 10, r=3, lora_alpha=5)
        self.v = loralib.Linear(12, 12, r=2, lora_alpha=5, bias=False)
        self.embed = loralib.Embedding(11, 12, r=3, lora_alpha=5)


def write(folder):
    """The base, each adapter as PEFT saves it with the model it merges to, and what loralib has."""
    folder = pathlib.Path(folder)
    (folder / "base").mkdir(parents=True)
    save_file(base().state_dict(), folder / "base" / "model.safetensors", {"format": "pt"})
    for name in CONFIGS:
        model = adapted(name)
        model.save_pretrained(folder / name)
        (folder / name / "README.md").unlink()
        # Sets have no order: sorted, the same file comes of every run.
        config = json.loads((folder / name / "adapter_config.json").read_text())
        config["target_modules"] = sorted(config["target_modules"])
        (folder / name / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        before = base().state_dict()
        merged = model.merge_and_unload(safe_merge=True).state_dict()
        assert merged.keys() == before.keys(), name
        changed = {key: value.contiguous() for key, value in merged.items() if not torch.equal(value, before[key])}
        save_file(changed, folder / name / "merged.safetensors")
    torch.manual_seed(3)
    model = Loralib()
    fill(model)
    save_file(loralib.lora_state_dict(model), folder / "loralib.safetensors")
    fused = nn.Sequential()
    fused.qkv = loralib.MergedLinear(12, 36, r=2, enable_lora=[True, False, True])
    save_file(loralib.lora_state_dict(fused), folder / "loralib_merged.safetensors")
