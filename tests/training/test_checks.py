"""What is refused before any GPU time, each in one line with the way out."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from jinja2 import TemplateError

from openrs.data.load import load, model_path
from openrs.errors import BadInput
from openrs.spec.experiment import VllmGeneration
from openrs.spec.load import load_experiment
from openrs.training import checks
from openrs.training.model import load_config, load_tokenizer
from tests.training.harness import tiny

pytestmark = pytest.mark.train

NAME, REVISION = model_path(tiny().model)


@pytest.fixture(scope="module")
def config() -> Any:
    return load_config(NAME, REVISION)


@pytest.fixture
def tokenizer() -> Any:
    return load_tokenizer(NAME, REVISION)


def check(experiment: Any, config: Any, tokenizer: Any) -> list[str]:
    return checks.check_start(experiment, load(experiment.data), config, tokenizer)


def test_nothing_to_say_about_a_sound_run(config: Any, tokenizer: Any) -> None:
    assert check(tiny(), config, tokenizer) == []


def test_prompts_that_are_too_long(config: Any, tokenizer: Any) -> None:
    lengths = sorted(
        len(tokenizer.apply_chat_template([{"role": "user", "content": row["problem"]}], add_generation_prompt=True))
        for row in load(tiny().data)
    )
    (warning,) = check(tiny(f"sampling.max_prompt_tokens={lengths[-1] - 1}"), config, tokenizer)
    assert "of 60 prompts looked at are longer than" in warning and "lose their beginning" in warning
    with pytest.raises(BadInput, match=r"60 of 60 .* longer than sampling.max_prompt_tokens = 5 .*raise it"):
        check(tiny("sampling.max_prompt_tokens=5"), config, tokenizer)


def test_a_window_that_the_model_does_not_have(config: Any, tokenizer: Any) -> None:
    with pytest.raises(BadInput, match="= 1040 is more than the 1024 positions of the model"):
        check(tiny("sampling.max_new_tokens=976"), config, tokenizer)


def test_a_tokenizer_without_an_end_or_with_a_template_that_refuses(config: Any, tokenizer: Any) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise TemplateError("System role not supported")

    refusing = SimpleNamespace(eos_token_id=2, apply_chat_template=refuse)
    with pytest.raises(BadInput, match=r"refuses these prompts \(System role not supported\); see prompt.system"):
        check(tiny("prompt.system=Be brief."), config, refusing)
    tokenizer.eos_token = None
    with pytest.raises(BadInput, match="no end token"):
        check(tiny(), config, tokenizer)


def test_vllm_that_is_not_installed(config: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    experiment = tiny().model_copy(update={"generation": VllmGeneration(type="vllm")})
    with pytest.raises(BadInput, match=r"no vllm; install openrs\[vllm\]"):
        check(experiment, config, tokenizer)


def test_a_gpu_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of the GPU is made up; the plan is the real one of exp3."""
    experiment = load_experiment("exp3")
    model = {"model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
    model |= {"num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936}
    config: Any = SimpleNamespace(to_dict=lambda: model)
    total = 24 * 2**30
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=total))
    with pytest.raises(BadInput, match=r"asks for 28\.0 GiB of the GPU's 24\.0; lower training.micro_batch_tokens"):
        checks._check_memory(experiment, config)
    total = 44 * 2**30
    checks._check_memory(experiment, config)
