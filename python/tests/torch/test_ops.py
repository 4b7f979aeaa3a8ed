"""The operators: what traces, checkpoints, autocast and transforms see."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lora_kernels import Dropout, LoraProjection
from lora_kernels.torch import LoraLinear, lora_delta, lora_linear, lora_linears

IN = 24
DROPOUT = Dropout(0.5, 12345, 6)


def projection(out: int, rank: int, bias: bool = True) -> LoraProjection[torch.Tensor]:
    return LoraProjection(
        torch.rand(out, IN) - 0.5,
        (torch.rand(rank, IN) - 0.5).requires_grad_() if rank else None,
        (torch.rand(out, rank) - 0.5).requires_grad_() if rank else None,
        1.3,
        torch.rand(out) if bias else None,
    )


def arguments(is_dropped: bool, is_delta: bool = False) -> tuple[Any, ...]:
    torch.manual_seed(1)
    all_ = [projection(16, 3), *([] if is_delta else [projection(8, 0)]), projection(24, 17)]
    adapted = [index for index, one in enumerate(all_) if one.lora_a is not None]
    x = torch.rand(3, 5, IN, requires_grad=True)
    return (
        x,
        [] if is_delta else [one.weight for one in all_],
        [] if is_delta else [one.bias for one in all_],
        [all_[index].lora_a for index in adapted],
        [all_[index].lora_b for index in adapted],
        [torch.rand(3, 5, len(one.weight)) for one in all_] if is_delta else [],
        torch.randint(0, 2**63 - 1, (2,)) if is_dropped else None,
        adapted,
        [one.scaling for one in all_],
        0.25,
        False,
        False,
        False,
        0,
        0,
    )


@pytest.mark.parametrize("is_dropped, is_delta", [(False, False), (True, False), (False, True)])
def test_opcheck(is_dropped: bool, is_delta: bool) -> None:
    forward, backward = torch.ops.lora_kernels.forward, torch.ops.lora_kernels.backward
    given = arguments(is_dropped, is_delta)
    torch.library.opcheck(forward, given)
    ys, s, mask = forward(*given)
    x, weights, _, lora_as, lora_bs, _, words, adapted, scalings, p, _, *options = given
    detached = [[one.detach() for one in some] for some in (lora_as, lora_bs)]
    dys = [torch.rand_like(y) for y in ys]
    fixed = (words, adapted, scalings, p)
    for is_wanted in (True, False):
        torch.library.opcheck(
            backward, (x.detach(), weights, *detached, dys, s, mask, *fixed, is_wanted, *options)
        )


class Block(nn.Module):
    """Layers of their own, and two that share x."""

    def __init__(self, dropout_p: float = 0.0) -> None:
        super().__init__()
        self.a = LoraLinear(nn.Linear(IN, 32), 4, lora_alpha=6, dropout_p=dropout_p)
        self.q = LoraLinear(nn.Linear(32, IN), 3, lora_alpha=6)
        self.k = LoraLinear(nn.Linear(32, IN), 5, lora_alpha=6)
        for layer in (self.a, self.q, self.k):
            nn.init.uniform_(layer.lora_B.weight, -0.5, 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.a(x))
        q, k = lora_linears(h, [self.q.projection(), self.k.projection()])
        return x + q * k


def gradients(run: Callable[[torch.Tensor], torch.Tensor], module: nn.Module, x: torch.Tensor):
    module.zero_grad()
    x = x.detach().clone().requires_grad_()
    y = run(x)
    y.square().sum().backward()
    trained = [one.grad for one in module.parameters() if one.requires_grad]
    return [y.detach(), x.grad, *trained]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_has_no_breaks_and_dynamic_tokens(backend: str) -> None:
    torch.manual_seed(2)
    # Inductor has little to compile of a layer alone.
    block = Block() if backend == "aot_eager" else LoraLinear(nn.Linear(IN, 9), 4, lora_alpha=6)
    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(block, fullgraph=True, backend=backend, dynamic=True)
    for tokens in (5, 7, 70):
        x = torch.rand(2, tokens, IN)
        for one, other in zip(gradients(compiled, block, x), gradients(block, block, x)):
            torch.testing.assert_close(one, other)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), block(x))
    # One with gradients and one without.
    assert counters["stats"]["unique_graphs"] == 2 and not counters["graph_break"], counters


def test_compiled_dropout_is_that_of_the_generator() -> None:
    torch._dynamo.reset()
    block = Block(dropout_p=0.4)
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
    x = torch.rand(6, IN)

    def seeded(seed: int, run: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        return gradients(run, block, x)

    first, again, other = (seeded(seed, compiled) for seed in (1, 1, 2))
    assert all(torch.equal(one, two) for one, two in zip(first, again))
    assert not torch.equal(first[0], other[0])
    # On the CPU both draw the same two numbers.
    for one, two in zip(first, seeded(1, block)):
        torch.testing.assert_close(one, two)


def test_export_has_the_operator() -> None:
    block = Block().eval()
    x = torch.rand(2, 5, IN)
    tokens = torch.export.Dim("tokens", min=2, max=128)
    for is_strict in (False, True):
        program = torch.export.export(block, (x,), dynamic_shapes=({1: tokens},), strict=is_strict)
        names = [str(node.target) for node in program.graph.nodes]
        assert names.count("lora_kernels.forward.default") == 2
        longer = torch.rand(2, 9, IN)
        torch.testing.assert_close(program.module()(longer), block(longer))


@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("is_reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_checkpointing_sees_the_same_mask(is_reentrant: bool, is_compiled: bool) -> None:
    if is_reentrant and is_compiled:
        # torch.compile has no reentrant one in a full graph.
        return
    torch._dynamo.reset()
    block = Block(dropout_p=0.5)
    x = torch.rand(6, IN)

    def checkpointed(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = checkpoint(block, x, use_reentrant=is_reentrant)
        return y

    run = checkpointed
    if is_compiled:
        run = torch.compile(checkpointed, fullgraph=True, backend="aot_eager")
    torch.manual_seed(3)
    plain = gradients(block, block, x)
    torch.manual_seed(3)
    for one, other in zip(gradients(run, block, x), plain):
        torch.testing.assert_close(one, other)


def test_selective_checkpointing_can_keep_a_forward() -> None:
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

    seen = []

    def policy(ctx: Any, op: Any, *_: Any, **__: Any) -> CheckpointPolicy:
        if op is torch.ops.lora_kernels.forward.default:
            seen.append(ctx.is_recompute)
            return CheckpointPolicy.MUST_SAVE
        return CheckpointPolicy.PREFER_RECOMPUTE

    block = Block(dropout_p=0.5)
    x = torch.rand(6, IN)

    def run(x: torch.Tensor) -> torch.Tensor:
        contexts = lambda: create_selective_checkpoint_contexts(policy)  # noqa: E731
        y: torch.Tensor = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
        return y

    torch.manual_seed(3)
    plain = gradients(block, block, x)
    torch.manual_seed(3)
    for one, other in zip(gradients(run, block, x), plain):
        torch.testing.assert_close(one, other)
    assert seen.count(False) == 2


def test_flops_are_counted() -> None:
    layer = LoraLinear(nn.Linear(IN, 32), 4, lora_alpha=6)
    x = torch.rand(10, IN, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
    base, adapter = 2 * 10 * IN * 32, 2 * 10 * 4 * (IN + 32)
    assert counter.get_total_flops() == base + adapter
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    # The forward above had no mode, and its backward has the operator all the same or none.
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 2 * base + 3 * adapter


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("way", ["eager", "compiled", "operator"])
def test_autocast_is_that_of_linear(dtype: torch.dtype, base: torch.dtype, way: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(4)
    linear = nn.Linear(IN, 32).to(base)
    layer = LoraLinear(linear, 4, lora_alpha=6, adapter_dtype=torch.float32)
    nn.init.uniform_(layer.lora_B.weight, -0.5, 0.5)
    x = torch.rand(2, 5, IN, requires_grad=True)
    lora_a, lora_b = layer.lora_A.weight, layer.lora_B.weight

    def by_operator(x: torch.Tensor) -> torch.Tensor:
        weights = [linear.weight], [linear.bias], [lora_a], [lora_b]
        options = [None, [0], [layer.scaling], 0.0, False, False, False, 0, 0]
        y: torch.Tensor = torch.ops.lora_kernels.forward(x, *weights, [], *options)[0][0]
        return y

    runs = {
        "eager": layer,
        "compiled": torch.compile(layer, fullgraph=True, backend="aot_eager"),
        "operator": by_operator,
    }
    with torch.autocast("cpu", dtype=dtype):
        y = runs[way](x)
        wanted = linear(x) + layer.scaling * layer.lora_B(layer.lora_A(x))
    assert y.dtype == wanted.dtype == dtype
    limits = {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(y, wanted, **limits)
    dy = torch.rand_like(y)
    tensors = (x, lora_a, lora_b)
    given = torch.autograd.grad(y, tensors, dy)
    for one, other in zip(given, torch.autograd.grad(wanted, tensors, dy)):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=2e-2, atol=5e-2)


def test_autocast_leaves_what_has_the_type() -> None:
    # 16-bit adapters of another type go the way of the weight.
    layer = LoraLinear(nn.Linear(IN, 32), 4, lora_alpha=6, adapter_dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(torch.rand(3, IN, dtype=torch.bfloat16))
        assert y.dtype == torch.bfloat16
    with torch.autocast("cpu", enabled=False), pytest.raises(TypeError, match="one type"):
        layer.half()(torch.rand(3, IN))


def test_a_function_makes_the_weight_twice_and_nothing_is_kept() -> None:
    torch.manual_seed(5)
    one = projection(32, 4)
    made: list[torch.Tensor] = []
    kept: list[torch.Tensor] = []

    def weight() -> torch.Tensor:
        made.append(one.weight.clone())
        return made[-1]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    x = torch.rand(6, IN, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = lora_linear(x, weight, one.lora_a, one.lora_b, scaling=1.3, bias=one.bias)
    assert len(made) == 1 and all(tensor.shape != (32, IN) for tensor in kept)
    tensors = (x, one.lora_a, one.lora_b)
    given = torch.autograd.grad(y.sum(), tensors)
    assert len(made) == 2
    plain = lora_linear(x, one.weight, one.lora_a, one.lora_b, scaling=1.3, bias=one.bias)
    assert torch.equal(y, plain)
    for grad, wanted in zip(given, torch.autograd.grad(plain.sum(), tensors)):
        assert torch.equal(grad, wanted)
    with torch.no_grad():
        lora_linear(x, weight, one.lora_a, one.lora_b, scaling=1.3)
    assert len(made) == 3


@pytest.mark.parametrize("is_compiled", [False, True], ids=["eager", "compiled"])
def test_a_delta_adds_to_what_others_computed(is_compiled: bool) -> None:
    torch._dynamo.reset()
    torch.manual_seed(6)
    some = [projection(16, 3), projection(20, 0), projection(24, 17)]
    bases = [nn.Linear(IN, len(one.weight)) for one in some]
    x = torch.rand(2, 5, IN, requires_grad=True)

    def by_kernels(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return lora_delta(x, some, [base(x) for base in bases])

    def by_torch(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(
            base(x)
            if one.lora_a is None
            else base(x) + one.scaling * (x @ one.lora_a.T @ one.lora_b.T)
            for base, one in zip(bases, some)
        )

    run = torch.compile(by_kernels, fullgraph=True, backend="aot_eager")
    ys, wanted = (run if is_compiled else by_kernels)(x), by_torch(x)
    tensors = [x, *(base.weight for base in bases)]
    tensors += [one for some_ in (some[0], some[2]) for one in (some_.lora_a, some_.lora_b)]
    dys = [torch.rand_like(y) for y in ys]
    for one, other in zip(ys, wanted):
        torch.testing.assert_close(one, other)
    given, expected = (torch.autograd.grad(all_, tensors, dys) for all_ in (ys, wanted))
    for one, other in zip(given, expected):
        torch.testing.assert_close(one, other)


def test_what_there_is_no_rule_for_is_refused_by_name() -> None:
    one = projection(16, 3)
    x = torch.rand(5, IN, requires_grad=True)

    def layer(x: torch.Tensor) -> torch.Tensor:
        return lora_linear(x, one.weight, one.lora_a, one.lora_b, scaling=1.0)

    for transform in (torch.func.grad(lambda x: layer(x).sum()), torch.func.vmap(layer)):
        with pytest.raises(RuntimeError, match="lora_kernels: a transform of torch.func"):
            transform(torch.rand(2, 5, IN))
    with pytest.raises(RuntimeError, match="lora_kernels: a forward-mode derivative"):
        torch.autograd.functional.jvp(layer, x.detach(), torch.ones_like(x), strict=False)
        with torch.autograd.forward_ad.dual_level():
            layer(torch.autograd.forward_ad.make_dual(x.detach(), torch.ones_like(x)))
    (dx,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="lora_kernels: a second derivative"):
        dx.sum().backward()
    y = torch.ops.lora_kernels.forward(*arguments(is_dropped=False))[0][0]
    (da,) = torch.autograd.grad(y.sum(), y.grad_fn.saved_tensors[0], create_graph=True)
    with pytest.raises(RuntimeError, match="lora_kernels: a second derivative"):
        da.sum().backward()


def test_the_lazy_negative_bit_is_resolved_or_refused() -> None:
    one = projection(16, 3)
    x = torch.rand(5, IN, dtype=torch.complex64).conj().imag
    assert x.is_neg()
    y = lora_linear(x, one.weight, one.lora_a, one.lora_b, scaling=1.0)
    wanted = lora_linear(x.resolve_neg(), one.weight, one.lora_a, one.lora_b, scaling=1.0)
    assert torch.equal(y, wanted)
    # Of one element it can be contiguous.
    number = torch.rand(1, 1, dtype=torch.complex64).conj().imag
    with pytest.raises(ValueError, match="has the lazy negative bit"):
        lora_linear(torch.rand(3, 1), torch.rand(4, 1), number, torch.rand(4, 1), scaling=1.0)


def test_shards_of_x_draw_the_mask_of_the_whole() -> None:
    one = projection(16, 3, bias=False)
    x = torch.rand(6, IN)
    dropout = DROPOUT
    zero = torch.zeros_like(one.weight)

    def part(rows: slice, columns: slice) -> torch.Tensor:
        return lora_linear(
            x[rows, columns],
            zero[:, columns],
            one.lora_a.detach()[:, columns],
            one.lora_b,
            scaling=1.0,
            dropout=dropout,
            mask_origin=(rows.start, columns.start),
        )

    whole = part(slice(0, 6), slice(0, IN))
    halves = [part(slice(0, 6), slice(*ends)) for ends in ((0, 8), (8, IN))]
    torch.testing.assert_close(sum(halves), whole)
    torch.testing.assert_close(part(slice(2, 6), slice(0, IN)), whole[2:])


def test_the_base_is_cast_and_adapters_stay_if_asked() -> None:
    base = nn.Linear(IN, 16)
    layer = LoraLinear(base, 3, lora_alpha=6, keep_adapter_dtype=True)
    before = layer.lora_A.weight.detach().clone()
    layer.bfloat16()
    assert layer.base_layer.weight.dtype == torch.bfloat16
    assert layer.lora_A.weight.dtype == torch.float32
    assert torch.equal(layer.lora_A.weight, before)
    y = layer(torch.rand(3, IN, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert layer.lora_B.weight.grad is not None
    assert LoraLinear(base, 3, lora_alpha=6).bfloat16().lora_A.weight.dtype == torch.bfloat16


def test_backward_takes_saved_tensors_from_wherever_hooks_put_them() -> None:
    torch.manual_seed(7)
    one = projection(32, 4)
    x = torch.rand(6, IN, requires_grad=True)
    tensors = (x, one.lora_a, one.lora_b)

    def unpack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() != 2:
            return tensor
        # The same numbers, with rows further apart and at another alignment.
        wide = torch.zeros(tensor.shape[0], tensor.shape[1] + 3)
        wide[:, 1:-2] = tensor
        return wide[:, 1:-2]

    def layer() -> torch.Tensor:
        return lora_linear(x, one.weight, one.lora_a, one.lora_b, scaling=1.3, dropout=DROPOUT)

    wanted = torch.autograd.grad(layer().square().sum(), tensors)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor.clone(), unpack):
        y = layer()
    for given, other in zip(torch.autograd.grad(y, tensors, 2 * y.detach()), wanted):
        torch.testing.assert_close(given, other)


def test_threads_share_a_layer() -> None:
    torch.manual_seed(8)
    layer = LoraLinear(nn.Linear(IN, 32), 4, lora_alpha=6)
    nn.init.uniform_(layer.lora_B.weight, -0.5, 0.5)
    xs = [torch.rand(6, IN) for _ in range(8)]

    def run(x: torch.Tensor) -> torch.Tensor:
        x = x.clone().requires_grad_()
        (dx,) = torch.autograd.grad(layer(x).square().sum(), x)
        return dx

    wanted = [run(x) for x in xs]
    with ThreadPoolExecutor(4) as pool:
        for given, other in zip(pool.map(run, xs), wanted):
            assert torch.equal(given, other)
