"""What is taken, what is left to PEFT, and what the report says."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from lora_kernels.peft import accelerate
from lora_kernels.peft.layer import Accelerated


def whys(model: Any) -> set[str]:
    return {layer.why for layer in accelerate(model).layers if layer.way != "fused"}


def test_dora_stays_pefts_and_computes_what_it_did() -> None:
    model = tiny.adapted("llama", use_dora=True, target_modules=["q_proj"])
    wanted = tiny.step(model)
    assert whys(model) == {"its adapter 'default' is of the variant DoraLinearVariant"}
    given = tiny.step(model)
    assert given[0] == wanted[0] and tiny.distance(given[1], wanted[1]) == 0.0


def test_other_layers_stay_pefts() -> None:
    model = tiny.adapted("gpt2", target_modules=["wte", "c_attn"])
    report = accelerate(model)
    assert [layer.why for layer in report.layers if layer.way == "peft"] == [
        "its class is Embedding"
    ]
    text = str(report)
    assert "2 LoRA layers: 1 fused, 0 delta only, 1 left to PEFT; 0 groups" in text
    assert "transformer.wte: peft, its class is Embedding" in text


def test_experts_of_mixtral_stay_pefts() -> None:
    model = tiny.adapted(
        "mixtral", target_modules=["q_proj"], target_parameters=["experts.gate_up_proj"]
    )
    loss, wanted = tiny.step(model)
    assert whys(model) == {"its class is ParamWrapper"}
    given = tiny.step(model)
    assert given[0] == pytest.approx(loss, rel=1e-6) and tiny.distance(given[1], wanted) < 2e-5


def test_states_of_layers() -> None:
    model = tiny.adapted("llama", target_modules=["q_proj", "k_proj"])
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    model.merge_adapter()
    assert whys(model) == {"its adapters are merged"}
    model.unmerge_adapter()
    model.disable_adapter_layers()
    assert whys(model) == {"its adapters are disabled"}
    model.enable_adapter_layers()
    model.base_model.set_adapter([])
    assert whys(model) == {"it has no active adapter"}
    model.set_adapter("default")
    layer.lora_dropout["default"] = nn.AlphaDropout(0.1)
    assert whys(model) == {"its adapter 'default' has a AlphaDropout for its dropout"}
    layer.lora_dropout["default"] = nn.Identity()
    layer.lora_A["default"].register_forward_hook(lambda *_: None)
    assert whys(model) == {f"a matrix of its adapter 'default' has a hook of {__name__}"}


def test_bases_that_only_get_the_adapters_part() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = tiny.adapted("llama", target_modules=["q_proj", "k_proj", "v_proj"])
    attention = model.base_model.model.model.layers[0].self_attn
    attention.q_proj.base_layer.__class__ = Doubled
    attention.k_proj.base_layer.weight.requires_grad_(True)
    attention.v_proj.base_layer.register_forward_hook(lambda module, given, y: 3 * y)
    loss, wanted = tiny.step(model)
    report = accelerate(model)
    assert {layer.why for layer in report.layers} == {
        "its base is a Doubled",
        "its base's weight is trained",
        "its base has hooks",
    }
    assert len(report.names("delta")) == 3 and not report.groups
    again, given = tiny.step(model)
    assert again == pytest.approx(loss, rel=1e-6)
    assert any(name.endswith("k_proj.base_layer.weight") for name in given)
    assert tiny.distance(given, wanted) < 2e-5


def test_a_class_of_the_users_own_stays_as_it_is() -> None:
    class Own(Linear):
        def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().forward(x) + 1

    model = tiny.adapted("llama", target_modules=["q_proj"])
    model.base_model.model.model.layers[0].self_attn.q_proj.__class__ = Own
    assert whys(model) == {"its class is Own"}


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_before_get_peft_model_by_config(name: str) -> None:
    wanted = tiny.adapted(name)
    _, targets, _ = tiny.MODELS[name]
    config = LoraConfig(r=4, lora_alpha=6, target_modules=targets, fan_in_fan_out=name == "gpt2")
    report = accelerate(config)
    assert not report.layers
    model: Any = get_peft_model(tiny.base_model(name), config)
    names = [name for name, module in model.named_modules() if isinstance(module, Accelerated)]
    assert [f"base_model.model.{layer.name}" for layer in report.layers] == names
    assert report.names("fused") and not report.names("peft") + report.names("delta")
    assert "custom" not in str(config.to_dict())
    model.load_state_dict(wanted.state_dict())
    given, expected = tiny.step(model), tiny.step(wanted)
    assert given[0] == pytest.approx(expected[0], rel=1e-6)
    assert tiny.distance(given[1], expected[1]) < 2e-5
    # The config's layers are grouped by a call with the model.
    assert len(accelerate(model).groups) == tiny.MODELS[name][2]


def test_models_without_lora_are_refused() -> None:
    model = get_peft_model(
        tiny.base_model("llama"),
        IA3Config(target_modules=["q_proj"], feedforward_modules=[]),
    )
    for one in (model, nn.Linear(2, 2)):
        with pytest.raises(ValueError, match="no LoRA layers of PEFT: call accelerate after"):
            accelerate(one)


def test_twice_is_once() -> None:
    model = tiny.adapted("llama")
    first = accelerate(model)
    types = [type(module) for module in model.modules()]
    assert accelerate(model).layers == first.layers
    assert [type(module) for module in model.modules()] == types
