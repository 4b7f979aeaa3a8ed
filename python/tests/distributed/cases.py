"""What both processes run, and the test for itself: a case gets its rank, or None for alone.

Every case trains a small model for a few steps and returns its adapters; alone, on the whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import parallelize_module
from torch.nn.parallel import DistributedDataParallel

from lora_kernels.torch import LoraLinear
from lora_kernels.torch.parallel import ColwiseLora, RowwiseLora

FEATURES, HIDDEN, BATCH, STEPS = 32, 48, 4, 2
State = dict[str, torch.Tensor]


def model(dropout_p: float = 0.0) -> nn.Sequential:
    """Two adapted layers, the same on every rank, with adapters that aren't zero."""
    torch.manual_seed(7)
    up = LoraLinear(nn.Linear(FEATURES, HIDDEN), 3, lora_alpha=6, dropout_p=dropout_p)
    down = LoraLinear(nn.Linear(HIDDEN, FEATURES), 5, lora_alpha=5, dropout_p=dropout_p)
    for layer in (up, down):
        nn.init.uniform_(layer.lora_B.weight, -0.3, 0.3)
    return nn.Sequential(up, nn.Tanh(), down)


def batch(step: int, rank: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    """x and what y should be: a rank's part, or all of it."""
    generator = torch.Generator().manual_seed(100 + step)
    both = torch.rand(2, BATCH, FEATURES, generator=generator)
    if rank is None:
        return both[0], both[1]
    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    return both[0, half], both[1, half]


def train(module: nn.Module, rank: int | None) -> None:
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.5)
    for step in range(STEPS):
        x, wanted = batch(step, rank)
        nn.functional.mse_loss(module(x), wanted).backward()
        optimizer.step()
        optimizer.zero_grad()


def adapters(module: nn.Module) -> State:
    """Whole ones, under the names of the model itself."""
    state = {}
    for name, tensor in module.state_dict().items():
        if "lora_" in name:
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            state[name.removeprefix("module.")] = whole.detach().clone()
    return state


def alone(rank: int | None = None, dropout_p: float = 0.0) -> State:
    """One process, the whole batch."""
    module = model(dropout_p)
    torch.manual_seed(11)
    train(module, None)
    return adapters(module)


def ddp(rank: int) -> State:
    module = DistributedDataParallel(model())
    # What DDP sends in every step: buffers, and the gradients of what learns.
    assert not list(module.buffers())
    train(module, rank)
    return adapters(module)


def fsdp2(rank: int, units: str) -> State:
    module = model()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    if units == "layers":
        for layer in (module[0], module[2]):
            fully_shard(layer, mesh=mesh)
    elif units == "modules":
        for layer in (module[0], module[2]):
            for part in (layer.base_layer, layer.lora_A, layer.lora_B):
                fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    train(module, rank)
    return adapters(module)


def fsdp1(rank: int, units: str, use_orig_params: bool) -> State:
    kinds: dict[str, set[type[nn.Module]]] = {"layers": {LoraLinear}, "modules": {nn.Linear}}
    module = FullyShardedDataParallel(
        model(),
        auto_wrap_policy=ModuleWrapPolicy(kinds[units]),
        use_orig_params=use_orig_params,
        device_id=torch.device("cpu"),
    )
    train(module, rank)
    with FullyShardedDataParallel.summon_full_params(module):
        return {
            name.replace("_fsdp_wrapped_module.", ""): parameter.detach().clone()
            for name, parameter in module.named_parameters()
            if "lora_" in name
        }


def zero3(rank: int) -> State:
    """DeepSpeed's stage 3: parameters are cut to pieces, and hooks of each leaf gather them."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ["LOCAL_SIZE"] = str(dist.get_world_size())
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    module = model()
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    settings = {
        "train_micro_batch_size_per_gpu": BATCH // dist.get_world_size(),
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=torch.optim.SGD(learned, lr=0.5),
        model_parameters=learned,
        config=settings,
    )
    for step in range(STEPS):
        x, wanted = batch(step, rank)
        engine.backward(nn.functional.mse_loss(engine(x), wanted))
        engine.step()
    # Nothing is whole between calls.
    assert module[0].base_layer.weight.numel() == 0
    with deepspeed.zero.GatheredParameters(learned):
        return adapters(module)


def tensor_parallel(rank: int, dropout_p: float, local: bool) -> State:
    """Every rank has the whole batch, and a part of both layers."""
    module = model(dropout_p)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plan = {"0": ColwiseLora(use_local_output=local), "2": RowwiseLora(use_local_output=local)}
    parallelize_module(module, mesh, plan)
    torch.manual_seed(11)
    run: Callable[[torch.Tensor], torch.Tensor] = module.forward
    if not local:
        module.forward = lambda x: run(_whole(x, mesh)).full_tensor()  # type: ignore[method-assign]
    train(module, None)
    return adapters(module)


def _whole(x: torch.Tensor, mesh: DeviceMesh) -> DTensor:
    return DTensor.from_local(x, mesh, [Replicate()], run_check=False)


def sequence_parallel(rank: int) -> State:
    """x and y are cut along the batch between the layers' own collectives."""
    module = model()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    plan = {"0": ColwiseLora(input_layouts=Shard(0)), "2": RowwiseLora(output_layouts=Shard(0))}
    parallelize_module(module, mesh, plan)
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.5)
    for step in range(STEPS):
        x, wanted = batch(step, rank)
        # A rank's mean is over half of the elements.
        (nn.functional.mse_loss(module(x), wanted) / dist.get_world_size()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return adapters(module)


def refusals(rank: int) -> list[str]:
    """The texts of what tensor parallelism can't do."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    texts = []

    def refused(attempt: Callable[[], Any]) -> None:
        try:
            attempt()
        except (TypeError, ValueError) as error:
            texts.append(str(error))
        else:
            texts.append("nothing was refused")

    refused(lambda: parallelize_module(nn.Linear(4, 4), mesh, ColwiseLora()))
    narrow = LoraLinear(nn.Linear(12, 4), 2, lora_alpha=2, dropout_p=0.5)
    parallelize_module(narrow, mesh, RowwiseLora())
    refused(lambda: narrow(torch.ones(2, 6)))
    half = LoraLinear(nn.Linear(16, 4), 2, lora_alpha=2)
    parallelize_module(half, mesh, {"base_layer": _Rows()})
    refused(lambda: half(torch.ones(2, 16)))
    return texts


class _Rows(ColwiseLora):
    """torch's own column-wise plan of the base layer alone."""

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        from torch.distributed.tensor.parallel import ColwiseParallel

        return ColwiseParallel()._apply(module, device_mesh)
