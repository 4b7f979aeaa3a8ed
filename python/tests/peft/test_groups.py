"""Layers that are computed in one call: which, and that they may be."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import nn

from lora_kernels.peft import accelerate
from lora_kernels.peft.group import calls_with_one_input
from lora_kernels.torch import call


class Reads(nn.Module):
    """Forwards that a reader could take for ones with shared inputs."""

    def forward(self, x: torch.Tensor, other: Any = None) -> Any:
        a = self.a(x)
        b = self.b(x).view(-1)
        if other is not None:
            # May not happen.
            c = self.c(x)
            d = self.d(other) * self.e(other)
        else:
            c = self.f(x)
            d = None
        x = x + 1
        g = self.g(x), self.h(x), self.i(x + 0)
        j = self.j(x) if d is None else self.k(x)
        return a, b, c, g, j, self.l(x, 2)


def test_what_is_read_from_a_forward() -> None:
    assert calls_with_one_input(Reads()) == [("a", "b"), ("d", "e"), ("g", "h")]


class Calls:
    """Counts the calls of the kernels, by their number of projections."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        function = call.forward

        def count(config: Any, *arguments: Any, **options: Any) -> Any:
            self.sizes.append(len(config.scalings))
            return function(config, *arguments, **options)

        patch.setattr(call, "forward", count)


def test_one_call_for_those_that_have_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    model = tiny.adapted("llama", target_modules=["q_proj", "v_proj", "down_proj"])
    report = accelerate(model)
    assert [[name[-6:] for name in names] for names in report.groups] == [["q_proj", "v_proj"]]
    tiny.step(model)
    assert calls.sizes == [2, 1]
    assert not accelerate(model, group=False).groups
    calls.sizes.clear()
    tiny.step(model)
    assert calls.sizes == [1, 1, 1]
    report = accelerate(model, group=[("v_proj", "q_proj")])
    assert len(report.groups) == 1


def test_a_layer_that_differs_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    model = tiny.adapted("llama", target_modules=["q_proj", "k_proj", "v_proj"])
    attention = model.base_model.model.model.layers[0].self_attn
    loss, wanted = tiny.step(model)
    accelerate(model)
    # A hook may want to see the layer's own x, or to gather its parameters.
    attention.k_proj.register_forward_pre_hook(lambda module, given: None)
    again, given = tiny.step(model)
    assert calls.sizes == [2, 1]
    assert again == pytest.approx(loss, rel=1e-6) and tiny.distance(given, wanted) < 2e-5
    attention.v_proj.lora_dropout["default"] = nn.Dropout(0.5)
    calls.sizes.clear()
    tiny.step(model)
    assert calls.sizes == [1, 1, 1]
    attention.v_proj.merge()
    calls.sizes.clear()
    tiny.step(model)
    assert calls.sizes == [1, 1]


class Block(nn.Module):
    """Calls a and b with what the source says is the same, but isn't always."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 6), nn.Linear(8, 6)
        self.write = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        if self.write:
            x.mul_(2.0)
        b = self.b(x)
        return a + b


def made() -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    config = LoraConfig(r=2, target_modules=["a", "b"], init_lora_weights=False)
    return get_peft_model(Block(), config)


def test_another_x_is_computed_anew() -> None:
    model = made()
    block = model.base_model.model
    block.write = True
    x = torch.rand(3, 8)
    wanted = model(x.clone())
    assert len(accelerate(model).groups) == 1
    with pytest.warns(UserWarning, match="was computed for nothing"):
        given = model(x.clone())
    assert torch.allclose(given, wanted, atol=1e-5)
    # Nothing waits for a later call.
    assert block.a.lora_group.x is None and not block.a.lora_group.ys


def test_results_are_not_taken_later() -> None:
    model = made()
    block = model.base_model.model
    accelerate(model)
    x = torch.rand(3, 8)
    other = block.b(x)
    block.a(x)
    with torch.no_grad():
        block.b.lora_B["default"].weight.mul_(2.0)
    # The same x: b's result of the old weights waits, and isn't taken.
    with pytest.warns(UserWarning, match="was computed for nothing"):
        changed = block.b(x)
    assert not torch.allclose(changed, other)
    block.a(x)
    another = torch.rand(3, 8)
    with pytest.warns(UserWarning, match="was computed for nothing"):
        given = block.b(another)
    assert torch.equal(given, block.b(another))
    block.a(x)
    with model.disable_adapter():
        wanted = x @ block.b.base_layer.weight.T + block.b.base_layer.bias
        assert torch.allclose(block.b(x), wanted, atol=1e-6)


def test_inference_mode_and_generation() -> None:
    model = tiny.adapted("llama").eval()
    options: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    wanted = model.generate(input_ids=tiny.tokens(), **options)
    accelerate(model)
    assert torch.equal(model.generate(input_ids=tiny.tokens(), **options), wanted)
    with torch.inference_mode():
        model(input_ids=tiny.tokens())


def test_a_compiled_model_has_no_graph_break_and_no_graph_per_length() -> None:
    model = tiny.adapted("llama")
    accelerate(model)
    graphs: list[Any] = []
    aot_eager = torch._dynamo.lookup_backend("aot_eager")

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for rows, columns in ((2, 5), (3, 7), (4, 9)):
        ids = tiny.tokens(rows, columns)
        loss, wanted = tiny.step(model, ids)
        given_loss, given = tiny.step(compiled, ids)
        assert given_loss == pytest.approx(loss, rel=1e-6)
        assert (
            tiny.distance(given, {f"_orig_mod.{name}": one for name, one in wanted.items()}) < 1e-6
        )
    # The first one, and one for any length.
    assert len(graphs) == 2
    calls = [node for node in graphs[-1].graph.nodes if "lora_kernels.forward" in str(node.target)]
    # q, k and v; o; gate and up; down.
    assert len(calls) == 4
