"""The peer: peft + transformers.Trainer as their users run them, in the strongest honest setting the job names.

``python -m bench.peer JOB.json ANSWER.json``. Texts are tokenized before training; nothing is saved or reported, and in
timed runs nothing is logged; every trial starts from a freshly loaded base, so that its head is its own (peft copies
one head to all adapters of a base).
"""

import math
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from bench.data import SOURCES, labels_of, read_rows
from bench.job import Answer, Job, Trial, TrialAnswer, read_job
from bench.models import TARGETS, model_folder

CHECKED_EVERY = 25  # gradient norms are read on every such step, and on all untimed ones
CURVE_PARTS = 12

Features = dict[str, Any]


class Stopwatch(TrainerCallback):
    """Times the steps after the warm-up, waits at the gate before them, and checks gradient norms."""

    def __init__(self, warmup_steps: int, gate: bool) -> None:
        self.warmup_steps = warmup_steps
        self.gate = gate
        self.started = math.nan
        self.seconds = 0.0
        self.norms: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.warmup_steps:
            if self.gate:
                print("ready", flush=True)
                sys.stdin.readline()
            self.started = time.perf_counter()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step < self.warmup_steps or state.global_step % CHECKED_EVERY == 0:
            grads = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
            self.norms.append(float(torch.linalg.vector_norm(torch.stack([g.norm() for g in grads]))))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            self.seconds = time.perf_counter() - self.started


class CountingTrainer(Trainer):
    """A Trainer that remembers how many examples and tokens each step took in."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[int, int, int]] = []  # per step: examples, real tokens, tokens with padding

    def training_step(self, model: nn.Module, inputs: Features, *args: Any, **kwargs: Any) -> Tensor:
        mask = inputs["attention_mask"]
        self.seen.append((mask.shape[0], int(mask.sum()), mask.numel()))
        return super().training_step(model, inputs, *args, **kwargs)


def encode(folder: Path, split: str, tokenizer: Any, labels: tuple[str, ...], max_length: int) -> list[Features]:
    """Tokenize a split once: input ids, type ids and the label's index, no padding."""
    rows = read_rows(folder / f"{split}.jsonl")
    texts = [[str(row[column]) for row in rows] for column in SOURCES[folder.name].text]
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    names = [name for name in encoded if name in {"input_ids", "token_type_ids", "attention_mask"}]
    return [
        {name: encoded[name][i] for name in names} | {"labels": labels.index(str(row["label"]))}
        for i, row in enumerate(rows)
    ]


def build(trial: Trial, job: Job, num_labels: int) -> nn.Module:
    """A fresh base with its head, wrapped by peft for the trial's method.

    Raises:
        ValueError: a method the peer has no counterpart for.
    """
    from peft import IA3Config, LoraConfig, PromptTuningConfig, TaskType, VeraConfig, get_peft_model

    dropout: dict[str, Any] = (
        {} if job.base_dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    )
    model = AutoModelForSequenceClassification.from_pretrained(
        model_folder(job.model),
        num_labels=num_labels,
        attn_implementation=job.attention,
        dtype=torch.float32,
        **dropout,
    )
    if model.config.pad_token_id is None:
        model.config.pad_token_id = model.config.eos_token_id
    targets = TARGETS[model.config.model_type]
    setting = trial.settings
    task: dict[str, Any] = {"task_type": TaskType.SEQ_CLS}
    low_rank: dict[str, Any] = {
        "r": int(setting.get("rank", 8)),
        "lora_alpha": int(setting.get("alpha", 16)),
        "lora_dropout": setting.get("dropout", 0.1),
        "target_modules": targets,
    }
    match trial.method:
        case "full":
            return model
        case "head" | "bitfit":
            for name, parameter in model.named_parameters():
                head = name.startswith("classifier")
                parameter.requires_grad_(head or (trial.method == "bitfit" and name.endswith("bias")))
            return model
        case "lora" | "lora-plus" | "lora-fa":
            config = LoraConfig(**low_rank, **task)
        case "rslora":
            config = LoraConfig(**low_rank, **task, use_rslora=True)
        case "dora":
            config = LoraConfig(**low_rank, **task, use_dora=True)
        case "vera":
            config = VeraConfig(r=int(setting.get("rank", 256)), vera_dropout=0.0, target_modules=targets, **task)
        case "ia3":
            pattern = r".*(key|value|layer\.\d+\.output\.dense)$"
            config = IA3Config(target_modules=pattern, feedforward_modules=r".*layer\.\d+\.output\.dense$", **task)
        case "prompt-tuning":
            config = PromptTuningConfig(num_virtual_tokens=int(setting.get("num_virtual_tokens", 8)), **task)
        case _:
            raise ValueError(f"the peer has no method {trial.method!r}")
    return get_peft_model(model, config)


def optimizer(trial: Trial, model: Any) -> torch.optim.Optimizer | None:
    """peft's own optimizer for the methods that consist of one; None leaves the choice to Trainer."""
    from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer

    if trial.method == "lora-plus":
        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=trial.lr, loraplus_lr_ratio=16.0, weight_decay=0.01
        )
    if trial.method == "lora-fa":
        rank, alpha = int(trial.settings["rank"]), int(trial.settings["alpha"])
        return create_lorafa_optimizer(model, r=rank, lora_alpha=alpha, lr=trial.lr, weight_decay=0.01)
    return None


def arguments(trial: Trial, job: Job, folder: str) -> TrainingArguments:
    """Trainer's settings: linear decay, 6 % warm-up, AdamW, clip 1.0, weight decay 0.01 on matrices"""
    return TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=job.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=trial.lr,
        num_train_epochs=job.epochs,
        max_steps=job.max_steps or -1,
        lr_scheduler_type="linear",
        warmup_steps=0.06,
        weight_decay=0.01,
        max_grad_norm=1.0,
        bf16=job.precision == "bf16",
        use_cpu=True,
        seed=trial.seed,
        dataloader_num_workers=job.loader_workers,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


class LossCurve(TrainerCallback):
    """Keeps the mean losses that Trainer logs when a curve is asked for (trials that are not timed for speed)."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Features | None = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def run_trial(trial: Trial, job: Job, gate: bool, scratch: str) -> tuple[TrialAnswer, tuple[int, float, int, int]]:
    """Train one trial from a fresh base, and predict the test rows when the job asks for it.

    Returns:
        The trial's answer, and (examples, seconds, real tokens, computed tokens) of its timed region.

    Raises:
        RuntimeError: a gradient norm was zero or not finite.
    """
    folder = Path(job.data)
    labels = labels_of(folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder(job.model))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    train: Any = encode(folder, "train", tokenizer, labels, job.max_length)
    set_seed(trial.seed)
    model = build(trial, job, len(labels))
    padding = "max_length" if job.padding == "max_length" else "longest"
    options = arguments(trial, job, scratch)
    watch, curve = Stopwatch(job.warmup_steps, gate), LossCurve()
    trainer = CountingTrainer(
        model=model,
        args=options,
        train_dataset=train,
        data_collator=DataCollatorWithPadding(tokenizer, padding=padding, max_length=job.max_length),
        callbacks=[watch, curve],
        optimizers=(optimizer(trial, model), None),
    )
    if job.curve:
        steps = job.max_steps or job.epochs * math.ceil(len(train) / job.batch_size)
        options.logging_strategy, options.logging_steps = "steps", max(1, steps // CURVE_PARTS)
    trainer.remove_callback(PrinterCallback)
    result = trainer.train()
    bad = [norm for norm in watch.norms if not (math.isfinite(norm) and norm > 0)]
    if bad or not watch.norms:
        raise RuntimeError(f"gradient norms must be finite and above zero, seen: {bad or 'none'}")
    predictions: tuple[int, ...] = ()
    if job.evaluate:
        test: Any = encode(folder, "test", tokenizer, labels, job.max_length)
        logits: Any = trainer.predict(test).predictions
        predictions = tuple(int(i) for i in logits.argmax(-1))
    timed = trainer.seen[job.warmup_steps :]
    counts = [sum(step[i] for step in timed) for i in range(3)]
    answer = TrialAnswer(
        seed=trial.seed,
        steps=result.global_step,
        train_loss=float(result.training_loss),
        curve=tuple(curve.losses),
        grad_norm_min=min(watch.norms),
        grad_norm_max=max(watch.norms),
        predictions=predictions,
    )
    return answer, (counts[0], watch.seconds, counts[1], counts[2])


def main() -> None:
    began = time.perf_counter()
    job = read_job(sys.argv[1])
    torch.set_num_threads(job.threads)
    answers: list[TrialAnswer] = []
    timings: list[tuple[int, float, int, int]] = []
    with tempfile.TemporaryDirectory() as scratch:
        for i, trial in enumerate(job.trials):
            answer, timing = run_trial(trial, job, job.gate and i == 0, scratch)
            answers.append(answer)
            timings.append(timing)
    examples, seconds, real, computed = (sum(column) for column in zip(*timings, strict=True))
    answer = Answer(
        trials=tuple(answers),
        timed_examples=int(examples),
        timed_seconds=float(seconds),
        timed_tokens_real=int(real),
        timed_tokens_computed=int(computed),
        peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        wall_seconds=time.perf_counter() - began,
        notes={"precision": job.precision, "attention": job.attention, "loader_workers": job.loader_workers},
    )
    Path(sys.argv[2]).write_text(answer.to_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
