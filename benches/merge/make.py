"""Makes a model of the shapes of a Llama (bf16, several shards) and adapters in f32, as PEFT saves
them: `make.py FOLDER LAYERS VOCABULARY SHARDS RANK...`. What is there already stays.
"""

import json
import sys
from pathlib import Path

import numpy as np
from in_numpy import to_bf16

HIDDEN, KEYS, WIDE = 2048, 512, 8192
LINEAR = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (WIDE, HIDDEN),
    "mlp.up_proj": (WIDE, HIDDEN),
    "mlp.down_proj": (HIDDEN, WIDE),
}
ALPHA = 16


def header_of(tensors):
    """The bytes before the data of a file with these (name, type, shape)."""
    header, end = {}, 0
    for name, dtype, shape in tensors:
        begin, end = end, end + int(np.prod(shape)) * {"BF16": 2, "F32": 4}[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def make_base(folder, layers, vocabulary, shards):
    """A base whose weights are parts of one pool of normal numbers, so that it is made fast."""
    folder.mkdir()
    random = np.random.default_rng(1)
    pool = to_bf16(random.standard_normal(1 << 24, dtype=np.float32) * np.float32(0.02))
    tensors = [("model.embed_tokens.weight", (vocabulary, HIDDEN))]
    for layer in range(layers):
        for module, shape in LINEAR.items():
            tensors.append((f"model.layers.{layer}.{module}.weight", shape))
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors.append((f"model.layers.{layer}.{norm}.weight", (HIDDEN,)))
    tensors.append(("model.norm.weight", (HIDDEN,)))
    names = {}
    for shard in range(shards):
        name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = tensors[shard * len(tensors) // shards : (shard + 1) * len(tensors) // shards]
        with open(folder / name, "wb") as file:
            file.write(header_of([(tensor, "BF16", shape) for tensor, shape in part]))
            for tensor, shape in part:
                names[tensor] = name
                start = int(random.integers(0, 1 << 20))
                left = int(np.prod(shape))
                while left > 0:
                    left -= file.write(pool[start : start + left].tobytes()) // 2
                    start = 0
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))


def make_adapter(folder, layers, rank):
    folder.mkdir()
    random = np.random.default_rng(rank)
    tensors = []
    for layer in range(layers):
        for module, (rows, columns) in LINEAR.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors.append((f"{name}.lora_A.weight", "F32", (rank, columns)))
            tensors.append((f"{name}.lora_B.weight", "F32", (rows, rank)))
    with open(folder / "adapter_model.safetensors", "wb") as file:
        file.write(header_of(tensors))
        for _, _, shape in tensors:
            file.write(random.standard_normal(shape, dtype=np.float32) * np.float32(0.01))
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": ALPHA}
    config["target_modules"] = [module.split(".")[1] for module in LINEAR]
    (folder / "adapter_config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    layers, vocabulary, shards, *ranks = map(int, sys.argv[2:])
    folder.mkdir(exist_ok=True)
    if not (folder / "base").exists():
        make_base(folder / "base", layers, vocabulary, shards)
    for rank in ranks:
        if not (folder / f"rank-{rank}").exists():
            make_adapter(folder / f"rank-{rank}", layers, rank)
