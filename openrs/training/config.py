"""The Trainer's options for a spec. Nothing that bites is left to a default of transformers or DeepSpeed."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from openrs.spec.experiment import Experiment
from openrs.training.sizes import ZERO_BUCKET


def training_dtype(experiment: Experiment) -> str:
    """Data type of the weights in training.

    On one GPU they are float32 under autocast: steps near 1e-6 are lost in bfloat16 weights, and there is no ZeRO to
    keep float32 copies of them.
    """
    if experiment.resources.gpus and experiment.trainer_ranks == 1:
        return "float32"
    return experiment.model.dtype


def arguments(experiment: Experiment, output: Path) -> TrainingArguments:
    """What transformers' Trainer is told. One of its batches is all that a rank learns from in one step."""
    training = experiment.training
    gpus, dtype = experiment.resources.gpus > 0, experiment.model.dtype
    # Transformers' "constant" knows no warm-up.
    schedule = {"constant": "constant_with_warmup"}.get(training.schedule, training.schedule)
    return TrainingArguments(
        output_dir=str(output),
        max_steps=training.steps,
        per_device_train_batch_size=experiment.completions_per_rank,
        gradient_accumulation_steps=1,
        learning_rate=training.learning_rate,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs={"min_lr_rate": training.min_lr_rate} if schedule == "cosine_with_min_lr" else {},
        warmup_ratio=training.warmup_ratio,
        adam_beta2=training.adam_beta2,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=training.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        seed=training.seed,
        use_cpu=not gpus and experiment.trainer_ranks == 1,
        bf16=gpus and dtype == "bfloat16",
        fp16=gpus and dtype == "float16",
        dataloader_pin_memory=gpus,
        remove_unused_columns=False,
        # The sampler starts at the step; the Trainer must not skip batches on top of that.
        ignore_data_skip=True,
        logging_nan_inf_filter=False,
        ddp_timeout=7200,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        deepspeed=_zero2(dtype) if experiment.trainer_ranks > 1 else None,
    )


def spare_compiler() -> None:
    """Keeps DeepSpeed from compiling an all-reduce through shared memory when its ranks are CPUs: minutes, for little."""
    backend: Any = importlib.import_module("deepspeed.comm.torch")  # `deepspeed.comm`'s own attribute is PyTorch itself
    backend.build_shm_op = lambda: None


def _zero2(dtype: str) -> dict[str, Any]:
    return {
        "zero_optimization": {
            "stage": 2,
            "overlap_comm": True,
            "contiguous_gradients": True,
            "reduce_bucket_size": ZERO_BUCKET,
            "allgather_bucket_size": ZERO_BUCKET,
        },
        "bf16": {"enabled": dtype == "bfloat16"},
        "fp16": {"enabled": dtype == "float16"},
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
    }
