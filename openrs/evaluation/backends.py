"""lighteval's model back ends, mended where they meet ours. Imports lighteval 0.8.1, and vLLM where it is installed.

What is mended: lighteval decodes greedily for a metric that wants one answer; it adds a second BOS to a prompt whose chat
template begins with one; on transformers it pads each prompt by the length of the completion, and cuts the completion by
that padding; it knows one token that ends a completion, where models have several; on vLLM all prompts share one seed, so
also their random numbers; and it ends the engine after each evaluation.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from huggingface_hub import constants, get_token
from lighteval.models.model_input import GenerationParameters
from lighteval.models.model_output import GenerativeResponse
from lighteval.models.transformers.transformers_model import TransformersModel, TransformersModelConfig
from lighteval.models.vllm import vllm_model
from lighteval.models.vllm.vllm_model import VLLMModel, VLLMModelConfig
from lighteval.utils.utils import EnvConfig

from openrs.errors import BadInput
from openrs.evaluation.answers import Answer, processor
from openrs.evaluation.generate import sample
from openrs.evaluation.runner import Subject
from openrs.spec.evaluation import Benchmark
from openrs.spec.experiment import Spec
from openrs.training.model import derived_seed, end_tokens
from openrs.training.stop import StopRequested

StopRequest = Callable[[], bool]


def open_backend(spec: Spec, subject: Subject, benchmarks: Sequence[Benchmark], stop_requested: StopRequest) -> Backend:
    """The model, loaded: by vLLM where the evaluation has GPUs, else by transformers. Raises BadInput."""
    if spec.evaluation.resources.gpus:
        return VllmBackend(spec, subject, benchmarks, stop_requested)
    return TransformersBackend(spec, subject, benchmarks, stop_requested)


class _Seam:
    """What both back ends share: the cell in progress."""

    _stop_requested: StopRequest
    _benchmark: Benchmark
    _seed: int

    def begin(self, benchmark: Benchmark, seed: int) -> int:
        """Takes up a cell; the length of completion that requests should name."""
        self._benchmark, self._seed = benchmark, seed
        return benchmark.sampling.max_new_tokens


class TransformersBackend(_Seam, TransformersModel):  # type: ignore[misc]
    """lighteval's transformers back end on a CPU, which samples."""

    def __init__(
        self, spec: Spec, subject: Subject, benchmarks: Sequence[Benchmark], stop_requested: StopRequest
    ) -> None:
        longest = max(benchmark.sampling.max_prompt_tokens for benchmark in benchmarks)
        config = TransformersModelConfig(
            pretrained=subject.name,
            revision=subject.revision or "main",
            dtype=spec.model.dtype,
            device="cpu",
            model_parallel=False,
            max_length=longest,
            add_special_tokens=False,  # the chat template writes them
            use_chat_template=True,
        )
        super().__init__(EnvConfig(cache_dir=constants.HF_HUB_CACHE, token=get_token()), config)
        self._stop_requested, self._batches = stop_requested, 0

    @property
    def disable_tqdm(self) -> bool:
        """No progress bars in a log."""
        return True

    def begin(self, benchmark: Benchmark, seed: int) -> int:
        """Takes up a cell. Requests name one token: lighteval pads each prompt by that; `_generate` knows the true length."""
        super().begin(benchmark, seed)
        self._batches = 0
        self._max_length = self.tokenizer.model_max_length = benchmark.sampling.max_prompt_tokens
        return 1

    def _generate(self, batch: Any, **_: Any) -> list[GenerativeResponse]:
        torch.manual_seed(derived_seed(self._seed, self._batches))
        self._batches += 1
        answers, tokens = sample(
            self.model,
            self.tokenizer,
            batch.input_ids,
            batch.input_mask,
            self._benchmark.sampling,
            self._stop_requested,
        )
        return [
            GenerativeResponse(result=[answer.completion], generated_tokens=[ids], input_tokens=prompt.tolist())
            for answer, ids, prompt in zip(answers, tokens, batch.input_ids, strict=True)
        ]

    def ends(self) -> list[int]:
        """Tokens that end a completion."""
        return end_tokens(self.model, self.tokenizer)

    def hardware(self) -> str:
        """What computes."""
        return processor(torch.get_num_threads())

    def facts(self) -> dict[str, Any]:
        """What else a result says."""
        return {"engine": "transformers"}


class VllmBackend(_Seam, VLLMModel):  # type: ignore[misc]
    """lighteval's vLLM back end on one GPU: each answer has a seed of its own, and a stop takes effect at the next token."""

    def __init__(
        self, spec: Spec, subject: Subject, benchmarks: Sequence[Benchmark], stop_requested: StopRequest
    ) -> None:
        if vllm_model.LLM is None:
            raise BadInput("evaluation.resources.gpus asks for vLLM, which is not installed here; install openrs[vllm]")
        self._sequences = max(benchmark.batch for benchmark in benchmarks)
        samplings = [benchmark.sampling for benchmark in benchmarks]
        config = VLLMModelConfig(
            pretrained=subject.name,
            revision=subject.revision or "main",
            dtype=spec.model.dtype,
            gpu_memory_utilization=spec.evaluation.gpu_memory_utilization,
            max_model_length=max(sampling.max_prompt_tokens + sampling.max_new_tokens for sampling in samplings),
            add_special_tokens=False,  # the chat template writes them
            use_chat_template=True,
            generation_parameters=GenerationParameters(),
        )
        super().__init__(config, EnvConfig(cache_dir=constants.HF_HUB_CACHE, token=get_token()))
        self._stop_requested = stop_requested

    def _create_auto_model(self, config: VLLMModelConfig, env_config: EnvConfig) -> Any:
        self.model_args = {
            "model": config.pretrained,
            "revision": config.revision,
            "tokenizer_revision": config.revision,
            "dtype": config.dtype,
            "gpu_memory_utilization": config.gpu_memory_utilization,
            "max_model_len": self._max_length,
            "max_num_seqs": self._sequences,
            "swap_space": 0,  # never used: nothing is swapped where each request draws one answer
        }
        return vllm_model.LLM(**self.model_args)

    def cleanup(self) -> None:
        """Keeps the engine: the next cell wants it."""

    def begin(self, benchmark: Benchmark, seed: int) -> int:
        """Takes up a cell; longer prompts lose their beginning."""
        sampling = benchmark.sampling
        self._max_length = sampling.max_prompt_tokens + sampling.max_new_tokens
        self._begun_anew = self._preemptions()
        return super().begin(benchmark, seed)

    def _preemptions(self) -> int:
        """So far, in all cells of this engine."""
        return sum(scheduler.num_cumulative_preemption for scheduler in self.model.llm_engine.scheduler)

    def _generate(self, inputs: list[list[int]], **_: Any) -> list[Any]:
        from vllm import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        engine, sampling = self.model.llm_engine, self._benchmark.sampling
        times: Counter[tuple[int, ...]] = Counter()
        for number, tokens in enumerate(inputs):
            prompt = tuple(tokens)
            parameters = vllm_model.SamplingParams(
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_new_tokens,
                seed=prompt_seed(self._seed, prompt, times[prompt]),
                stop_token_ids=self.ends(),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            times[prompt] += 1
            engine.add_request(str(number), TokensPrompt(prompt_token_ids=tokens), parameters)
        found: dict[str, Any] = {}
        while engine.has_unfinished_requests():
            if self._stop_requested():
                engine.abort_request([str(number) for number in range(len(inputs)) if str(number) not in found])
                raise StopRequested
            found |= {output.request_id: output for output in engine.step() if output.finished}
        return [_without_logprobs(found[str(number)]) for number in range(len(inputs))]

    def ends(self) -> list[int]:
        """Tokens that end a completion."""
        own = self.model.llm_engine.generation_config_fields.get("eos_token_id")
        return end_tokens(SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=own)), self.tokenizer)

    def hardware(self) -> str:
        """What computes."""
        return str(torch.cuda.get_device_name()) if torch.cuda.is_available() else processor(torch.get_num_threads())

    def facts(self) -> dict[str, Any]:
        """What else a result says. A completion that was begun anew has repeated its random numbers: that should be rare."""
        return {"engine": "vllm", "begun_anew": self._preemptions() - self._begun_anew}


Backend = TransformersBackend | VllmBackend


def prompt_seed(seed: int, prompt: tuple[int, ...], sample_number: int) -> int:
    """The seed of one answer, from the cell's seed, the prompt and which of its samples it is: in any order, in any batch."""
    content = repr((seed, sample_number, prompt)).encode()
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big") >> 1


def answers_of(backend: Backend, responses: Sequence[GenerativeResponse]) -> list[Answer]:
    """Lighteval's responses, one completion each, as answers."""
    ends = set(backend.ends())
    found = []
    for response in responses:
        tokens = list(response.generated_tokens[0])
        found.append(Answer(response.result[0], len(tokens), truncated=not tokens or tokens[-1] not in ends))
    return found


def _without_logprobs(output: Any) -> Any:
    """Lighteval reads the log-probability of each token, for which nobody asked."""
    for completion in output.outputs:
        completion.logprobs = []
    return output
