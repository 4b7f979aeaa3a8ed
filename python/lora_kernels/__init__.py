"""CUDA kernels for linear layers with low-rank adapters (LoRA), over the C ABI of lora-kernels.

    forward    y  = x*W^T + bias + s*drop(x)*A^T*B^T
    backward   dx = dy*W + mask o (s*dy*B*A)/(1-p)
               dA = (s*dy*B)^T*drop(x)
               dB = s*dy^T*(drop(x)*A^T)
    merge      W += sum of s*B*A

A `Problem` (plain values) becomes a plan for a device, known by its `DeviceProps`. `Kernels` runs
the plan on arrays of any library that speaks `__cuda_array_interface__` or DLPack. For PyTorch
there is `lora_kernels.torch`, with autograd.
"""

from .arrays import Array, array
from .errors import CudaError, LibraryNotFound, LoraError
from .from_arrays import problem_of
from .kernels import (
    Allocator,
    BackwardResult,
    ForwardResult,
    Kernels,
    MergeReport,
    MergeResult,
)
from .plans import BackwardPlan, DeviceProps, ForwardPlan, MergePlan, Region
from .table import AdapterTable, GradientTable, Rows
from .tensors import Adapter, LoraProjection, Saved
from .types import (
    Dropout,
    DType,
    Layout,
    Mask,
    MergeProblem,
    Problem,
    Projection,
    Role,
    WeightLayout,
)

__version__ = "0.1.0"

__all__ = [
    "Adapter",
    "AdapterTable",
    "Allocator",
    "Array",
    "BackwardPlan",
    "BackwardResult",
    "CudaError",
    "DType",
    "DeviceProps",
    "Dropout",
    "ForwardPlan",
    "ForwardResult",
    "GradientTable",
    "Kernels",
    "Layout",
    "LibraryNotFound",
    "LoraError",
    "Mask",
    "MergePlan",
    "MergeProblem",
    "MergeReport",
    "MergeResult",
    "Problem",
    "Projection",
    "LoraProjection",
    "Region",
    "Role",
    "Rows",
    "Saved",
    "WeightLayout",
    "array",
    "problem_of",
]
