"""One vLLM engine inside each training rank, beside the model that is trained."""

# mypy: disable-error-code="misc, no-untyped-call"

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import torch

from openrs.training.generation import Completion, Request
from openrs.training.generation.engine import Engine
from openrs.worker.ranks import free_port

KEY = "step"


class ColocateGenerator:
    """Draws with this rank's own engine; its weights are copied on the GPU, without any communication."""

    def __init__(self, engine: Engine, ends: Sequence[int]) -> None:
        self._engine, self._ends = engine, ends

    def sync(self, model: Any, step: int) -> None:
        """See `Generator`. Every rank has all parameters under ZeRO-2."""
        self._engine.load((name, parameter.data) for name, parameter in model.named_parameters())

    def generate(self, requests: Sequence[Request], stop: Callable[[], bool]) -> list[Completion] | None:
        """See `Generator`. Looks at `stop` between tokens."""
        self._engine.add(KEY, requests, self._ends)
        while True:
            if stop():
                self._engine.abort(KEY)
                return None
            found = self._engine.step()
            if KEY in found:
                return found[KEY]


def executor_class() -> Any:
    """The executor that makes one engine a rank where torch.distributed is up already; all ranks build it together.

    vLLM 0.7.2 takes the default process group for its own: it wants the group's size to be its tensor parallelism, and
    puts every engine on the first GPU. Here each rank gets groups of one, and its own GPU.
    """
    from vllm.distributed import parallel_state
    from vllm.executor.uniproc_executor import UniProcExecutor
    from vllm.worker.worker_base import WorkerWrapperBase

    class RankExecutor(UniProcExecutor):
        def _init_executor(self) -> None:
            local_rank = int(os.environ.get("LOCAL_RANK", "0"))
            if torch.distributed.is_initialized() and parallel_state._WORLD is None:
                alone = [[rank] for rank in range(torch.distributed.get_world_size())]
                for name in ("world", "tp", "pp"):
                    group = parallel_state.init_model_parallel_group(
                        alone, local_rank, "gloo", use_custom_allreduce=False, group_name=name
                    )
                    setattr(parallel_state, f"_{name.upper()}", group)
            self.driver_worker = WorkerWrapperBase(vllm_config=self.vllm_config, rpc_rank=0)
            worker = {
                "vllm_config": self.vllm_config,
                "local_rank": local_rank,
                "rank": 0,
                "distributed_init_method": f"tcp://127.0.0.1:{free_port()}",  # read where this is the only rank
                "is_driver_worker": True,
            }
            self.collective_rpc("init_worker", args=([worker],))
            with patch("torch.distributed.get_world_size", return_value=1):
                self.collective_rpc("init_device")
            self.collective_rpc("load_model")

    return RankExecutor
