"""Which layers of a model change, and back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from torch import nn

from .group import Group, calls_with_one_input
from .layer import Accelerated, accelerated, class_is_known
from .report import Report, state

Groups = bool | Sequence[Sequence[str]]


def accelerate(
    model: nn.Module | LoraConfig, *, group: Groups = True, dequantise: bool = False
) -> Report:
    """Lets the LoRA layers of a model run the kernels, and says which ones do.

    model: what `get_peft_model` or `PeftModel.from_pretrained` returned, or any module with PEFT's
    LoRA layers in it. Given a `LoraConfig` instead, it changes the layers that PEFT makes from this
    config afterwards, and the report fills up as they are made; layers are grouped only by a call
    with the model.

    group: whether layers that their parent calls with the same tensor (q, k and v, gate and up) are
    computed in one call. Which ones is read from the source of the parent's forward; names of
    children, `[("q_proj", "k_proj", "v_proj")]`, say it where that can't be.

    dequantise: whether a base of bitsandbytes is made dense in forward and again in backward, for
    one fused kernel. By default its own forward runs, and the kernels add the adapters' part.

    ValueError: the model has no LoRA layer.
    """
    if isinstance(model, LoraConfig):
        return _by_config(model, dequantise)
    report = Report()
    for name, layer in model.named_modules():
        # PEFT's LoraLayer is no Module, its layers are both.
        if isinstance(layer, LoraLayer) and isinstance(layer, nn.Module):
            _change(layer, dequantise)
            report.add(layer, name)
    if not report.layers:
        raise ValueError(
            "the model has no LoRA layers of PEFT: call accelerate after get_peft_model, or give "
            "it the LoraConfig before"
        )
    if group:
        _group(model, group, report)
    return report


def restore(model: nn.Module) -> None:
    """Gives all layers their PEFT classes back."""
    for layer in model.modules():
        if isinstance(layer, Accelerated):
            layer.__class__ = type(layer).__mro__[2]
            for name in ("lora_group", "lora_dequantise"):
                layer.__dict__.pop(name, None)


def _change(layer: Any, dequantise: bool) -> None:
    if class_is_known(layer):
        if not isinstance(layer, Accelerated):
            layer.__class__ = accelerated(type(layer))
        layer.lora_dequantise = dequantise
        layer.lora_group = None


def _group(model: nn.Module, given: Groups, report: Report) -> None:
    """Makes groups of layers that are fused now."""
    read: dict[type, list[tuple[str, ...]]] = defaultdict(list)
    unread = set()
    for parent in model.modules():
        children = {
            name: child
            for name, child in parent.named_children()
            if isinstance(child, Accelerated) and state(child)[0] == "fused"
        }
        if len(children) < 2:
            continue
        cls = type(parent)
        if given is True and cls not in read and cls not in unread:
            try:
                read[cls] = calls_with_one_input(parent)
            except (OSError, TypeError, SyntaxError) as error:
                unread.add(cls)
                report.ungrouped.append(f"layers of {cls.__name__}: {error}")
        for names in read[cls] if given is True else given:  # type: ignore[union-attr]
            members = tuple(children[name] for name in names if name in children)
            if len(members) > 1:
                shared = Group(members)
                for member in members:
                    member.lora_group = shared


def _by_config(config: LoraConfig, dequantise: bool) -> Report:
    report = Report()
    create: Any = LoraModel._create_new_module

    def make(target: nn.Module, adapter_name: str, config: LoraConfig, **options: Any) -> Any:
        # PEFT's own dispatchers choose the class, as they would without this entry.
        registered = config._custom_modules
        config._custom_modules = {
            key: value for key, value in (registered or {}).items() if value is not make
        }
        try:
            layer = create(config, adapter_name, target, **options)
        finally:
            config._custom_modules = registered
        _change(layer, dequantise)
        report.add(layer, options.get("target_name", ""))
        return layer

    config._register_custom_module({nn.Module: make})  # type: ignore[dict-item]
    return report
