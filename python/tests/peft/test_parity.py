"""Losses and gradients are PEFT's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import tiny
import torch

from lora_kernels.peft import accelerate

F32_NEAR = 2e-5
#: Half of one in the last place, relative. The kernels round S and the adapters to x's type, where
#: PEFT keeps float32 adapters' part in float32.
ULP = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


@pytest.mark.parametrize("name", tiny.MODELS)
def test_models_in_f32(name: str) -> None:
    model = tiny.adapted(name)
    loss, gradients = tiny.step(model)
    report = accelerate(model)
    assert len(report.groups) == tiny.MODELS[name][2], report
    assert report.names("fused") == [layer.name for layer in report.layers], report
    given_loss, given = tiny.step(model)
    assert given_loss == pytest.approx(loss, rel=1e-6)
    assert tiny.distance(given, gradients) < F32_NEAR


@pytest.mark.parametrize("adapters", ["f32", "alike"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_16_bit_models_are_as_near_to_f64_as_peft(
    name: str, dtype: torch.dtype, adapters: str
) -> None:
    model = tiny.adapted(name, dtype)
    if adapters == "alike":
        model.to(dtype)
    wanted_loss, wanted = tiny.step(tiny.in_f64(model))
    loss, gradients = tiny.step(model)
    accelerate(model)
    given_loss, given = tiny.step(model)
    assert abs(given_loss - wanted_loss) < abs(loss - wanted_loss) + ULP[dtype] * wanted_loss
    assert tiny.distance(given, wanted) < tiny.distance(gradients, wanted) + 4 * ULP[dtype]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("group", [True, False], ids=["grouped", "alone"])
def test_dropout_with_masks_that_are_known(
    name: str, group: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.adapted(name, lora_dropout=0.3)
    other = copy.deepcopy(model)
    masks = tiny.Masks(model, monkeypatch)
    accelerate(model, group=group)
    given_loss, given = tiny.step(model)
    assert len(set(masks.drawn.values())) > 1
    loss, gradients = tiny.step(masks.given_to(other, model))
    assert given_loss == pytest.approx(loss, rel=1e-6)
    assert tiny.distance(given, gradients) < F32_NEAR
    model.eval()
    assert tiny.step(model)[0] == pytest.approx(tiny.step(other.eval())[0], rel=1e-6)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_sees_the_same_mask_again(reentrant: bool) -> None:
    model = tiny.adapted("llama", lora_dropout=0.3)
    accelerate(model)
    torch.manual_seed(11)
    loss, gradients = tiny.step(model)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    torch.manual_seed(11)
    again, given = tiny.step(model)
    assert again == loss
    for name, gradient in gradients.items():
        assert torch.equal(given[name], gradient), name


@pytest.mark.parametrize(
    ("dtype", "cast"),
    [
        (torch.float32, torch.bfloat16),
        (torch.float32, torch.float16),
        (torch.bfloat16, torch.bfloat16),
    ],
    ids=["f32 to bf16", "f32 to f16", "bf16"],
)
def test_autocast(dtype: torch.dtype, cast: torch.dtype) -> None:
    model = tiny.adapted("llama", dtype)
    wanted_loss, wanted = tiny.step(tiny.in_f64(model))
    with torch.autocast("cpu", cast):
        loss, gradients = tiny.step(model)
        accelerate(model)
        given_loss, given = tiny.step(model)
    assert abs(given_loss - wanted_loss) < abs(loss - wanted_loss) + ULP[cast] * wanted_loss
    assert tiny.distance(given, wanted) < tiny.distance(gradients, wanted) + 4 * ULP[cast]


def test_accumulation_and_steps_of_an_optimizer() -> None:
    def losses(model: Any) -> list[float]:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
        found = []
        for update in range(3):
            for part in range(2):
                ids = tiny.tokens(seed=10 * update + part)
                loss = model(input_ids=ids, labels=ids).loss / 2
                loss.backward()
                found.append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
        return found

    model = tiny.adapted("qwen2")
    wanted = losses(copy.deepcopy(model))
    accelerate(model)
    assert losses(model) == pytest.approx(wanted, rel=1e-5)


def test_the_trainer_of_transformers(tmp_path: Any) -> None:
    from transformers import Trainer, TrainingArguments

    def losses(model: Any) -> list[float]:
        rows = [{"input_ids": row, "labels": row} for row in tiny.tokens(rows=8)]
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=2,
            learning_rate=0.01,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = Trainer(model=model, args=arguments, train_dataset=rows)
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    model = tiny.adapted("llama")
    wanted = losses(copy.deepcopy(model))
    accelerate(model)
    given = losses(model)
    assert len(given) == 2 and given == pytest.approx(wanted, rel=1e-5)
