"""Model and tokenizer of a spec or of a checkpoint, and the seeds of sampling: for training and for evaluation."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import hashlib
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from openrs.data.load import hub_problem
from openrs.errors import BadInput


def load_tokenizer(name: str, revision: str | None = None) -> Any:
    """The tokenizer of a repository or directory, padding on the left. Raises BadInput."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, padding_side="left")
    except OSError as error:
        problem = hub_problem(error, f"model {name} at {revision}")
        if problem:
            raise problem from None
        raise
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.chat_template is None:
        raise BadInput(
            f"model {name}: its tokenizer has no chat template, and problems are put to it as a conversation"
        )
    return tokenizer


def load_config(name: str, revision: str | None = None) -> Any:
    """The configuration of a model. Raises BadInput."""
    try:
        return AutoConfig.from_pretrained(name, revision=revision)
    except OSError as error:
        problem = hub_problem(error, f"model {name} at {revision}")
        if problem:
            raise problem from None
        raise


def load_model(name: str, revision: str | None, dtype: str, attention: str) -> Any:
    """The causal language model of a repository or directory, its weights as `dtype`. Raises BadInput."""
    options = {"torch_dtype": getattr(torch, dtype), "attn_implementation": attention}
    try:
        return AutoModelForCausalLM.from_pretrained(name, revision=revision, **options)
    except OSError as error:
        problem = hub_problem(error, f"model {name} at {revision}")
        if problem:
            raise problem from None
        raise
    except ImportError as error:
        raise BadInput(f"model.attention = {attention} cannot be used here: {' '.join(str(error).split())}") from None


def conversation(system: str | None, problem: str) -> list[dict[str, str]]:
    """The messages that put a problem to a model."""
    opening = [{"role": "system", "content": system}] if system else []
    return [*opening, {"role": "user", "content": problem}]


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Every token that ends a completion: the tokenizer's, and those of the model's own generation configuration."""
    own = model.generation_config.eos_token_id
    own = [] if own is None else own if isinstance(own, list) else [own]
    return sorted({int(token) for token in [tokenizer.eos_token_id, *own] if token is not None})


def derived_seed(*parts: int) -> int:
    """A 32-bit seed that is a hash of its parts: neighbouring steps share nothing."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")
