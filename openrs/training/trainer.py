"""The seam to TRL: its GRPO trainer with our order, seeds, stops, checkpoints, metrics. The algorithm is TRL's own."""

# TRL, transformers and accelerate are untyped here; everything typed stands in the other files.
# mypy: disable-error-code="misc, no-untyped-call, no-untyped-def, attr-defined, assignment, arg-type"

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, StoppingCriteriaList, set_seed
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from openrs import rewards
from openrs.data.load import model_path
from openrs.rewards import verify
from openrs.runs.directory import RunDirectory
from openrs.spec.change import identity
from openrs.spec.experiment import Experiment
from openrs.stage import StageFile
from openrs.training import checkpoint, observe
from openrs.training.interval import due
from openrs.training.model import derived_seed, load_model, load_tokenizer
from openrs.training.sampler import StepSampler
from openrs.training.saving import Saving
from openrs.training.snapshot import snapshot
from openrs.training.stop import StopCriterion, StopRequested
from openrs.worker.rank import Rank

POLL_SECONDS = 0.2
"""How often a rank that waits for the generation server looks for a request to stop."""


def train(
    stage: StageFile,
    experiment: Experiment,
    problems: list[dict[str, str]],
    run: RunDirectory,
    rank: Rank,
    start: checkpoint.Found | None,
    server: tuple[str, int] | None,
) -> None:
    """Trains from `start` to the last step. Raises BadInput, and StopRequested once the last finished step is saved."""
    name, revision = model_path(experiment.model)
    tokenizer = load_tokenizer(name, revision)
    # The base model also on resuming: the KL term's reference is a copy of it. The Trainer then loads the weights.
    model = load_model(name, revision, training_dtype(experiment), experiment.model.attention)
    trainer = Trainer(stage, experiment, problems, run, rank, start, server, model, tokenizer)
    try:
        trainer.train(resume_from_checkpoint=str(start.path) if start else None)
    except StopRequested:
        trainer.saving.finish(trainer.state.global_step)
        raise
    trainer.saving.finish(trainer.state.global_step)


def training_dtype(experiment: Experiment) -> str:
    """Data type of the weights in training.

    On one GPU they are float32 under autocast: steps near 1e-6 are lost in bfloat16 weights, and there is no ZeRO to
    keep float32 copies of them.
    """
    if experiment.resources.gpus and experiment.trainer_ranks == 1:
        return "float32"
    return experiment.model.dtype


def config(experiment: Experiment, output: Path, server: tuple[str, int] | None) -> GRPOConfig:
    """TRL's options for a spec. Nothing that bites is left to a default of TRL."""
    training, sampling = experiment.training, experiment.sampling
    gpus, dtype = experiment.resources.gpus > 0, experiment.model.dtype
    # Transformers' "constant" knows no warm-up.
    schedule = {"constant": "constant_with_warmup"}.get(training.schedule, training.schedule)
    options: dict[str, Any] = {}
    if server is not None:
        options |= {"use_vllm": True, "vllm_server_host": server[0], "vllm_server_port": server[1]}
    if gpus and experiment.trainer_ranks > 1:
        options["deepspeed"] = _zero2(dtype)
    return GRPOConfig(
        output_dir=str(output),
        max_steps=training.steps,
        per_device_train_batch_size=training.micro_batch,
        gradient_accumulation_steps=experiment.accumulation,
        num_generations=training.completions_per_prompt,
        num_iterations=1,
        beta=training.beta,
        epsilon=training.epsilon,
        reward_weights=[reward.weight for reward in experiment.rewards],
        learning_rate=training.learning_rate,
        lr_scheduler_type=schedule,
        lr_scheduler_kwargs={"min_lr_rate": training.min_lr_rate} if schedule == "cosine_with_min_lr" else {},
        warmup_ratio=training.warmup_ratio,
        adam_beta2=training.adam_beta2,
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=training.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        seed=training.seed,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        # TRL's 50 would cut the distribution that the log-probabilities are taken of; the spec has no such cut.
        top_k=None,
        max_prompt_length=sampling.max_prompt_tokens,
        max_completion_length=sampling.max_new_tokens,
        use_cpu=not gpus,
        bf16=gpus and dtype == "bfloat16",
        fp16=gpus and dtype == "float16",
        dataloader_pin_memory=gpus,
        # The sampler starts at the step; the Trainer must not skip batches on top of that.
        ignore_data_skip=True,
        ddp_timeout=7200,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **options,
    )


def _zero2(dtype: str) -> dict[str, Any]:
    return {
        "zero_optimization": {"stage": 2, "overlap_comm": True, "contiguous_gradients": True},
        "bf16": {"enabled": dtype == "bfloat16"},
        "fp16": {"enabled": dtype == "float16"},
        "gradient_clipping": "auto",
        "gradient_accumulation_steps": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
    }


class Trainer(GRPOTrainer):
    """TRL's GRPO trainer between our sampler and our run directory.

    - Before each micro-batch every RNG is seeded from (run seed, step, micro-batch, rank): completions depend on
      nothing that came before, and a checkpoint needs no RNG state.
    - `_decode`, the first thing that TRL does with completions on every rank, is where ranks agree to stop and where
      lengths are taken; `_maybe_log_save_evaluate`, called after each step, is where it is recorded and saved.
    """

    def __init__(
        self,
        stage: StageFile,
        experiment: Experiment,
        problems: list[dict[str, str]],
        run: RunDirectory,
        rank: Rank,
        start: checkpoint.Found | None,
        server: tuple[str, int] | None,
        model: Any,
        tokenizer: Any,
    ) -> None:
        self._experiment, self._run, self._rank = experiment, run, rank
        self._start = self._recorded = start.step if start else 0
        self._completion_ids: list[list[int]] = []
        self._texts: list[str] = []
        self._completions: list[dict[str, Any]] = []
        self._scores: dict[str, list[float | None]] = {}
        system = [{"role": "system", "content": experiment.prompt.system}] if experiment.prompt.system else []
        super().__init__(
            model=model,
            reward_funcs=self._reward_functions(),
            args=config(experiment, run.checkpoints, server),
            train_dataset=[
                {"prompt": [*system, {"role": "user", "content": row["problem"]}], "answer": row["answer"]}
                for row in problems
            ],
            processing_class=tokenizer,
        )
        self.remove_callback(PrinterCallback)
        self._generate, self.model.generate = self.model.generate, self._generate_until_stop
        self._batch_decode, self.processing_class.batch_decode = tokenizer.batch_decode, self._decode
        if server is not None and self.accelerator.is_main_process:
            self._ask_server, self.vllm_client.generate = self.vllm_client.generate, self._ask_server_until_stop
        self.saving = Saving(
            experiment,
            run,
            rank,
            checkpoint.Identity(stage.run, identity(experiment), rank.world),
            self._start,
            snapshot=lambda directory: snapshot(self, directory),
            agree=self._agree,
            due=due(experiment.checkpoint, run),
        )
        """Checkpoints, on their way and on the disk."""
        self._since = time.monotonic()

    def _get_train_sampler(self) -> StepSampler:
        training = self._experiment.training
        return StepSampler(
            len(self.train_dataset),
            prompts_per_step=training.prompts_per_step,
            completions_per_prompt=training.completions_per_prompt,
            steps=training.steps,
            seed=training.seed,
            start=self._start,
        )

    # Sampling and scoring.

    def _generate_and_score_completions(self, inputs):
        micro_batch = self._step % self.args.gradient_accumulation_steps
        set_seed(derived_seed(self.args.seed, self.state.global_step, micro_batch, self._rank.rank))
        self._scores = {}
        verify.take_tally()  # what somebody else in this process had judged is not this step's
        result = super()._generate_and_score_completions(inputs)
        for name, share in verify.take_tally().items():
            shares = self.accelerator.gather(torch.tensor(share, device=self.accelerator.device))
            self._metrics["train"][name].append(shares.mean().item())
        self._keep_completions(inputs)
        return result

    def _generate_until_stop(self, *args: Any, **kwargs: Any) -> Any:
        # In training mode dropout would act on what is sampled, and gradient checkpointing would turn the KV cache off.
        self.model.eval()
        try:
            return self._generate(
                *args, stopping_criteria=StoppingCriteriaList([StopCriterion(self._rank.stop_requested)]), **kwargs
            )
        finally:
            self.model.train()

    def _ask_server_until_stop(self, prompts: list[str], n: int, **kwargs: Any) -> list[list[int]]:
        """The server's completions; after a request to stop, empty ones, which nobody will use."""
        outcome: list[Any] = []

        def ask() -> None:
            try:
                outcome.append(self._ask_server(prompts=prompts, n=n, **kwargs))
            except Exception as error:
                outcome.append(error)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        while thread.is_alive():
            if self._rank.stop_requested():
                return [[self.processing_class.eos_token_id]] * (len(prompts) * n)
            thread.join(POLL_SECONDS)
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def _decode(self, completion_ids: torch.Tensor, **kwargs: Any) -> list[str]:
        """Texts of the completions (rows × tokens, padded after the end token); takes their lengths on the way."""
        self._agree_to_stop()
        ends = completion_ids == self.processing_class.eos_token_id
        finished = ends.any(dim=1)
        lengths = torch.where(finished, ends.int().argmax(dim=1) + 1, completion_ids.shape[1])
        self._completion_ids = [row[:length].tolist() for row, length in zip(completion_ids, lengths, strict=True)]
        truncated = self.accelerator.gather((~finished).float()).mean().item()
        self._metrics["train"]["truncated"].append(truncated)
        return self._batch_decode(completion_ids, **kwargs)

    def _reward_functions(self) -> list[Any]:
        functions: list[Any] = []
        for spec in self._experiment.rewards:
            same = sum(function.__name__.split("#")[0] == spec.type for function in functions)
            functions.append(self._observed(rewards.build(spec), spec.type + (f"#{same + 1}" if same else "")))
        return functions

    def _observed(self, reward: rewards.RewardFunction, name: str) -> Any:
        def observed(completions: list[Any], **columns: Any) -> list[float | None]:
            self._scores[name] = reward(completions, completion_ids=self._completion_ids, **columns)
            self._texts = [completion[-1]["content"] for completion in completions]
            return self._scores[name]

        observed.__name__ = name
        return observed

    def _keep_completions(self, inputs: list[dict[str, Any]]) -> None:
        room = self._experiment.training.log_completions - len(self._completions)
        for index, row in enumerate(inputs[: max(0, room)]):
            self._completions.append(
                {
                    "prompt": row["prompt"][-1]["content"],
                    "answer": row["answer"],
                    "completion": self._texts[index],
                    "rewards": {name: scores[index] for name, scores in self._scores.items()},
                    "tokens": len(self._completion_ids[index]),
                }
            )

    # The end of a step.

    def _maybe_log_save_evaluate(self, tr_loss, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step == self._recorded:
            return  # the end of the epoch, in which nothing happened
        loss = self._nested_gather(tr_loss).mean().item()  # TRL's log rounds it to four digits
        super()._maybe_log_save_evaluate(tr_loss, *args, **kwargs)
        self._record(loss)
        self.saving.after_step(self.state.global_step)
        self._since = time.monotonic()
        if self.state.global_step < self._experiment.training.steps:
            self._agree_to_stop()

    def _record(self, loss: float) -> None:
        step, logs = self.state.global_step, self.state.log_history.pop()
        record = observe.step_record(
            logs,
            step=step,
            steps=self._experiment.training.steps,
            attempt=self._rank.attempt,
            time=time.time(),
            seconds=round(time.monotonic() - self._since, 3),
            loss=observe.finite(loss),
        )
        if self._rank.rank == 0:
            observe.write_step(self._run, record, self._completions, self._rank.check_lease)
        self._completions = []
        self._recorded = step

    def _agree_to_stop(self) -> None:
        """Raises StopRequested on all ranks if any of them is asked to stop."""
        if self._agree([self._rank.stop_requested()])[0]:
            raise StopRequested

    def _agree(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether any rank has raised it. All ranks together."""
        if self._rank.world == 1:
            return list(flags)
        tensor = torch.tensor([int(flag) for flag in flags], device=self.accelerator.device)
        torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MAX)
        return [bool(flag) for flag in tensor.tolist()]
