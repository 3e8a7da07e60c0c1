"""What can be seen to fail before any GPU time is spent: each a line with the way out."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError

from openrs.errors import BadInput
from openrs.estimate.memory import memory_plan
from openrs.estimate.shape import shape_of_config
from openrs.spec.experiment import Experiment
from openrs.training.model import conversation

LOOKED_AT = 500
"""Prompts whose length is looked at, evenly spread over the data."""


def check_start(experiment: Experiment, problems: Sequence[dict[str, str]], config: Any, tokenizer: Any) -> list[str]:
    """Raises BadInput for what cannot work; returns lines about what works worse than it should.

    `config` is the model's, from transformers.
    """
    if experiment.generation.type == "vllm" and importlib.util.find_spec("vllm") is None:
        raise BadInput(
            "generation.type = vllm: this Python has no vllm; install openrs[vllm] there, then resume the run"
        )
    if tokenizer.eos_token_id is None:
        raise BadInput("model: its tokenizer names no end token (eos_token), so no completion could ever end")
    places = getattr(config, "max_position_embeddings", None)
    if places is not None and experiment.window > places:
        raise BadInput(
            f"sampling.max_prompt_tokens + sampling.max_new_tokens = {experiment.window} is more than the {places} positions "
            f"of the model; lower one of them"
        )
    _check_memory(experiment, config)
    return _check_prompts(experiment, problems, tokenizer)


def _check_prompts(experiment: Experiment, problems: Sequence[dict[str, str]], tokenizer: Any) -> list[str]:
    limit = experiment.sampling.max_prompt_tokens
    looked = problems[:: max(1, len(problems) // LOOKED_AT)]
    try:
        lengths = [
            len(
                tokenizer.apply_chat_template(
                    conversation(experiment.prompt.system, row["problem"]), add_generation_prompt=True
                )
            )
            for row in looked
        ]
    except TemplateError as error:
        raise BadInput(f"model: its chat template refuses these prompts ({error}); see prompt.system") from None
    longer = sum(length > limit for length in lengths)
    if not longer:
        return []
    found = f"{longer} of {len(looked)} prompts looked at are longer than sampling.max_prompt_tokens = {limit} (longest: {max(lengths)})"
    if 2 * longer > len(looked):
        raise BadInput(f"{found}, and would lose their beginning; raise it")
    return [f"{found} and lose their beginning"]


def _check_memory(experiment: Experiment, config: Any) -> None:
    """Compares the memory plan with this rank's GPU, if there is one and the model's kind is known."""
    shape = shape_of_config(config.to_dict())
    if shape is None or not experiment.resources.gpus or not torch.cuda.is_available():
        return
    free = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / 2**30
    plan = memory_plan(experiment, shape)
    if plan.total > free:
        raise BadInput(
            f"the memory plan of a training rank asks for {plan.total:.1f} GiB of the GPU's {free:.1f}; lower "
            f"training.micro_batch_tokens or generation.max_sequences, or set training.gradient_checkpointing (`openrs plan`)"
        )
