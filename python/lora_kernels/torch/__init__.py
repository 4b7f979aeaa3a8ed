"""Adapted linear layers for PyTorch, with autograd.

    y = lora_linear(x, weight, lora_a, lora_b, scaling=2.0, bias=bias, dropout_p=0.1)

They run on torch's current stream, in memory of torch's allocator. Gradients are those of x,
lora_a, lora_b and, by a sum of PyTorch's own, bias; the weight is frozen. A layer's first pass with
new shapes plans it, which takes no time on the GPU; plans are kept. x, and dy in backward, are
copied where their rows are not contiguous (an expanded tensor), nothing else is. S and the dropout
mask live from forward to backward, like the saved tensors.

Under autocast x, weight and bias are cast to its type, as in `torch.nn.Linear`; adapters in float32
stay as they are, and the kernels round their products. torch.compile, torch.export and dispatch
modes see the operators `torch.ops.lora_kernels.forward` and `backward`.

Tensors on a CUDA device have not been tried: no GPU was at hand. The tests run all of this on
tensors of the CPU, with nothing but the library's call carried to an emulated device.
"""

from . import ops
from .functions import lora_delta, lora_linear, lora_linears
from .generator import draw_dropout
from .module import LoraLinear

__all__ = ["LoraLinear", "draw_dropout", "lora_delta", "lora_linear", "lora_linears", "ops"]
