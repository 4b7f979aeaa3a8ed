"""Tensor-parallel layers: plans for `parallelize_module`, with DTensors in and out.

    parallelize_module(model, mesh, {"up": ColwiseLora(), "down": RowwiseLora()})

Column-wise, a rank has some rows of the weight and of lora_B, and all of lora_A. Row-wise, it has
some columns of the weight and of lora_A, and all of lora_B. What every rank has whole gets the sum
of the ranks' gradients. Each rank's dropout mask is its part of the whole layer's: all ranks of the
mesh draw the same seed, so their default generators must agree, as `torch.manual_seed` with one
number on all of them makes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed import _functional_collectives as collectives
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import (
    DTensor,
    Partial,
    Placement,
    Replicate,
    Shard,
    distribute_module,
    distribute_tensor,
)
from torch.distributed.tensor.parallel import ParallelStyle

#: Columns of a mask that one draw of the generator gives their bits.
_MASK_COLUMNS = 8


class _LoraStyle(ParallelStyle):
    """What both plans share; placements of parameters by the end of their names."""

    _of_parameters: dict[str, Placement]
    _of_x: Placement
    _of_y: Placement

    def __init__(
        self,
        *,
        input_layouts: Placement | None = None,
        output_layouts: Placement | None = None,
        use_local_output: bool = True,
    ) -> None:
        super().__init__()
        self._given = input_layouts or self._of_x
        self._wanted = output_layouts or self._of_y
        self._is_local = use_local_output

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        from .module import LoraLinear

        if not isinstance(module, LoraLinear):
            raise TypeError(
                f"{type(self).__name__} was given a {type(module).__name__}: it takes a LoraLinear"
            )
        if device_mesh.ndim != 1:
            raise ValueError(
                f"the mesh has {device_mesh.ndim} dimensions: give {type(self).__name__} one of "
                "them, as mesh['tp']"
            )
        # Its annotations have another order of arguments than it calls with.
        take: Any = self._take
        return distribute_module(module, device_mesh, self._distribute, take, self._give)

    def _distribute(self, prefix: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for name, parameter in list(module.named_parameters(recurse=False)):
            whole = f"{prefix}.{name}" if prefix else name
            placement = self._of_parameters[whole]
            source = getattr(self, "src_data_rank", 0)
            shards = distribute_tensor(parameter, mesh, [placement], src_data_rank=source)
            module.register_parameter(name, nn.Parameter(shards, parameter.requires_grad))

    def _take(
        self, module: nn.Module, inputs: tuple[Any, ...], mesh: DeviceMesh
    ) -> tuple[Any, ...]:
        x, *others = inputs
        if not isinstance(x, DTensor):
            x = DTensor.from_local(x, mesh, [self._given], run_check=False)
        return (x.redistribute(placements=[self._of_x]), *others)

    def _give(self, module: nn.Module, y: Any, mesh: DeviceMesh) -> Any:
        y = y.redistribute(placements=[self._wanted])
        return y.to_local() if self._is_local else y


class ColwiseLora(_LoraStyle):
    """A rank computes some columns of y.

    input_layouts: where x is not a DTensor, how it lies on the ranks (Replicate()); Shard(1) of
    (batch, sequence, in_features) is gathered. output_layouts: of y (Shard(-1)).
    use_local_output: whether y is a rank's own tensor.
    """

    _of_parameters = {
        "base_layer.weight": Shard(0),
        "base_layer.bias": Shard(0),
        "lora_A.weight": Replicate(),
        "lora_B.weight": Shard(0),
    }
    _of_x, _of_y = Replicate(), Shard(-1)


class RowwiseLora(_LoraStyle):
    """A rank computes its part of a sum, from some columns of x.

    input_layouts: where x is not a DTensor, how it lies on the ranks (Shard(-1)). output_layouts:
    of y (Replicate(), which sums; Shard(1) sums and scatters). use_local_output: whether y is a
    rank's own tensor.
    """

    _of_parameters = {
        "base_layer.weight": Shard(1),
        "base_layer.bias": Replicate(),
        "lora_A.weight": Shard(1),
        "lora_B.weight": Replicate(),
    }
    _of_x, _of_y = Shard(-1), Replicate()


class _SumOfGradients(torch.autograd.Function):
    """The identity, whose gradient is summed over a mesh's ranks."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, mesh: DeviceMesh) -> torch.Tensor:
        ctx.mesh = mesh
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        whole = collectives.all_reduce(gradient.contiguous(), "sum", (ctx.mesh, 0))
        return collectives.wait_tensor(whole), None


def forward(layer: Any, x: torch.Tensor, call: Callable[..., torch.Tensor]) -> DTensor:
    """The forward of a `LoraLinear` whose parameters are DTensors.

    call: (x, weight, bias, lora_a, lora_b, mask_origin) of this rank's parts to y.

    Raises ValueError for placements that are neither `ColwiseLora`'s nor `RowwiseLora`'s.
    """
    weight = layer.base_layer.weight
    if not isinstance(weight, DTensor):
        raise ValueError(
            "x is a DTensor and the layer's parameters are not: parallelize the layer with "
            "ColwiseLora or RowwiseLora (lora_kernels.torch.parallel), or give it x.to_local()"
        )
    names = ("base_layer.weight", "base_layer.bias", "lora_A.weight", "lora_B.weight")
    given = [weight, layer.base_layer.bias, layer.lora_A.weight, layer.lora_B.weight]
    for name, tensor in zip(names, given):
        if tensor is not None and not isinstance(tensor, DTensor):
            raise ValueError(
                f"{name} is a torch.Tensor and others are DTensors: parallelize the whole layer "
                "with ColwiseLora or RowwiseLora"
            )
    for style in (ColwiseLora, RowwiseLora):
        wanted = [style._of_parameters[name] for name in names]
        if all(
            tensor is None or tensor.placements == (placement,)
            for tensor, placement in zip(given, wanted)
        ):
            break
    else:
        placements = ", ".join(
            f"{name} {tensor.placements}"
            for name, tensor in zip(names, given)
            if tensor is not None
        )
        raise ValueError(
            f"the layer's parameters are DTensors placed as {placements}: the kernels take those "
            "of ColwiseLora and of RowwiseLora (lora_kernels.torch.parallel)"
        )
    mesh = weight.device_mesh
    if not isinstance(x, DTensor):
        raise ValueError(
            "x is a torch.Tensor and the layer's parameters are DTensors: give it a DTensor, or "
            "parallelize the layer with ColwiseLora or RowwiseLora, which make one of it"
        )
    if x.placements != (style._of_x,):
        x = x.redistribute(placements=[style._of_x])
    is_colwise = style is ColwiseLora
    # A rank's gradient of an x that all ranks have is a part of the sum over their columns.
    rows = x.to_local(grad_placements=[Partial()] if is_colwise else None)
    locals_ = [
        None if tensor is None else _part(tensor, placement)
        for tensor, placement in zip(given, wanted)
    ]
    base, bias, lora_a, lora_b = locals_
    # As torch.chunk cuts: equal parts, and the last ones smaller or empty.
    part = weight.shape[1] if is_colwise else -(-weight.shape[1] // mesh.size())
    # All ranks refuse, or the others would wait for this one.
    if part % _MASK_COLUMNS and not is_colwise and layer.training and layer.dropout_p > 0.0:
        raise ValueError(
            f"a rank has {part} columns of x: with dropout it must have a multiple of "
            f"{_MASK_COLUMNS}, so in_features must be a multiple of {_MASK_COLUMNS * mesh.size()}"
        )
    column = 0 if is_colwise else min(part * mesh.get_local_rank(), weight.shape[1])
    if not is_colwise and bias is not None and mesh.get_local_rank() != 0:
        # y is a sum over the ranks: one of them adds the bias. The others keep it in the graph if
        # it learns, since all take part in the sum of its gradients.
        bias = bias * 0.0 if bias.requires_grad else None
    y = call(rows, base, bias, lora_a, lora_b, (0, column))
    shape = torch.Size((*x.shape[:-1], weight.shape[0]))
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        y,
        mesh,
        [Shard(y.dim() - 1) if is_colwise else Partial()],
        run_check=False,
        shape=shape,
        stride=stride,
    )


def _part(tensor: Any, placement: Placement) -> torch.Tensor:
    local: torch.Tensor = tensor.to_local()
    if placement == Replicate() and tensor.requires_grad:
        summed: torch.Tensor = _SumOfGradients.apply(local, tensor.device_mesh)
        return summed
    return local
