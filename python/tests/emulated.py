"""The test device: tensors of the CPU take the very path of tensors on a CUDA device.

    emulated.install()

Only the one call of the library, `lora_kernels.torch.call.launch`, is replaced. What the call reads
is copied to device 0 of the driver, which is the emulated one in the tests, byte for byte with its
alignment; the library is called there; what it writes is copied back.
"""

from __future__ import annotations

import ctypes
from typing import Any

from lora_kernels import Problem, Role, cuda
from lora_kernels._library import check

#: Addresses of torch's memory and of the copies are alike modulo this.
_ALIGNMENT = 256


class _Copy:
    """Bytes of the host on the device, from the call's begin to its end."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.address, self.nbytes = address, nbytes
        self.memory = cuda.DeviceArray((nbytes + _ALIGNMENT,), None)
        self.on_device = self.memory.address + address % _ALIGNMENT
        with cuda.current(0):
            cuda.call("cuMemcpyHtoD_v2", self.on_device, address, nbytes)

    def back(self) -> None:
        with cuda.current(0):
            cuda.call("cuMemcpyDtoH_v2", self.address, self.on_device, self.nbytes)


class _Copies:
    def __init__(self) -> None:
        self.written: list[_Copy] = []
        self.read: list[_Copy] = []

    def take(self, struct: Any, field: str, nbytes: int, written: bool = False) -> None:
        """Puts the address of a copy in the place of that of the host."""
        address = getattr(struct, field)
        if address == 0 or nbytes == 0:
            return
        copy = _Copy(address, nbytes)
        (self.written if written else self.read).append(copy)
        setattr(struct, field, copy.on_device)


def _span(problem: Problem, role: Role, index: int = 0) -> int:
    """Bytes from a tensor's first element to its last."""
    shape = problem.shape(role, index)
    size = problem.dtype_of(role).size
    if 0 in shape:
        return 0
    if len(shape) == 1:
        return shape[0] * size
    return ((shape[0] - 1) * problem.row_stride(role, index) + shape[1]) * size


def _launch(prepared: Any, frame: Any, stream: int) -> None:
    problem, args = prepared.problem, frame.args
    before = bytes(frame.words)
    copies = _Copies()
    is_forward = hasattr(args, "flags")
    copies.take(args, "x", _span(problem, Role.X))
    for index, one in enumerate(frame.projections):
        for field, role in (
            ("weight", Role.WEIGHT),
            ("lora_a", Role.LORA_A),
            ("lora_b", Role.LORA_B),
            *((("bias", Role.BIAS),) if is_forward else (("dy", Role.DY),)),
        ):
            copies.take(one, field, _span(problem, role, index))
        if is_forward:
            copies.take(one, "y", _span(problem, Role.Y, index), written=True)
        else:
            copies.take(one, "d_lora_a", _span(problem, Role.D_LORA_A, index), written=True)
            copies.take(one, "d_lora_b", _span(problem, Role.D_LORA_B, index), written=True)
    if not is_forward:
        copies.take(args, "dx", _span(problem, Role.DX), written=True)
    for field in ("saved", "saved_s", "saved_mask"):
        copies.take(args, field, getattr(args, f"{field}_bytes"), written=is_forward)
    copies.take(args, "workspace", args.workspace_bytes)
    if is_forward:
        copies.take(args, "flags", args.flags_bytes, written=True)
    if problem.dropout_from_memory:
        copies.take(frame.dropout, "seed", 2 * 8)
    kernels, plan = prepared.handles
    check(prepared.function(kernels, plan, frame.pointer, stream))
    cuda.synchronize()
    for copy in copies.written:
        copy.back()
    ctypes.memmove(frame.words, before, len(before))


def install() -> None:
    """From here on CPU tensors are taken."""
    from lora_kernels.torch import call, ops

    if call.launch is _launch:
        return
    call.launch, call.DEVICE = _launch, "cpu"
    ops.register("CPU")
