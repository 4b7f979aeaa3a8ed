"""Against PyTorch's own autograd, on the test device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import torch
from torch import nn

from lora_kernels import Dropout, LoraProjection, Mask, WeightLayout
from lora_kernels.torch import LoraLinear, draw_dropout, lora_linear, lora_linears

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
DROPOUT = Dropout(0.3, 0x0123456789ABCDEF, 42)


def keep(x: torch.Tensor, dropout: Dropout | None) -> torch.Tensor:
    """The factor of each element of x, in float64."""
    rows = x.reshape(-1, x.shape[-1])
    if dropout is None:
        return torch.ones_like(x, dtype=torch.float64)
    mask = reference.keep_mask(*rows.shape, dropout) * (65536 / (65536 - dropout.threshold))
    return torch.from_numpy(np.ascontiguousarray(mask)).reshape(x.shape)


def by_torch(
    x: torch.Tensor,
    one: LoraProjection[torch.Tensor],
    dropout: Dropout | None,
    layout: WeightLayout = WeightLayout.OUT_IN,
) -> torch.Tensor:
    """The same layer of torch's own operations, in float64."""
    weight = one.weight.double() if layout is WeightLayout.OUT_IN else one.weight.double().T
    y = nn.functional.linear(x.double(), weight, None if one.bias is None else one.bias.double())
    if one.lora_a is not None and one.lora_b is not None:
        y = (
            y
            + one.scaling
            * (x.double() * keep(x, dropout))
            @ one.lora_a.double().T
            @ one.lora_b.double().T
        )
    return y


def near(given: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> None:
    assert given.shape == wanted.shape
    relative = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    error = (given.double() - wanted.double()).abs().max().item()
    assert error <= relative * wanted.double().abs().max().item(), error


def leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().requires_grad_(True)


def made(
    dtype: torch.dtype,
    shapes: list[tuple[int, int]],
    in_features: int,
    adapter: torch.dtype | None = None,
) -> list[LoraProjection[torch.Tensor]]:
    def uniform(*shape: int, scale: float, dtype: torch.dtype) -> torch.Tensor:
        return ((torch.rand(shape) * 2 - 1) * scale).to(dtype)

    adapter = adapter or dtype
    return [
        LoraProjection(
            uniform(n, in_features, scale=0.3, dtype=dtype),
            uniform(r, in_features, scale=0.5, dtype=adapter).requires_grad_(True) if r else None,
            uniform(n, r, scale=0.5, dtype=adapter).requires_grad_(True) if r else None,
            1.5 - index,
            uniform(n, scale=1.0, dtype=dtype),
        )
        for index, (n, r) in enumerate(shapes)
    ]


@pytest.mark.parametrize("dropout", [None, DROPOUT], ids=["no dropout", "dropout"])
@pytest.mark.parametrize(
    "adapter", [None, torch.float32], ids=["adapters alike", "adapters in f32"]
)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_those_of_autograd(
    dtype: torch.dtype, adapter: torch.dtype | None, dropout: Dropout | None
) -> None:
    torch.manual_seed(1)
    shapes = [(24, 3), (17, 0), (40, 16)]
    projections = made(dtype, shapes, 36, adapter)
    x = torch.rand(2, 5, 36).to(dtype).requires_grad_(True)
    ys = lora_linears(x, projections, dropout=dropout)
    dys = [torch.rand(y.shape).to(dtype) for y in ys]
    torch.autograd.backward(ys, dys)

    x_again = leaf(x)
    again = [
        LoraProjection(
            one.weight,
            *(None if t is None else leaf(t) for t in (one.lora_a, one.lora_b)),
            one.scaling,
            one.bias,
        )
        for one in projections
    ]
    wanted = [by_torch(x_again, one, dropout) for one in again]
    torch.autograd.backward(wanted, [dy.double() for dy in dys])
    for y, wanted_y in zip(ys, wanted):
        assert y.dtype == dtype
        near(y, wanted_y, dtype)
    assert x.grad is not None and x_again.grad is not None
    near(x.grad, x_again.grad, dtype)
    for one, other in zip(projections, again):
        for given, expected in ((one.lora_a, other.lora_a), (one.lora_b, other.lora_b)):
            if given is not None and expected is not None:
                assert (
                    given.grad is not None
                    and expected.grad is not None
                    and given.grad.dtype == given.dtype
                )
                near(given.grad, expected.grad, dtype)


@pytest.mark.parametrize("mask", list(Mask), ids=lambda mask: mask.name)
def test_transposed_weights_and_expanded_gradients(mask: Mask) -> None:
    torch.manual_seed(2)
    (one,) = made(torch.float32, [(24, 4)], 20)
    bias = leaf(one.bias)  # type: ignore[arg-type]
    stored = one.weight.T.contiguous()
    x = torch.rand(7, 20, requires_grad=True)
    options: dict[str, Any] = {
        "scaling": 0.7,
        "bias": bias,
        "dropout": DROPOUT,
        "weight_layout": WeightLayout.IN_OUT,
        "mask": mask,
    }
    # The gradient of a sum is expanded: its rows lie on one another.
    y = lora_linear(x, stored, one.lora_a, one.lora_b, **options)  # type: ignore[arg-type]
    y.sum().backward()
    x_again, bias_again = leaf(x), leaf(bias)
    lora_a, lora_b = leaf(one.lora_a), leaf(one.lora_b)  # type: ignore[arg-type]
    again = LoraProjection(one.weight, lora_a, lora_b, 0.7, bias_again)
    by_torch(x_again, again, DROPOUT).sum().backward()
    pairs = [
        (x, x_again),
        (bias, bias_again),
        (one.lora_a, again.lora_a),
        (one.lora_b, again.lora_b),
    ]
    for given, wanted in pairs:
        near(given.grad, wanted.grad, torch.float32)  # type: ignore[union-attr, arg-type]


def test_only_what_wants_a_gradient_gets_one() -> None:
    (one,) = made(torch.float32, [(24, 4)], 20)
    x = torch.rand(7, 20)
    y = lora_linear(
        x,
        one.weight,
        one.lora_a,
        one.lora_b.detach(),
        scaling=1.0,
        bias=one.bias,
    )  # type: ignore[arg-type, union-attr]
    y.sum().backward()
    assert (
        one.lora_a is not None
        and one.lora_a.grad is not None
        and one.lora_b is not None
        and one.lora_b.grad is None
    )
    with torch.no_grad():
        assert not lora_linear(x, one.weight, one.lora_a, one.lora_b, scaling=1.0).requires_grad  # type: ignore[arg-type]


def test_a_module_trains_and_has_the_parameters_of_its_adapter_alone() -> None:
    torch.manual_seed(3)
    base = nn.Linear(20, 12)
    layer = LoraLinear(base, rank=3, lora_alpha=6, dropout_p=0.2)
    assert [name for name, one in layer.named_parameters() if one.requires_grad] == [
        "lora_A.weight",
        "lora_B.weight",
    ]
    assert sorted(layer.state_dict()) == [
        "base_layer.bias",
        "base_layer.weight",
        "lora_A.weight",
        "lora_B.weight",
    ]
    x, target = torch.rand(6, 20), torch.rand(6, 12)
    # lora_B is zero at first: the layer is its base.
    near(layer(x), base(x), torch.float32)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        loss = nn.functional.mse_loss(layer(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    layer.eval()
    near(layer(x), by_torch(x, layer.projection(), None), torch.float32)
    assert LoraLinear(base, rank=4, lora_alpha=6, use_rslora=True).scaling == 3.0


def test_torch_repeats_a_mask_after_the_same_seed() -> None:
    torch.manual_seed(5)
    first, second = draw_dropout(0.1), draw_dropout(0.1)
    torch.manual_seed(5)
    assert draw_dropout(0.1) == first != second
    layer = LoraLinear(nn.Linear(20, 12), rank=3, lora_alpha=6, dropout_p=0.5)
    nn.init.ones_(layer.lora_B.weight)
    x = torch.rand(6, 20)
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(6)
    plain = leaf(x)
    layer(plain).square().sum().backward()
    torch.manual_seed(6)
    checkpointed = leaf(x)
    checkpoint(layer, checkpointed, use_reentrant=False).square().sum().backward()
    assert torch.equal(plain.grad, checkpointed.grad)  # type: ignore[arg-type]


def test_an_empty_batch_has_zero_gradients() -> None:
    layer = LoraLinear(nn.Linear(20, 12), rank=3, lora_alpha=6, dropout_p=0.5)
    x = torch.rand(2, 0, 20, requires_grad=True)
    y = layer(x)
    assert y.shape == (2, 0, 12)
    y.sum().backward()
    for tensor in (layer.lora_A.weight, layer.lora_B.weight):
        assert tensor.grad is not None and not tensor.grad.any()
    assert x.grad is not None and x.grad.shape == x.shape


def test_what_torch_users_are_told() -> None:
    (one,) = made(torch.float32, [(24, 4)], 20)
    x = torch.rand(7, 20)

    def told(
        kind: type[Exception],
        text: str,
        x: torch.Tensor = x,
        weight: torch.Tensor = one.weight,
        **options: Any,
    ) -> None:
        with pytest.raises(kind, match=text):
            lora_linear(x, weight, one.lora_a, one.lora_b, **{"scaling": 1.0} | options)  # type: ignore[arg-type]

    for dropout_p in (-0.1, 1.0, float("nan")):
        told(ValueError, "it must be at least 0 and below 1", dropout_p=dropout_p)
    told(TypeError, "x is torch.float64", x.double())
    told(ValueError, "it must be frozen", weight=leaf(one.weight))
    told(ValueError, "the weight takes 20 features, x has 19", torch.rand(7, 19))
    told(ValueError, "at least one feature", torch.rand(7, 0))
    told(TypeError, "the weight is torch.float32 and x is torch.bfloat16", x.bfloat16())
    told(ValueError, "to a CUDA device", torch.empty(7, 20, device="meta"))
    with pytest.raises(ValueError, match="no projection has an adapter"):
        lora_linears(x, [LoraProjection(one.weight)])
