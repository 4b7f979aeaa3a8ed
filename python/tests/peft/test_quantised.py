"""Adapters over quantised bases.

bitsandbytes' layers are its own, on the CPU. GPTQ's, AWQ's and FP8's need a GPU, so bases that do
their arithmetic stand in for them, under PEFT's own layers.
"""

from __future__ import annotations

import copy
from typing import Any

import bitsandbytes as bnb
import pytest
import tiny
import torch
from peft import LoraConfig, prepare_model_for_kbit_training
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.awq import AwqLoraLinear
from peft.tuners.lora.gptq import GPTQLoraLinear
from torch import nn

from lora_kernels.peft import accelerate

ULP = 2.0**-8


def quantised(kind: str, dtype: torch.dtype) -> Any:
    """A tiny Llama with bases of bitsandbytes."""
    model = tiny.base_model("llama", dtype)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and name != "lm_head":
                options = {"bias": False}
                if kind == "8bit":
                    made = bnb.nn.Linear8bitLt(
                        child.in_features, child.out_features, has_fp16_weights=False, **options
                    )
                else:
                    made = bnb.nn.Linear4bit(
                        child.in_features,
                        child.out_features,
                        compute_dtype=dtype,
                        quant_type=kind,
                        **options,
                    )
                made.load_state_dict({"weight": child.weight.data})
                setattr(parent, name, made.to("cpu"))
    setattr(model, f"is_loaded_in_{'8bit' if kind == '8bit' else '4bit'}", True)
    return model


def adapted(kind: str, dtype: torch.dtype = torch.bfloat16, **options: Any) -> Any:
    from peft import get_peft_model

    config = LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["q_proj", "k_proj", "v_proj", "down_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
        **options,
    )
    model = get_peft_model(quantised(kind, dtype), config)
    model.train()
    return model


def check(model: Any, way: str, **options: Any) -> None:
    """Loss and gradients are as near to PEFT's as the type allows."""
    loss, wanted = tiny.step(model)
    report = accelerate(model, **options)
    assert report.names(way) == [layer.name for layer in report.layers], report  # type: ignore[arg-type]
    given_loss, given = tiny.step(model)
    assert given_loss == pytest.approx(loss, rel=ULP)
    assert tiny.distance(given, wanted) < 8 * ULP


@pytest.mark.parametrize("kind", ["nf4", "fp4", "8bit"])
def test_only_the_adapters_part_over_bitsandbytes(kind: str) -> None:
    check(adapted(kind), "delta")


def test_dropout_over_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted("nf4", lora_dropout=0.3)
    other = copy.deepcopy(model)
    plain = copy.deepcopy(model)
    masks = tiny.Masks(model, monkeypatch)
    report = accelerate(model)
    assert report.names("delta") == [layer.name for layer in report.layers]
    given_loss, given = tiny.step(model)
    assert len(set(masks.drawn.values())) > 1
    loss, wanted = tiny.step(masks.given_to(other, model))
    assert given_loss == pytest.approx(loss, rel=ULP)
    assert tiny.distance(given, wanted) < 8 * ULP
    # Torch draws other masks.
    assert tiny.distance(tiny.step(plain)[1], wanted) > 8 * ULP


def test_a_base_that_is_made_dense_in_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_kernels.peft import plain

    made: list[torch.Size] = []
    function = plain.dequantize_module_weight

    def count(base: Any) -> Any:
        made.append(base.weight.shape)
        return function(base)

    monkeypatch.setattr(plain, "dequantize_module_weight", count)
    check(adapted("nf4"), "fused", dequantise=True)
    # Each of the four layers in forward and again in backward.
    assert len(made) == 8


def test_a_model_prepared_for_training_in_few_bits() -> None:
    """Float32 norms and head, checkpointing, x of two types: as `Trainer` has it."""
    model = quantised("nf4", torch.bfloat16)
    from peft import get_peft_model

    model = prepare_model_for_kbit_training(
        model, gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    config = LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = get_peft_model(model, config)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        check(model, "delta")


class Stored(nn.Module):
    """A base with a quantised weight, as GPTQ's and AWQ's layers are to PEFT."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = dense.in_features, dense.out_features
        self.scale = dense.weight.abs().amax(1, keepdim=True) / 7
        self.register_buffer("qweight", (dense.weight / self.scale).round().to(torch.int8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, (self.qweight * self.scale).to(x.dtype))


class FP8(nn.Linear):
    """A Linear whose weight is of eight bits."""

    def __init__(self, dense: nn.Linear) -> None:
        super().__init__(dense.in_features, dense.out_features, bias=False)
        weight = dense.weight.detach().to(torch.float8_e4m3fn)
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype))


@pytest.mark.parametrize("cls", [GPTQLoraLinear, AwqLoraLinear])
def test_layers_of_gptq_and_awq(cls: type) -> None:
    torch.manual_seed(3)
    dense = nn.Linear(24, 16, bias=False)
    dense.requires_grad_(False)
    config = LoraConfig(r=3, lora_alpha=5, init_lora_weights=False)
    layer = cls(Stored(dense), "default", config=config, r=3, lora_alpha=5)
    assert isinstance(layer, LoraLayer)
    near(layer)


def test_a_base_of_fp8() -> None:
    from peft.tuners.lora import Linear

    torch.manual_seed(3)
    config = LoraConfig(r=3, lora_alpha=5, init_lora_weights=False)
    near(Linear(FP8(nn.Linear(24, 16)), "default", config=config, r=3, lora_alpha=5))


def near(layer: Any) -> None:
    model = nn.ModuleList([layer.to(torch.float32)])

    def run() -> list[torch.Tensor]:
        x = torch.rand(4, 24, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
        model.zero_grad()
        y = layer(x)
        y.square().sum().backward()
        assert x.grad is not None
        return [y, x.grad, *(part["default"].weight.grad for part in (layer.lora_A, layer.lora_B))]

    wanted = run()
    report = accelerate(model)
    assert report.names("delta") == ["0"], report
    for given, one in zip(run(), wanted):
        assert torch.allclose(given, one, rtol=1e-4, atol=1e-5)
