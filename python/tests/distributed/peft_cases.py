"""As `cases`, of a tiny Llama of PEFT's with accelerated layers."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel
from transformers import LlamaConfig, LlamaForCausalLM

from lora_kernels.peft import accelerate
from lora_kernels.torch import call

BATCH, STEPS = 4, 2
State = dict[str, torch.Tensor]


def model() -> Any:
    """The same on every rank, with adapters that aren't zero."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    lora = LoraConfig(r=4, lora_alpha=6, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(LlamaForCausalLM(config), lora)


def train(module: nn.Module, rank: int | None) -> int:
    """How often the kernels' forward was called."""
    calls = 0
    forward = call.forward

    def count(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return forward(*arguments, **options)

    call.forward = count
    learned = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.5)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(100 + step)
        ids = torch.randint(0, 48, (BATCH, 6), generator=generator)
        if rank is not None:
            ids = ids[rank * BATCH // 2 : (rank + 1) * BATCH // 2]
        module(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    call.forward = forward
    return calls


def adapters(module: nn.Module) -> State:
    state = {}
    for name, tensor in module.state_dict().items():
        if "lora_" in name:
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            state[name.removeprefix("module.")] = whole.detach().clone()
    return state


def alone(rank: int | None = None) -> State:
    """One process, the whole batch, PEFT's own layers."""
    module = model()
    assert train(module, None) == 0
    return adapters(module)


def ddp(rank: int) -> tuple[State, int]:
    module = model()
    accelerate(module)
    parallel = DistributedDataParallel(module)
    calls = train(parallel, rank)
    return adapters(parallel), calls


def fsdp2(rank: int, units: str) -> tuple[State, int]:
    module = model()
    accelerate(module)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    parts: dict[str, Any] = {
        "layers": [module.base_model.model.model.layers[0]],
        "modules": [one for one in module.modules() if type(one) is nn.Linear],
    }
    for part in parts[units]:
        fully_shard(part, mesh=mesh)
    fully_shard(module, mesh=mesh)
    calls = train(module, rank)
    return adapters(module), calls


def fsdp1(rank: int, use_orig_params: bool) -> tuple[State, int]:
    """With PEFT's own policy: a unit for every matrix of an adapter, and for every layer."""
    module = model()
    accelerate(module)
    parallel = FullyShardedDataParallel(
        module,
        auto_wrap_policy=fsdp_auto_wrap_policy(module),
        use_orig_params=use_orig_params,
        device_id=torch.device("cpu"),
    )
    calls = train(parallel, rank)
    with FullyShardedDataParallel.summon_full_params(parallel):
        return {
            name.replace("_fsdp_wrapped_module.", ""): parameter.detach().clone()
            for name, parameter in parallel.named_parameters()
            if "lora_" in name
        }, calls


def tensor_parallel(rank: int) -> tuple[State, int]:
    """torch's own plans of an MLP, which cut the adapters too: its layers are left to PEFT."""
    module = model()
    report = accelerate(module)
    plan: dict[str, Any] = {}
    for name in ("gate_proj", "up_proj"):
        plan |= {
            f"{name}.base_layer": ColwiseParallel(),
            f"{name}.lora_B.default": ColwiseParallel(),
        }
    plan |= {f"down_proj.{name}": RowwiseParallel() for name in ("base_layer", "lora_A.default")}
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    parallelize_module(module.base_model.model.model.layers[0].mlp, mesh, plan)
    left = {layer.why for layer in report.layers if layer.way == "peft"}
    assert left == {"a matrix of its adapter 'default' is a DTensor"}
    calls = train(module, None)
    return adapters(module), calls
