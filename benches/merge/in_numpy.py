"""Merges an adapter of PEFT in f32 into a model in bf16: `in_numpy.py BASE ADAPTER OUT`."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np


def to_bf16(values):
    """Rounds f32 to nearest, ties to even. The bits of a bf16 as u16."""
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def read(path):
    """The header of a file, and its tensors' bytes, mapped."""
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
    return header, np.memmap(path, np.uint8, "r", 8 + size)


def merge(base, adapter, out):
    """The merge in NumPy: the product in f32 by its BLAS, and one rounding to bf16."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    scaling = np.float32(config["lora_alpha"] / config["r"])
    factors, data = read(adapter / "adapter_model.safetensors")

    def factor(name):
        begin, end = factors[name]["data_offsets"]
        return data[begin:end].view(np.float32).reshape(factors[name]["shape"])

    out.mkdir()
    for path in sorted(base.glob("*.safetensors")):
        header, weights = read(path)
        with open(out / path.name, "wb") as file:
            file.write(header_bytes(path))
            for name, info in header.items():
                begin, end = info["data_offsets"]
                module = "base_model.model." + name.removesuffix(".weight")
                if f"{module}.lora_A.weight" not in factors:
                    file.write(weights[begin:end])
                    continue
                old = weights[begin:end].view(np.uint16).astype(np.uint32) << 16
                a, b = factor(f"{module}.lora_A.weight"), factor(f"{module}.lora_B.weight")
                delta = (b @ a) * scaling
                file.write(to_bf16(old.view(np.float32).reshape(info["shape"]) + delta))
    for path in base.glob("*.json"):
        shutil.copy(path, out)


def header_bytes(path):
    with open(path, "rb") as file:
        size = file.read(8)
        return size + file.read(int.from_bytes(size, "little"))


if __name__ == "__main__":
    merge(*map(Path, sys.argv[1:]))
