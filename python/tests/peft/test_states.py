"""What PEFT does with a model, it does with an accelerated one."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter, prepare_model_for_compiled_hotswap
from torch import nn

from lora_kernels.peft import accelerate, restore


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        given: torch.Tensor = model(input_ids=tiny.tokens()).logits
    return given


def near(given: torch.Tensor, wanted: torch.Tensor) -> None:
    assert ((given - wanted).norm() / wanted.norm()).item() < 1e-5


def config(**options: Any) -> LoraConfig:
    settings: dict[str, Any] = {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["q_proj", "v_proj"],
        "init_lora_weights": False,
        "task_type": "CAUSAL_LM",
    }
    return LoraConfig(**settings | options)


@pytest.fixture
def pair() -> tuple[Any, Any]:
    """An accelerated model, and the same left to PEFT."""
    model = tiny.adapted("llama").eval()
    other = copy.deepcopy(model)
    accelerate(model)
    return model, other


def test_names_and_what_is_saved(pair: tuple[Any, Any], tmp_path: Path) -> None:
    model, other = pair
    assert list(model.state_dict()) == list(other.state_dict())
    names = [name for name, _ in model.named_parameters()]
    assert names == [name for name, _ in other.named_parameters()]
    for one, folder in ((model, "given"), (other, "wanted")):
        one.save_pretrained(tmp_path / folder)
    given, wanted = (tmp_path / folder for folder in ("given", "wanted"))
    file = "adapter_model.safetensors"
    assert (given / file).read_bytes() == (wanted / file).read_bytes()
    settings = [json.loads((path / "adapter_config.json").read_text()) for path in (given, wanted)]
    for one in settings:
        # PEFT writes a set.
        one["target_modules"].sort()
    assert settings[0] == settings[1]
    loaded = PeftModel.from_pretrained(tiny.base_model("llama"), tmp_path / "given").eval()
    report = accelerate(loaded)
    assert not report.names("peft"), report
    near(logits(loaded), logits(other))


def test_merging_and_unmerging(pair: tuple[Any, Any]) -> None:
    model, other = pair
    wanted = logits(other)
    for one in pair:
        one.merge_adapter()
    assert torch.equal(logits(model), logits(other))
    assert all(layer.way == "peft" for layer in accelerate(model).layers)
    model.unmerge_adapter()
    near(logits(model), wanted)
    merged = model.merge_and_unload()
    assert type(merged) is type(tiny.base_model("llama"))
    near(logits(merged), wanted)


def test_adding_choosing_and_disabling_adapters(pair: tuple[Any, Any]) -> None:
    model, other = pair
    torch.manual_seed(9)
    model.add_adapter("second", config(lora_dropout=0.4))
    other.add_adapter("second", config(lora_dropout=0.4))
    other.load_state_dict(model.state_dict())
    for names in ("second", ["default", "second"], "default"):
        for one in pair:
            one.base_model.set_adapter(names)
            one.eval()
        near(logits(model), logits(other))
    with model.disable_adapter(), other.disable_adapter():
        assert torch.equal(logits(model), logits(other))
    # Two adapters at once, with gradients.
    for one in pair:
        one.base_model.set_adapter(["default", "second"])
        one.eval()
    given, wanted = (tiny.step(one)[1] for one in pair)
    assert any("second" in name for name in given)
    assert tiny.distance(given, wanted) < 1e-5
    for one in pair:
        one.delete_adapter("default")
    near(logits(model), logits(other))


def test_adapters_of_several_requests_in_a_batch(pair: tuple[Any, Any]) -> None:
    model, other = pair
    for one in pair:
        torch.manual_seed(9)
        one.add_adapter("second", config())
        one.eval()
    chosen = {"input_ids": tiny.tokens(), "adapter_names": ["second", "__base__"]}
    with torch.no_grad():
        near(model(**chosen).logits, other(**chosen).logits)


@pytest.mark.parametrize("prepared", [False, True], ids=["plain", "prepared for compiling"])
def test_hot_swapping(pair: tuple[Any, Any], tmp_path: Path, prepared: bool) -> None:
    model, _ = pair
    second = get_peft_model(tiny.base_model("llama"), config(target_modules="all-linear")).eval()
    second.save_pretrained(tmp_path)
    if prepared:
        prepare_model_for_compiled_hotswap(model, target_rank=8)
    hotswap_adapter(model, tmp_path, adapter_name="default", torch_device="cpu")
    assert not accelerate(model).names("peft")
    near(logits(model), logits(second))


def test_modules_to_save_are_trained() -> None:
    model = tiny.adapted("llama", modules_to_save=["lm_head"], target_modules=["q_proj", "o_proj"])
    _, wanted = tiny.step(model)
    accelerate(model)
    _, given = tiny.step(model)
    assert any("modules_to_save" in name for name in given)
    assert tiny.distance(given, wanted) < 2e-5


@pytest.mark.parametrize("bias", ["all", "lora_only"])
def test_biases_that_are_trained(bias: str) -> None:
    model = tiny.adapted("qwen2", bias=bias, target_modules=["q_proj", "k_proj", "v_proj"])
    _, wanted = tiny.step(model)
    accelerate(model)
    _, given = tiny.step(model)
    assert any(name.endswith("bias") for name in given)
    assert tiny.distance(given, wanted) < 2e-5


def test_biases_of_adapters() -> None:
    model = tiny.adapted("qwen2", lora_bias=True, target_modules=["q_proj", "k_proj", "v_proj"])
    _, wanted = tiny.step(model)
    assert not accelerate(model).names("peft")
    _, given = tiny.step(model)
    assert any("lora_B.default.bias" in name for name in given)
    assert tiny.distance(given, wanted) < 2e-5


def test_copies(pair: tuple[Any, Any]) -> None:
    model, other = pair
    wanted = logits(other)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert len(accelerate(copy.deepcopy(copied)).groups) == 2
        layer = copied.base_model.model.model.layers[0].self_attn.q_proj
        original = model.base_model.model.model.layers[0].self_attn.q_proj
        assert type(layer) is type(original)
        # Its group is its own: it doesn't compute with the original's weights.
        assert layer.lora_group.members[0] is layer
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.mul_(1.0)
        near(logits(copied), wanted)


def test_restoring(pair: tuple[Any, Any]) -> None:
    model, other = pair
    restore(model)
    types = [type(module) for module in model.modules()]
    assert types == [type(module) for module in other.modules()]
    assert torch.equal(logits(model), logits(other))
