"""Sampling with transformers' own `generate`, for every runner that uses it."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig, StoppingCriteriaList

from openrs.evaluation.answers import Answer
from openrs.spec.parts import Sampling
from openrs.training.model import end_tokens
from openrs.training.stop import StopCriterion, StopRequested


def sample(
    model: Any, tokenizer: Any, ids: Any, mask: Any, sampling: Sampling, stop_requested: Callable[[], bool]
) -> tuple[list[Answer], list[list[int]]]:
    """One answer to each prompt, drawn from torch's global generator, and the tokens of each.

    `ids` and `mask` are (prompts, tokens), padded on the left. Raises StopRequested.
    """
    if stop_requested():
        raise StopRequested
    ends = end_tokens(model, tokenizer)
    # A whole configuration of its own: the model's may say something else about sampling.
    configuration = GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=None,
        max_new_tokens=sampling.max_new_tokens,
        eos_token_id=ends,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=mask,
            generation_config=configuration,
            stopping_criteria=StoppingCriteriaList([StopCriterion(stop_requested)]),
        )
    if stop_requested():
        raise StopRequested
    completions = output[:, ids.shape[1] :].cpu()
    is_end = torch.isin(completions, torch.tensor(ends))
    finished = is_end.any(dim=1)
    lengths = torch.where(finished, is_end.int().argmax(dim=1) + 1, completions.shape[1])
    tokens = [row[:length].tolist() for row, length in zip(completions, lengths.tolist(), strict=True)]
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    answers = [
        Answer(text, len(row), truncated=not done)
        for text, row, done in zip(texts, tokens, finished.tolist(), strict=True)
    ]
    return answers, tokens
