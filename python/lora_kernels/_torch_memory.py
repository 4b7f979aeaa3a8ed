"""Where PyTorch's tensors are when the kernels run: on their own device, or copied to one."""

from __future__ import annotations

from typing import Any

import torch

from . import cuda
from .arrays import Array
from .types import DType

DTYPES = {torch.float16: DType.F16, torch.bfloat16: DType.BF16, torch.float32: DType.F32}
TORCH_DTYPES = {dtype: name for name, dtype in DTYPES.items()}


class OnDevice:
    """Tensors on a CUDA device: used where they are."""

    def __init__(self, device: torch.device) -> None:
        self.torch_device = device
        self.ordinal: int = device.index
        self.stream: int = torch.cuda.current_stream(device).cuda_stream

    def take(self, tensor: torch.Tensor | None) -> Any:
        """A tensor as the kernels take it."""
        if tensor is None:
            return None
        return Array(
            tensor.data_ptr(),
            tuple(tensor.shape),
            tuple(tensor.stride()),
            DTYPES.get(tensor.dtype),
            self.ordinal,
            False,
            tensor,
        )

    def allocate(self, shape: tuple[int, ...], dtype: DType | None) -> Array:
        """Memory of torch's allocator."""
        name = torch.uint8 if dtype is None else TORCH_DTYPES[dtype]
        tensor = torch.empty(shape, dtype=name, device=self.torch_device)
        return self.take(tensor)  # type: ignore[no-any-return]

    def give(self, array: Any) -> torch.Tensor | None:
        """A result as a tensor."""
        return None if array is None else array.owner


class Copied:
    """Tensors on the CPU: copied to device 0 and back."""

    ordinal = 0
    stream = 0

    def take(self, tensor: torch.Tensor | None) -> Any:
        """A tensor as the kernels take it."""
        if tensor is None:
            return None
        tensor = tensor.detach().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        return cuda.DeviceArray(tuple(tensor.shape), DTYPES.get(tensor.dtype)).copy_from(data)

    def allocate(self, shape: tuple[int, ...], dtype: DType | None) -> cuda.DeviceArray:
        """Memory of the driver."""
        return cuda.allocate(shape, dtype)

    def give(self, array: cuda.DeviceArray | None) -> torch.Tensor | None:
        """A result as a tensor."""
        if array is None:
            return None
        name = torch.uint8 if array.dtype is None else TORCH_DTYPES[array.dtype]
        if 0 in array.shape:
            return torch.empty(array.shape, dtype=name)
        data = torch.frombuffer(bytearray(array.to_bytes()), dtype=torch.uint8)
        return data.view(name).reshape(array.shape)
