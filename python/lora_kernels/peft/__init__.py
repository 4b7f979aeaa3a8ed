"""PEFT's models on the kernels.

    model = get_peft_model(model, LoraConfig(...))
    print(accelerate(model))

The model stays PEFT's: its parameters, their names, what is saved and loaded, merging, adding,
choosing and disabling adapters, `modules_to_save` and hot-swapping. Only the forward of its LoRA
layers changes. Call `accelerate` again after adapters were added to layers that had none.

What isn't as PEFT has it: the random numbers of dropout are others where base and adapter are one
product (those of a seed that is drawn from torch's generator), and layers that are computed in one
call (`group`) see one mask.

On tensors that aren't on a CUDA device, the layers run PEFT's own forward.
"""

from .model import accelerate, restore
from .report import LayerReport, Report, Way

__all__ = ["LayerReport", "Report", "Way", "accelerate", "restore"]
