"""The layer as a module, with the names that PEFT gives its tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..tensors import LoraProjection
from . import owned
from .functions import check_probability, lora_linear, run


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable adapter: y = x*W^T + bias + scaling*drop(x)*A^T*B^T.

    base: its parameters are frozen in place, and stay the very same tensors. Names are PEFT's of a
    single adapter: `base_layer.weight`, `base_layer.bias`, `lora_A.weight` (rank, in_features) and
    `lora_B.weight` (out_features, rank). Adapters are initialised as PEFT does: A by Kaiming's
    uniform distribution with a = sqrt(5), B with zeros. scaling is lora_alpha / rank, with
    `use_rslora` lora_alpha / sqrt(rank). Dropout is drawn in training only, from torch's generator.

    adapter_dtype: of lora_A and lora_B; None: the base's. keep_adapter_dtype: `.to(dtype)`,
    `.bfloat16()` and their like cast the base alone.
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        *,
        lora_alpha: float,
        dropout_p: float = 0.0,
        use_rslora: bool = False,
        adapter_dtype: torch.dtype | None = None,
        keep_adapter_dtype: bool = False,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank is {rank}: it must be at least 1")
        check_probability(dropout_p)
        self.in_features, self.out_features, self.rank = base.in_features, base.out_features, rank
        self.scaling = lora_alpha / (math.sqrt(rank) if use_rslora else rank)
        self.dropout_p = dropout_p
        self.keep_adapter_dtype = keep_adapter_dtype
        self.base_layer = base.requires_grad_(False)
        dtype, device = adapter_dtype or base.weight.dtype, base.weight.device
        self.lora_A = nn.Linear(base.in_features, rank, bias=False, device=device, dtype=dtype)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False, device=device, dtype=dtype)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    @property
    def weight(self) -> torch.Tensor:
        """The base's (out_features, in_features)."""
        return self.base_layer.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The base's (out_features), or None."""
        return self.base_layer.bias

    def projection(self) -> LoraProjection[torch.Tensor]:
        """For `lora_linears`, with others that share x."""
        base = self.base_layer
        lora_a, lora_b = self.lora_A.weight, self.lora_B.weight
        return LoraProjection(base.weight, lora_a, lora_b, self.scaling, base.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features) to y (..., out_features)."""
        # nn.Module finds its members last, and slowly.
        modules = self._modules
        base: Any = modules["base_layer"]
        lora_a: Any = modules["lora_A"]
        lora_b: Any = modules["lora_B"]
        if owned.is_bare(base) and owned.is_bare(lora_a) and owned.is_bare(lora_b):
            parameters = base._parameters
            tensors = [
                parameters["weight"],
                parameters["bias"],
                lora_a._parameters["weight"],
                lora_b._parameters["weight"],
            ]
            dropout_p = self.dropout_p if self.training else 0.0
            return run(x, tensors, (self.scaling,), (), dropout_p)[0]
        if not owned.is_plain(base):
            y: torch.Tensor = owned.call(base, self._forward, x)
            return y
        return self._forward(x)

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        base = owned.inside(self.base_layer)
        lora_a, lora_b = owned.weight_of(self.lora_A), owned.weight_of(self.lora_B)
        if hasattr(base.weight, "device_mesh") or hasattr(x, "device_mesh"):
            from . import parallel

            return parallel.forward(self, x, self._call)
        return self._call(
            x,
            owned.frozen(base.weight),
            None if base.bias is None else owned.frozen(base.bias),
            lora_a,
            lora_b,
            (0, 0),
        )

    def _call(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        mask_origin: tuple[int, int],
    ) -> torch.Tensor:
        return lora_linear(
            x,
            weight,
            lora_a,
            lora_b,
            scaling=self.scaling,
            bias=bias,
            dropout_p=self.dropout_p if self.training else 0.0,
            mask_origin=mask_origin,
        )

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        """`.to`, `.cuda` and their like come through here."""
        if not self.keep_adapter_dtype or not recurse:
            return super()._apply(fn, recurse)

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        self.base_layer._apply(fn)
        self.lora_A._apply(moved)
        self.lora_B._apply(moved)
        return super()._apply(fn, recurse=False)

    def extra_repr(self) -> str:
        """What print shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"scaling={self.scaling:g}, dropout_p={self.dropout_p:g}, "
            f"bias={self.base_layer.bias is not None}"
        )
