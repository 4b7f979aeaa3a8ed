"""Tiny models made from configs, with PEFT's adapters, and what a step of training gives."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import reference
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from lora_kernels import Dropout, LoraProjection
from lora_kernels.peft import careful, layer

VOCABULARY = 48
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]

#: A model, the names of its layers with adapters, and how many groups they have per decoder layer.
MODELS: dict[str, tuple[Callable[[], nn.Module], Sequence[str] | str, int]] = {
    "llama": (lambda: LlamaForCausalLM(LlamaConfig(**_SIZES)), "all-linear", 2),
    "qwen2": (
        lambda: Qwen2ForCausalLM(Qwen2Config(**_SIZES)),
        [*_ATTENTION, "gate_proj", "up_proj", "down_proj"],
        2,
    ),
    "gpt2": (
        lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=1, n_head=4, n_positions=32)
        ),
        ["c_attn", "c_proj", "c_fc"],
        0,
    ),
    "mixtral": (
        lambda: MixtralForCausalLM(
            MixtralConfig(**_SIZES, num_local_experts=2, num_experts_per_tok=1)
        ),
        _ATTENTION,
        1,
    ),
}


def base_model(name: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A model without adapters or dropouts of its own."""
    torch.manual_seed(7)
    make, _, _ = MODELS[name]
    model: Any = make()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    for key, value in changes.items():
        setattr(model.config, key, value)
    return model.to(dtype)


def adapted(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """The same with PEFT's adapters, whose B isn't zero."""
    _, targets, _ = MODELS[name]
    settings: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 6,
        "target_modules": targets,
        "init_lora_weights": False,
        "task_type": "CAUSAL_LM",
    }
    if name == "gpt2":
        settings["fan_in_fan_out"] = True
    model = get_peft_model(base_model(name, dtype), LoraConfig(**settings | options))
    model.train()
    return model


def tokens(rows: int = 2, columns: int = 5, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (rows, columns), generator=generator)


def step(model: nn.Module, ids: torch.Tensor | None = None) -> tuple[float, dict[str, Any]]:
    """Loss and gradients."""
    ids = tokens() if ids is None else ids
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    gradients = {
        name: parameter.grad.double()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return loss.item(), gradients


def distance(given: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """The largest relative distance of a tensor."""
    assert given.keys() == wanted.keys() and given
    return max(
        ((given[name].double() - one).norm() / one.norm()).item() for name, one in wanted.items()
    )


class _Masked(nn.Module):
    """Dropout with a mask that is known."""

    def __init__(self, dropout: Dropout) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        mask = reference.keep_mask(x.numel() // x.shape[-1], x.shape[-1], self.dropout)
        factor = 65536 / (65536 - self.dropout.threshold)
        keep = torch.from_numpy(np.ascontiguousarray(mask * factor)).reshape(x.shape)
        return x * keep.to(x.dtype)


class Masks:
    """Lets every call of the kernels draw a mask that is known by its first adapter."""

    def __init__(self, model: nn.Module, patch: pytest.MonkeyPatch) -> None:
        self.drawn: dict[int, Dropout] = {}
        self.seeds = {id(one): seed for seed, one in enumerate(model.parameters(), 100)}
        patch.setattr(layer, "lora_linears", self._known(layer.lora_linears))
        patch.setattr(layer, "lora_linear", self._one)
        patch.setattr(careful, "lora_linears", self._known(careful.lora_linears))
        patch.setattr(careful, "lora_delta", self._known(careful.lora_delta))

    def _known(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: torch.Tensor, projections: Any, *rest: Any, **options: Any) -> Any:
            p = options.pop("dropout_p")
            if p > 0.0:
                seed = self.seeds[id(projections[0].lora_a)]
                options["dropout"] = Dropout(p, seed, 5)
                for one in projections:
                    self.drawn[id(one.lora_a)] = options["dropout"]
            return function(x, projections, *rest, **options)

        return call

    def _one(self, x: torch.Tensor, weight: Any, lora_a: Any, lora_b: Any, **options: Any) -> Any:
        scaling, bias = options.pop("scaling"), options.pop("bias")
        one = LoraProjection(weight, lora_a, lora_b, scaling, bias)
        return layer.lora_linears(x, [one], **options)[0]

    def given_to(self, other: nn.Module, model: nn.Module) -> nn.Module:
        """PEFT's model with the masks that the accelerated one drew."""
        for one, drawing in zip(other.modules(), model.modules()):
            if isinstance(one, LoraLayer) and isinstance(drawing, LoraLayer):
                for name, linear in drawing.lora_A.items():
                    drawn = self.drawn.get(id(linear.weight))
                    if drawn is not None:
                        one.lora_dropout[name] = _Masked(drawn)
        return other


def in_f64(model: nn.Module) -> nn.Module:
    """PEFT's model in float64 with the same numbers."""
    return copy.deepcopy(model).double()
