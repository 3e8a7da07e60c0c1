"""A stand-in for vLLM's engine, which needs a GPU: the part of vLLM 0.7.2's interface that the back end uses.

It draws from a real model with transformers, one token of every request a step, each request from a generator of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


@dataclass
class SamplingParams:
    """As vLLM's, of which more is not used."""

    temperature: float
    top_p: float
    max_tokens: int
    seed: int
    stop_token_ids: list[int]
    output_kind: str


@dataclass
class _Request:
    id: str
    prompt: list[int]
    parameters: SamplingParams
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)


class Engine:
    """`LLMEngine`."""

    def __init__(self, name: str) -> None:
        self._model: Any = AutoModelForCausalLM.from_pretrained(name, torch_dtype=torch.float32).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(name)
        self.generation_config_fields = GenerationConfig.from_pretrained(name).to_diff_dict()
        self.scheduler = [SimpleNamespace(num_cumulative_preemption=0)]
        self.requests: list[_Request] = []
        self.seen: list[_Request] = []
        self.aborted: list[str] = []

    def add_request(self, request_id: str, prompt: dict[str, Any], params: SamplingParams) -> None:
        generator = torch.Generator().manual_seed(params.seed)
        request = _Request(request_id, prompt["prompt_token_ids"], params, generator)
        self.requests.append(request)
        self.seen.append(request)

    def has_unfinished_requests(self) -> bool:
        return bool(self.requests)

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids
        self.requests = [request for request in self.requests if request.id not in request_ids]

    def step(self) -> list[Any]:
        outputs = []
        for request in list(self.requests):
            with torch.inference_mode():
                logits = self._model(torch.tensor([request.prompt + request.tokens])).logits[0, -1]
            probabilities = torch.softmax(logits / request.parameters.temperature, dim=-1)
            token = int(torch.multinomial(probabilities, 1, generator=request.generator))
            request.tokens.append(token)
            stopped = token in request.parameters.stop_token_ids
            if stopped or len(request.tokens) == request.parameters.max_tokens:
                self.requests.remove(request)
                text = self._tokenizer.decode(request.tokens, skip_special_tokens=True)
                completion = SimpleNamespace(text=text, token_ids=tuple(request.tokens), logprobs=None)
                outputs.append(
                    SimpleNamespace(
                        request_id=request.id, prompt_token_ids=request.prompt, outputs=[completion], finished=True
                    )
                )
        return outputs


class LLM:
    """`vllm.LLM`."""

    started: list[dict[str, Any]] = []
    """Arguments of every engine that was started."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.llm_engine = Engine(arguments["model"])
        LLM.started.append(arguments)


def install(monkeypatch: pytest.MonkeyPatch) -> type[LLM]:
    """Makes lighteval and the back end take the stand-in for vLLM."""
    from lighteval.models.vllm import vllm_model

    def get_tokenizer(name: str, **_: Any) -> Any:
        return AutoTokenizer.from_pretrained(name)

    package, parameters = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    for name, value in {"TokensPrompt": dict, "LLM": LLM, "sampling_params": parameters}.items():
        setattr(package, name, value)
    setattr(parameters, "RequestOutputKind", SimpleNamespace(FINAL_ONLY="final"))  # noqa: B010
    monkeypatch.setitem(__import__("sys").modules, "vllm", package)
    monkeypatch.setitem(__import__("sys").modules, "vllm.sampling_params", parameters)
    for name, value in (("LLM", LLM), ("SamplingParams", SamplingParams), ("get_tokenizer", get_tokenizer)):
        monkeypatch.setattr(vllm_model, name, value, raising=False)
    monkeypatch.setattr(LLM, "started", [])
    return LLM
