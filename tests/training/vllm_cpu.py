"""A stand-in for vLLM's GPU worker, so that the real engine, scheduler and sampler of 0.7.2 run on a CPU.

Real: `LLM`, its arguments, scheduler, block manager, sampler, output processing, our executor and its process groups.
Stand-in: the worker, which computes logits with transformers and keeps no KV cache (that needs CUDA kernels), and its
model's `load_weights`, which takes the same names as vLLM's Qwen2 and reports as it does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM


class Worker:
    """Takes the place of `vllm.worker.worker.Worker`."""

    def __init__(self, vllm_config: Any, local_rank: int, rank: int, distributed_init_method: str, **_: Any) -> None:
        self._config, self._local_rank, self._rank = vllm_config, local_rank, rank
        self._method = distributed_init_method
        self._generators: dict[str, torch.Generator] = {}

    def init_device(self) -> None:
        from vllm.model_executor.utils import set_random_seed
        from vllm.worker import worker

        if torch.distributed.is_initialized():
            worker.init_worker_distributed_environment(self._config, self._rank, self._method, self._local_rank)
        set_random_seed(self._config.model_config.seed)  # as the real one does: it must not reach the trainer

    def load_model(self) -> None:
        config = self._config.model_config
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(config.model), torch_dtype=config.dtype)
        self.model_runner = SimpleNamespace(model=_Model(model.eval()))

    def get_model(self) -> Any:
        return self.model_runner.model

    def determine_num_available_blocks(self) -> tuple[int, int]:
        return 100_000, 0

    def initialize_cache(self, num_gpu_blocks: int, num_cpu_blocks: int) -> None:
        pass

    @torch.inference_mode()
    def execute_model(self, request: Any) -> list[Any]:
        from vllm.model_executor.layers.sampler import Sampler
        from vllm.model_executor.sampling_metadata import SamplingMetadata

        for finished in request.finished_requests_ids or []:
            self._generators.pop(finished, None)
        lengths, queries, logits = [], [], []
        for group in request.seq_group_metadata_list:
            ((_, data),) = group.seq_data.items()
            tokens = list(data.get_token_ids())
            length = data.get_num_computed_tokens() + group.token_chunk_size if group.is_prompt else len(tokens)
            lengths.append(length)
            queries.append(group.token_chunk_size if group.is_prompt else 1)
            if group.do_sample:
                logits.append(self.model_runner.model.inner(torch.tensor([tokens[:length]])).logits[0, -1].float())
        metadata = SamplingMetadata.prepare(
            request.seq_group_metadata_list, lengths, queries, "cpu", False, self._generators
        )
        return [Sampler()(torch.stack(logits), metadata)]


class _Model(torch.nn.Module):
    """Speaks of weights as `vllm.model_executor.models.qwen2.Qwen2ForCausalLM` does."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner.named_parameters(*args, **kwargs)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        own = dict(self.inner.named_parameters())
        loaded = set()
        for name, value in weights:
            own[name].data.copy_(value)  # KeyError for a name that is unknown
            loaded.add(name)
        return loaded


def options() -> dict[str, Any]:
    """What `openrs.training.generation.engine.device_options` says here."""
    return {"device": "cpu", "enforce_eager": True, "disable_async_output_proc": True, "worker_cls": Worker}


def install(monkeypatch: Any) -> None:
    """Lets `openrs.training.generation.engine.build` make engines on this machine."""
    monkeypatch.setitem(sys.modules, "vllm.cumem_allocator", None)  # it loads libcuda.so.1
    import vllm.model_executor.sampling_metadata as metadata

    from openrs.training.generation import engine

    monkeypatch.setattr(metadata, "is_pin_memory_available", lambda: False)
    monkeypatch.setattr(engine, "device_options", options)
