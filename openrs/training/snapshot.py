"""What is saved of a trainer: copied into host memory in one go, written later. See `openrs.training.saving`."""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from openrs.training.saver import Write


def to_host(value: Any, copies: dict[Any, torch.Tensor] | None = None) -> Any:
    """`value` with every tensor in it copied to host memory; tensors that share their memory share the copy.

    Copies from a GPU are still under way when it returns: `settle` waits for them.
    """
    copies = {} if copies is None else copies
    if isinstance(value, torch.Tensor):
        key = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else id(value)
        if key not in copies:
            copy = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda, requires_grad=False)
            copies[key] = copy.copy_(value.detach(), non_blocking=True)
        return copies[key]
    if isinstance(value, dict):
        return {key: to_host(item, copies) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [to_host(item, copies) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def settle() -> None:
    """Returns when all copies from a GPU have arrived."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Collector:
    """Stands in for DeepSpeed's checkpoint engine while it saves: keeps copies of what it would have written."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.files: list[tuple[Path, Any]] = []

    def save(self, state_dict: Any, path: str) -> None:
        """Keeps a copy of what belongs into the file `path`."""
        self.files.append((Path(path), to_host(state_dict)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def snapshot(trainer: Any, directory: Path) -> Write:
    """Copies model, optimizer, schedule and state of a transformers Trainer; what writes this rank's part into `directory`.

    All ranks together: with ZeRO each has a part of the optimizer's state.
    """
    first = trainer.accelerator.is_main_process
    files: list[tuple[Path, Any]] = []
    if trainer.is_deepspeed_enabled:
        engine = trainer.model_wrapped
        collector = Collector(engine.checkpoint_engine)
        engine.checkpoint_engine = collector
        try:
            engine.save_checkpoint(str(directory))
        finally:
            engine.checkpoint_engine = collector._engine
        files += collector.files
    elif first:
        files.append((directory / "optimizer.pt", to_host(trainer.optimizer.state_dict())))
    if first and not trainer.is_deepspeed_enabled:
        files.append((directory / "scheduler.pt", to_host(trainer.lr_scheduler.state_dict())))
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = to_host(model.state_dict()) if first else {}
    state = json.dumps(asdict(trainer.state), indent=2, sort_keys=True) + "\n" if first else ""
    settle()

    def write() -> list[Path]:
        for path, content in files:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, path)
        written = [path for path, _ in files]
        if first:
            model.save_pretrained(directory, state_dict=weights)
            trainer.processing_class.save_pretrained(directory)
            (directory / "trainer_state.json").write_text(state)
            written += [path for path in directory.iterdir() if path.is_file()]
        return list(dict.fromkeys(written))

    return write
