"""vLLM 0.7.2's engine, as training needs it: seeded requests of token ids, weights from outside, a loop of single steps.

What it keeps to: one request a completion (with n > 1, sample i takes seed + i, so neighbouring seeds share noise); a KV
cache in which all running requests fit at their longest (a preempted request would restart its noise); no prefix cache
(stale after a change of the weights); no state of a random generator of this process changed by building the engine.
"""

# mypy: disable-error-code="misc, no-untyped-call"

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch

from openrs.spec.parts import Sampling
from openrs.training.generation import Completion, Request
from openrs.training.sizes import KV_BLOCK_TOKENS, kv_blocks

STALL_SECONDS = 120.0
"""An engine that has requests and draws no token for so long is broken."""

ENVIRONMENT = {"VLLM_USE_V1": "0", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}


def device_options() -> dict[str, Any]:
    """Engine options that depend on the hardware; tests without a GPU put others here."""
    # With the number of blocks given, this is only a bound that must not be met: weights and a profile run of few rows.
    return {"gpu_memory_utilization": 0.9, "enforce_eager": False}


def prepare() -> None:
    """Imports vLLM as training wants it. Call it on all ranks before there is a process group: NCCL reads what it sets."""
    os.environ.update(ENVIRONMENT)
    import vllm  # noqa: F401


def build(model: str, revision: str | None, dtype: str, window: int, sequences: int, executor: Any) -> Any:
    """A vLLM engine with made-up weights (`Engine.load` brings the real ones); `executor` is an executor class or None."""
    prepare()
    from vllm import LLM

    options = {"distributed_executor_backend": executor} if executor else {}
    with kept_generators():
        return LLM(
            model=model,
            revision=revision,
            dtype=dtype,
            skip_tokenizer_init=True,
            load_format="dummy",
            max_model_len=window,
            max_num_seqs=sequences,
            block_size=KV_BLOCK_TOKENS,
            num_gpu_blocks_override=kv_blocks(sequences, window),
            swap_space=0,
            enable_prefix_caching=False,
            enable_chunked_prefill=False,
            **options,
            **device_options(),
        ).llm_engine


@contextlib.contextmanager
def kept_generators() -> Iterator[None]:
    """Gives Python's, numpy's and torch's global generators their states back; vLLM seeds them all when it starts."""
    states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda is not None:
            torch.cuda.set_rng_state(cuda)


@dataclass
class _Batch:
    """Requests that came together, and what has become of them."""

    count: int
    found: dict[int, Completion] = field(default_factory=dict)


class Engine:
    """One vLLM engine. Requests come in batches with a key; a batch is given back when all of it is there."""

    def __init__(self, engine: Any, sampling: Sampling) -> None:
        self._engine, self._sampling = engine, sampling
        self._batches: dict[str, _Batch] = {}
        self._progress, self._progressed = -1, time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether something is being drawn."""
        return bool(self._batches)

    def load(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Takes over weights under their Hugging Face names. Raises RuntimeError where one of vLLM's got none."""
        model = self._engine.model_executor.driver_worker.model_runner.model
        loaded = model.load_weights(weights)
        missing = {name for name, _ in model.named_parameters()} - set(loaded)
        if missing:
            raise RuntimeError(f"vLLM got no weights for {', '.join(sorted(missing)[:5])} ({len(missing)} in all)")

    def add(self, key: str, requests: Sequence[Request], ends: Sequence[int]) -> None:
        """Begins to draw one completion a request; the tokens `ends` end one."""
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        self._batches[key] = _Batch(len(requests))
        self._progressed = time.monotonic()
        for number, request in enumerate(requests):
            parameters = SamplingParams(
                temperature=self._sampling.temperature,
                top_p=self._sampling.top_p,
                seed=request.seed,
                max_tokens=self._sampling.max_new_tokens,
                stop_token_ids=list(ends),
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            prompt = TokensPrompt(prompt_token_ids=request.prompt)
            self._engine.add_request(f"{key}/{number}", prompt, parameters)

    def abort(self, key: str) -> None:
        """Forgets a batch at once; nothing of it is given back."""
        batch = self._batches.pop(key, None)
        if batch is not None:
            self._engine.abort_request([f"{key}/{number}" for number in range(batch.count)])
            if self._engine.has_unfinished_requests() is False:
                self._engine.step()  # output of the last step that is still queued

    def step(self) -> dict[str, list[Completion]]:
        """Draws one token for each running request; the batches that are complete with it.

        Raises RuntimeError where a request was preempted, was refused, or nothing goes on.
        """
        scheduler = self._engine.scheduler[0]
        for output in self._engine.step():
            key, _, number = output.request_id.rpartition("/")
            if output.finished and key in self._batches:
                self._batches[key].found[int(number)] = self._completion(output)
        if scheduler.num_cumulative_preemption:
            raise RuntimeError("vLLM preempted a request: its KV cache is smaller than it was asked to be")
        self._check_progress(scheduler)
        whole = {key: batch for key, batch in self._batches.items() if len(batch.found) == batch.count}
        for key in whole:
            del self._batches[key]
        return {key: [batch.found[number] for number in range(batch.count)] for key, batch in whole.items()}

    def _completion(self, output: Any) -> Completion:
        drawn = output.outputs[0]
        ids = list(drawn.token_ids)
        if drawn.finish_reason not in ("stop", "length") or not ids:
            raise RuntimeError(f"vLLM ended request {output.request_id} with {drawn.finish_reason}, {len(ids)} tokens")
        return Completion(ids=ids, finished=drawn.finish_reason == "stop")

    def _check_progress(self, scheduler: Any) -> None:
        drawn = sum(group.seqs[0].get_output_len() for group in scheduler.running)
        progress = hash((drawn, self._engine.get_num_unfinished_requests()))
        if progress != self._progress:
            self._progress, self._progressed = progress, time.monotonic()
        elif time.monotonic() - self._progressed > STALL_SECONDS:
            raise RuntimeError(f"vLLM has drawn no token for {STALL_SECONDS:.0f} s though requests wait")
