"""The two sides of the GPU benchmark: lanes of one pack in Remora, and one trial of peft + Trainer.

The clock runs over steps that come after a warm-up, and both sides wait for the device when it starts and stops. Both
train LoRA of rank 8 on query and value, batches of equally long sentences, AdamW, clipping, base dropout as configured.
"""

import gc
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)

from bench.gpu_models import NUM_CLASSES, SizedModel, random_data
from remora.engine.driver import Driver
from remora.engine.loop import run_pack
from remora.engine.trial import NoEvents, TrialSpec
from remora.models.base import placed
from remora.models.load import load_base

RANK, ALPHA, RATE = 8, 16, 0.1


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is trained: batches of `batch_size` sentences of `length` tokens, `warmup` steps and then `steps` timed."""

    batch_size: int = 16
    length: int = 64
    warmup: int = 8
    steps: int = 40


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What a side gave.

    Args:
        seconds: of the timed steps.
        examples: of all lanes in them.
        peak_bytes: most memory that tensors took on the device; None on a CPU.
        grad_norm_min: over all steps looked at, and grad_norm_max likewise.
    """

    seconds: float
    examples: int
    peak_bytes: int | None
    grad_norm_min: float
    grad_norm_max: float

    def __post_init__(self) -> None:
        if not 0 < self.grad_norm_min <= self.grad_norm_max < math.inf:
            raise RuntimeError(f"gradient norms from {self.grad_norm_min} to {self.grad_norm_max}: it did not train")


def fresh_peak(device: torch.device) -> None:
    """Free what earlier runs left and start the high-water mark anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class PackClock(NoEvents):
    """Times the steps after the warm-up; steps are told when their losses were read, so the device has done them."""

    def __init__(self, warmup: int) -> None:
        self._warmup = warmup
        self._started = math.nan
        self.seconds = math.nan

    def step(self, spec: TrialSpec, step: int, num_steps: int, loss: float) -> None:
        """Start at the last lane's last step of the warm-up, stop at the first lane's end."""
        if step == self._warmup:
            self._started = time.perf_counter()
        elif step == num_steps and math.isnan(self.seconds):
            self.seconds = time.perf_counter() - self._started


def remora_side(
    folder: Path, model: SizedModel, load: Load, lanes: int, device: torch.device, base_dropout: bool
) -> Timing:
    """Train `lanes` trials in one pack."""
    fresh_peak(device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    base = placed(load_base(str(folder), dtype=dtype), device)
    num_steps = load.warmup + load.steps
    data = random_data(model.settings["vocab_size"], num_steps * load.batch_size, load.length)
    settings = {"rank": RANK, "alpha": float(ALPHA), "dropout": RATE}
    specs = [
        TrialSpec(
            id=f"trial-{seed}",
            method="lora",
            settings=settings,
            lr=1e-4,
            seed=seed,
            epochs=1,
            batch_size=load.batch_size,
            base_dropout=base_dropout,
            curve=False,
            splits=(),
        )
        for seed in range(lanes)
    ]
    clock = PackClock(load.warmup)
    with Driver(base) as driver:
        outcomes = list(
            run_pack(
                driver,
                data,
                specs,
                slots=lanes,
                tokens_per_pass=model.tokens_per_pass,
                read_every=load.warmup,
                events=clock,
            )
        )
    return Timing(
        seconds=clock.seconds,
        examples=lanes * load.steps * load.batch_size,
        peak_bytes=peak_bytes(device),
        grad_norm_min=min(outcome.grad_norm["min"] for outcome in outcomes),
        grad_norm_max=max(outcome.grad_norm["max"] for outcome in outcomes),
    )


class PeerClock(TrainerCallback):
    """Times the steps after the warm-up and reads gradient norms in the warm-up only."""

    def __init__(self, load: Load, device: torch.device) -> None:
        self._load, self._device = load, device
        self._started = math.nan
        self.seconds = math.nan
        self.norms: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._load.warmup:
            wait(self._device)
            self._started = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step < self._load.warmup:
            grads = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
            self.norms.append(float(torch.linalg.vector_norm(torch.stack([grad.norm() for grad in grads]))))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            wait(self._device)
            self.seconds = time.perf_counter() - self._started


def peer_side(
    folder: Path, model: SizedModel, load: Load, dtype: str, device: torch.device, base_dropout: bool
) -> Timing:
    """Train one trial with peft and Trainer: bf16 autocast, fused AdamW, torch's fused attention, nothing logged."""
    from peft import LoraConfig, TaskType, get_peft_model

    fresh_peak(device)
    set_seed(0)
    off: dict[str, Any] = {} if base_dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    network = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=NUM_CLASSES,
        attn_implementation="sdpa",
        dtype=getattr(torch, dtype),
        **(off if model.model_type == "roberta" else {}),
    )
    config = LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        lora_dropout=RATE,
        target_modules=list(model.targets),
        task_type=TaskType.SEQ_CLS,
    )
    num_steps = load.warmup + load.steps
    examples = random_data(model.settings["vocab_size"], num_steps * load.batch_size, load.length).split("train", 0)
    rows: Any = [
        {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.ones(load.length, dtype=torch.int64),
            "labels": int(y),
        }
        for ids, y in zip(examples.ids, examples.targets, strict=True)
    ]
    clock = PeerClock(load, device)
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=load.batch_size,
            max_steps=num_steps,
            learning_rate=1e-4,
            lr_scheduler_type="linear",
            weight_decay=0.01,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            bf16=True,
            use_cpu=device.type == "cpu",
            dataloader_pin_memory=device.type == "cuda",
            remove_unused_columns=False,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=get_peft_model(network, config),
            args=arguments,
            train_dataset=rows,
            data_collator=default_data_collator,
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return Timing(
        seconds=clock.seconds,
        examples=load.steps * load.batch_size,
        peak_bytes=peak_bytes(device),
        grad_norm_min=min(clock.norms),
        grad_norm_max=max(clock.norms),
    )
