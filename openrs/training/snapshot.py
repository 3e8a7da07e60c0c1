"""What is saved of a trainer: copied into host memory in one go, written later. See `openrs.training.saving`."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from openrs.training.saver import Write


class Host:
    """Host memory that snapshots are copied into, kept from one to the next: memory that is new is slow.

    A snapshot lives until the next one; who writes it must be done by then. On a machine with GPUs the memory is pinned.
    """

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []
        self._used = 0
        self._copies: dict[Any, torch.Tensor] = {}

    def begin(self) -> None:
        """Gives all memory free for another snapshot."""
        self._used, self._copies = 0, {}

    def copy(self, value: Any) -> Any:
        """`value` with every tensor in it copied here; tensors that share their memory share the copy.

        Copies from a GPU are still under way when it returns: `settle` waits for them.
        """
        if isinstance(value, torch.Tensor):
            shared = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
            key = shared if value.numel() else id(value)
            if key not in self._copies:
                self._copies[key] = self._buffer(value).copy_(value.detach(), non_blocking=True)
            return self._copies[key]
        if isinstance(value, dict):
            return {key: self.copy(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [self.copy(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        return value

    def settle(self) -> None:
        """Returns when all copies from a GPU have arrived."""
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            torch.cuda.synchronize()

    def _buffer(self, value: torch.Tensor) -> torch.Tensor:
        """The memory that the same tensor had in the snapshot before, or new memory."""
        number, self._used = self._used, self._used + 1
        if number < len(self._buffers):
            kept = self._buffers[number]
            if (kept.shape, kept.stride(), kept.dtype) == (value.shape, value.stride(), value.dtype):
                return kept
        new = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda, requires_grad=False)
        self._buffers[number:] = [new]  # what came after it came in another order
        return new


class Collector:
    """Stands in for DeepSpeed's checkpoint engine while it saves: keeps copies of what it would have written.

    Nothing is to touch the disk meanwhile: an error that only one rank meets would leave the others in a barrier.
    """

    def __init__(self, engine: Any, host: Host) -> None:
        self._engine, self._host = engine, host
        self.files: list[tuple[Path, Any]] = []

    def save(self, state_dict: Any, path: str) -> None:
        """Keeps a copy of what belongs into the file `path`."""
        self.files.append((Path(path), self._host.copy(state_dict)))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Leaves it to who writes the files."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def snapshot(trainer: Any, directory: Path, host: Host) -> Write:
    """Copies model, optimizer, schedule and state of a transformers Trainer; what writes this rank's part into `directory`.

    All ranks together: with ZeRO each has a part of the optimizer's state.
    """
    host.begin()
    first = trainer.accelerator.is_main_process
    files: list[tuple[Path, Any]] = []
    texts = {}
    if trainer.is_deepspeed_enabled:
        engine = trainer.model_wrapped
        collector = Collector(engine.checkpoint_engine, host)
        engine.checkpoint_engine = collector
        engine._copy_recovery_script = lambda path: None  # a tool for people, which is in the package too
        try:
            engine.save_checkpoint(str(directory), save_latest=False)
        finally:
            engine.checkpoint_engine = collector._engine
            del engine._copy_recovery_script
        files += collector.files
        texts["latest"] = f"global_step{engine.global_steps}"  # load_checkpoint asks for it
    elif first:
        files.append((directory / "optimizer.pt", host.copy(trainer.optimizer.state_dict())))
    if first:  # the schedule is never DeepSpeed's own
        files.append((directory / "scheduler.pt", host.copy(trainer.lr_scheduler.state_dict())))
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = host.copy(model.state_dict()) if first else {}
    # One epoch of the Trainer is the whole run; it counts from where this attempt began.
    progress = {"epoch": trainer.state.global_step / trainer.state.max_steps}
    texts["trainer_state.json"] = json.dumps(asdict(trainer.state) | progress, indent=2, sort_keys=True) + "\n"
    host.settle()

    def write() -> list[Path]:
        for path, content in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, path)
        written = [path for path, _ in files]
        if first:
            model.save_pretrained(directory, state_dict=weights)
            trainer.processing_class.save_pretrained(directory)
            for name, text in texts.items():
                (directory / name).write_text(text)
            written += [path for path in directory.iterdir() if path.is_file()]
        return list(dict.fromkeys(written))

    return write
