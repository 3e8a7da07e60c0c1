"""The seam to transformers: its Trainer, whose training step is a whole GRPO step between our sampler and our files."""

# transformers and accelerate are untyped here; everything typed stands in the other files.
# mypy: disable-error-code="misc, no-untyped-call, no-untyped-def, attr-defined, assignment, arg-type"

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, TrainingArguments, set_seed
from transformers import Trainer as TransformersTrainer

from openrs.data.load import fingerprint, model_path
from openrs.errors import OpenRSError
from openrs.runs.directory import RunDirectory
from openrs.spec.change import identity
from openrs.spec.experiment import Experiment
from openrs.stage import StageFile
from openrs.training import checkpoint, observe, phases
from openrs.training.checks import check_start
from openrs.training.clock import Clock
from openrs.training.config import arguments, spare_compiler, training_dtype
from openrs.training.generation import Generator
from openrs.training.generation.local import LocalGenerator
from openrs.training.journal import Journal
from openrs.training.learner import Learned, Learner
from openrs.training.model import derived_seed, end_tokens, load_config, load_model, load_tokenizer
from openrs.training.replay import Replay
from openrs.training.rollout import Roller, Rollout
from openrs.training.sampler import StepSampler
from openrs.training.saving import Saving
from openrs.training.stop import StopRequested
from openrs.training.together import any_rank, every_rank
from openrs.training.tracking import Tracker
from openrs.training.watchdog import Watchdog
from openrs.worker.rank import Rank


def train(
    stage: StageFile,
    experiment: Experiment,
    problems: list[dict[str, str]],
    run: RunDirectory,
    rank: Rank,
    start: checkpoint.Found | None,
    server: str | None,
) -> None:
    """Trains from `start` to the last step. Raises BadInput, and StopRequested once the last finished step is saved."""
    if experiment.generation.type == "vllm" and server is None:
        from openrs.training.generation import engine

        engine.prepare()
    name, revision = model_path(experiment.model)
    tokenizer = load_tokenizer(name, revision)
    for warning in check_start(experiment, problems, load_config(name, revision), tokenizer):
        if rank.rank == 0:
            print(f"openrs: warning: {warning}", file=sys.stderr)
    # The base model also on resuming: the KL term's reference is a copy of it. The Trainer then loads the weights.
    model = load_model(name, revision, training_dtype(experiment), experiment.model.attention)
    if rank.world > 1 and not experiment.resources.gpus:
        spare_compiler()
    args = arguments(experiment, run.checkpoints)
    # The process group is up: from here on the ranks agree. An engine of vLLM's takes minutes to build.
    if any_rank(rank, rank.stop_requested()):
        raise StopRequested
    generator = make_generator(experiment, model, tokenizer, rank, server)
    ours = checkpoint.Identity(stage.run, identity(experiment), rank.world)
    steps = observe.Steps(run, rank.check_lease)
    saving = Saving(experiment, run, rank, ours, start.step if start else 0, steps.flush)
    replay = Replay(Journal(run.journal, ours, fingerprint(problems), rank), run)
    tracker = None
    if experiment.tracking is not None and rank.rank == 0:
        tracker = Tracker(experiment.tracking, experiment, stage.run, run.path)
    trainer = Trainer(experiment, problems, rank, generator, steps, saving, replay, tracker, args, model, tokenizer)
    trainer.watchdog.start()
    try:
        trainer.train(resume_from_checkpoint=str(start.path) if start else None)
    except StopRequested:
        saving.finish(trainer)
        raise
    else:
        saving.finish(trainer)
    finally:
        trainer.watchdog.stop()
        if tracker is not None:
            tracker.close()


def make_generator(experiment: Experiment, model: Any, tokenizer: Any, rank: Rank, server: str | None) -> Generator:
    """The back end that the spec names; `server` is the address of the generation server, where it names one."""
    ends = end_tokens(model, tokenizer)
    if experiment.generation.type == "transformers":
        return LocalGenerator(experiment.sampling, experiment.generation.batch_tokens, ends, tokenizer.pad_token_id)
    if server is not None:
        from openrs.training.generation.remote import RemoteGenerator

        return RemoteGenerator(server, rank, ends)
    from openrs.training.generation import colocate, engine

    name, revision = model_path(experiment.model)
    sequences = experiment.sequences_per_engine
    built = engine.build(
        name, revision, experiment.model.dtype, experiment.window, sequences, colocate.executor_class()
    )
    return colocate.ColocateGenerator(engine.Engine(built, experiment.sampling), ends)


def most_memory(device: torch.device) -> float:
    """GiB: the most of this rank's GPU since the last call; without one, the most main memory of this process so far."""
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return round(most / 2**30, 2)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


class Trainer(TransformersTrainer):
    """Optimizer, schedule, ZeRO and loading of checkpoints are transformers' own; the step is ours.

    `training_step` draws and judges all completions of an optimizer step at once (`rollout`), then learns from them in
    as many micro-batches as memory asks for. Completions come from seeds of their own, and every other RNG is seeded
    at the start of a step: it depends on nothing that came before, and a checkpoint needs no RNG state.
    """

    def __init__(
        self,
        experiment: Experiment,
        problems: list[dict[str, str]],
        rank: Rank,
        generator: Generator,
        steps: observe.Steps,
        saving: Saving,
        replay: Replay,
        tracker: Tracker | None,
        args: TrainingArguments,
        model: Any,
        tokenizer: Any,
    ) -> None:
        self._experiment, self._rank = experiment, rank
        self._steps, self._saving, self._replay, self._tracker = steps, saving, replay, tracker
        self._start = self._recorded = saving.saved
        self._clock = Clock()
        recovery = experiment.recovery
        self.watchdog = Watchdog(recovery.stall_factor, 60 * recovery.stall_minutes)
        self._roller = Roller(experiment, problems, tokenizer, generator, rank, self._clock)
        self._rollout: Rollout | None = None
        self._learned: Learned | None = None
        self._dropped = 0  # steps in a row that changed nothing
        if experiment.training.gradient_checkpointing:
            model.config.use_cache = False
        super().__init__(
            model=model,
            args=args,
            data_collator=list,
            train_dataset=range(len(problems)),
            processing_class=tokenizer,
        )
        if rank.world > 1 and not self.is_deepspeed_enabled:
            raise RuntimeError("accelerate has not taken up DeepSpeed: the ranks would learn each for itself")
        self.remove_callback(PrinterCallback)
        self.remove_callback(ProgressCallback)
        self._learner = Learner(experiment, self.model, rank)

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

    # A step.

    def training_step(self, model: Any, inputs: list[int], num_items_in_batch: Any = None) -> torch.Tensor:
        """One whole step up to the optimizer's. `inputs` are the problems' indices, each once for every completion."""
        set_seed(derived_seed(self.args.seed, self.state.global_step, self._rank.rank))
        rows = inputs[:: self._experiment.training.completions_per_prompt]
        rollout = self.rollout(self.state.global_step, rows)
        self._agree_to_stop(rollout is None)
        assert rollout is not None
        phases.begin(phases.STEP)
        model.train()
        with self._clock.phase("learning"):
            learned = self._learner.learn(self.model, rollout, self.accelerator.autocast, self._backward)
            self._finish(learned.finite)
        self._rollout, self._learned = rollout, learned
        return learned.loss

    def rollout(self, step: int, rows: list[int]) -> Rollout | None:
        """This rank's completions of a step and their scores; None where it left for a request to stop.

        What an attempt before has drawn for this step is taken from the journal instead.
        """
        with self._clock.phase("journal"):
            rollout = self._replay.take(step + 1, rows)
        if rollout is None:
            with phases.phase(phases.GENERATION):
                rollout = self._roller.roll(self.model, step, rows)
            if rollout is not None:
                with self._clock.phase("journal"):
                    self._replay.keep(step + 1, rollout)
        return rollout

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted: transformers would look for input ids in a batch of row numbers."""
        return 0

    def _backward(self, loss: torch.Tensor, last: bool) -> None:
        self._agree_to_stop(False)  # as often on every rank
        if self.is_deepspeed_enabled:
            self.model_wrapped.set_gradient_accumulation_boundary(last)
            self.model_wrapped.backward(loss, scale_wrt_gas=False)
        else:
            self.accelerator.backward(loss)

    def _finish(self, finite: bool) -> None:
        """Leaves the gradients to the optimizer, or drops them where loss or gradient is not finite on some rank.

        Under ZeRO the optimizer's step is taken here; transformers' own call of it then does nothing.
        """
        scaled = self.args.fp16  # overflow belongs to the search for a loss scale: its owner handles it
        if self.is_deepspeed_enabled:
            engine = self.model_wrapped
            norm = float(engine.optimizer.scaled_global_norm())  # -1 where it is not finite
            dropped = not scaled and not (finite and 0 <= norm < float("inf"))
            engine.optimizer.overflow = dropped  # its own way of leaving a step out
            engine.step()
            engine.optimizer.overflow = False
            if dropped and engine.lr_scheduler is not None:
                engine.lr_scheduler.step()
        else:
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            norm = float(torch.stack(torch._foreach_norm(gradients)).norm())
            dropped = not scaled and not (finite and norm < float("inf"))
            if dropped:
                self.model.zero_grad()
        self._dropped = self._dropped + 1 if dropped else 0

    # The end of a step.

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step == self._recorded:
            return  # the end of the epoch, in which nothing happened
        with self._clock.phase("saving"):
            self._saving.look()  # first: what a failed save leaves takes the room of what is recorded
        loss = self._nested_gather(tr_loss).mean().item()
        tr_loss.zero_()  # not `-=`: inf - inf is no number, in this step and in all after it
        self._record(loss, float(grad_norm))
        phases.end(phases.STEP)
        if self._dropped >= self._experiment.training.max_dropped_steps:
            raise OpenRSError(
                f"the loss or the gradient of {self._dropped} steps in a row, up to step {self.state.global_step}, was not finite; "
                f"lower training.learning_rate or use another model.dtype (training.max_dropped_steps)"
            )
        with self._clock.phase("saving"):
            self._saving.after_step(self)
        self.watchdog.beat()
        if self.state.global_step < self._experiment.training.steps:
            self._agree_to_stop(False)

    def _record(self, loss: float, grad_norm: float) -> None:
        assert self._rollout is not None and self._learned is not None
        step = self.state.global_step
        seconds, phases = self._clock.take()
        stats = every_rank(self._rank, observe.rank_stats(self._rollout, self._learned, self._experiment))
        if self._rank.rank == 0:
            record = observe.step_record(
                stats,
                step=step,
                steps=self._experiment.training.steps,
                saved=self._saving.written,
                attempt=self._rank.attempt,
                time=time.time(),
                seconds=seconds,
                phases=phases,
                loss=loss,
                grad_norm=None if self._dropped else grad_norm,
                dropped=self._dropped > 0,
                learning_rate=self._get_learning_rate(),
                memory_gib=most_memory(self.accelerator.device),
            )
            limit = self._experiment.training.log_completions
            shown = observe.readable_completions(self._rollout, self._roller, limit)
            self._steps.write(record, shown)
            if self._tracker is not None:
                self._tracker.log(record)
        self._recorded = step

    def _agree_to_stop(self, left: bool) -> None:
        """Raises StopRequested on all ranks if any of them is asked to stop, or has `left` for it."""
        if any_rank(self._rank, left or self._rank.stop_requested()):
            raise StopRequested
