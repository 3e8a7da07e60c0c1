"""What surviving costs: how long a save holds training up, what journal and copies add to a run, how soon a run goes on.

Standstill: the copy into memory that training waits for, beside the same checkpoint written, made durable and named while
it waits; a model of the chosen size with an AdamW state, on a CPU. Overhead: training of the smoke experiment's tiny model in
this process with journal and a checkpoint every 10 steps, beside the same without either, in turn. Restart: a run that was
killed, by the ledger's and the metrics' clocks.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, TrainerState

from benchmarks.common import alternate, bytecode, machine, note, parser, ratio, show, spread, verdict
from openrs.drill.instants import Kill
from openrs.drill.run import Drill
from openrs.models import TINY_SUMS
from openrs.runs.directory import RunDirectory
from openrs.runs.files import read_lines
from openrs.spec.load import load_cluster
from openrs.training import checkpoint
from openrs.training.entry import main as train
from openrs.training.model import load_tokenizer
from openrs.training.replay import Replay
from openrs.training.snapshot import Host, snapshot
from tests.training.harness import make_job, tiny

OURS = checkpoint.Identity("benchmark", "sha256:0", 1)


def trainer_of(millions: float) -> Any:
    """What `snapshot` looks at of a trainer: a Qwen2 of about so many million parameters after one step of AdamW."""
    width = 512
    layers = max(1, round(millions * 1e6 / (12 * width * width)))
    config = Qwen2Config(
        vocab_size=1000, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=8
    )
    model = Qwen2ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return SimpleNamespace(
        accelerator=SimpleNamespace(is_main_process=True, unwrap_model=lambda wrapped: wrapped),
        is_deepspeed_enabled=False,
        model=model,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LinearLR(optimizer),
        processing_class=load_tokenizer(str(TINY_SUMS)),
        state=TrainerState(max_steps=1),
    )


def standstill(runs: int, millions: float, where: Path) -> None:
    """Seconds that training stands still, and that a whole save takes."""
    trainer, host = trainer_of(millions), Host()
    size = 0

    def save(*, blocking: bool) -> float:
        nonlocal size
        directory = checkpoint.temporary(where, 1)
        began = time.perf_counter()
        write = snapshot(trainer, directory, host)
        copied = time.perf_counter() - began
        directory.mkdir(parents=True)
        entries = checkpoint.seal(directory, write())
        checkpoint.write_manifest(directory, 1, entries, OURS)
        checkpoint.place(directory, 1)
        size = sum(entry.size for entry in entries.values())
        return time.perf_counter() - began if blocking else copied

    save(blocking=True)  # memory that is touched for the first time is slow
    found = alternate({"copy": lambda: save(blocking=False), "whole": lambda: save(blocking=True)}, runs)
    began = time.perf_counter()
    checkpoint.verify(where / "step-000001")
    checked = time.perf_counter() - began
    show(
        f"seconds that training stands still in a save of {size / 1e6:.0f} MB, median (min–max)",
        ("", "seconds", "of a blocking save"),
        [
            ("openrs: copy into memory", spread(found["copy"], 1, 3), ratio(found["copy"], found["whole"])),
            ("blocking: copied, written, fsynced, named", spread(found["whole"], 1, 3), ""),
            ("checksums compared, when a run goes on", f"{checked:.3f}", ""),
        ],
    )
    share = median(found["copy"]) / median(found["whole"])
    verdict("at most a tenth of a blocking save", share <= 0.1, f"{share:.3f}")


def overhead(runs: int, steps: int, home: Path) -> None:
    """Seconds of a training run with and without what makes it survive."""
    keep, take = Replay.keep, Replay.take
    number = 0

    def run(*, survives: bool) -> float:
        nonlocal number
        number += 1
        every = 10 if survives else 10**6
        job = make_job(
            home / f"run-{number}",
            tiny(
                f"training.steps={steps}",
                "training.prompts_per_step=12",
                "training.micro_batch=72",
                "data.count=1000",
                f"checkpoint.every_steps={every}",
            ),
        )
        os.environ.update(job.environment())
        Replay.keep, Replay.take = (keep, take) if survives else (lambda *_: None, lambda *_: None)  # type: ignore[method-assign, assignment]
        with contextlib.redirect_stdout(io.StringIO()):  # its metrics
            code = train([str(job.stage_path)])
        if code:
            raise RuntimeError(f"training ended with code {code}")
        lines = list(read_lines(job.run.metrics))
        shutil.rmtree(job.run.path)
        # From the end of the second step, when what is slow once is over, to the end of the last one.
        return float(lines[-1]["time"] - lines[1]["time"])

    calls: dict[str, Callable[[], float]] = {"with": lambda: run(survives=True), "without": lambda: run(survives=False)}
    found = alternate(calls, runs)
    show(
        f"seconds of {steps - 2} steps, median (min–max)",
        ("", "seconds", "ratio"),
        [
            ("journal, and a checkpoint every 10 steps", spread(found["with"]), ratio(found["with"], found["without"])),
            ("neither", spread(found["without"]), ""),
        ],
    )
    more = median(a / b for a, b in zip(found["with"], found["without"], strict=True)) - 1
    verdict("at most 2 % more", more <= 0.02, f"{100 * more:+.1f} % (median of the rounds)")


def restart(runs: int, home: Path) -> None:
    """Seconds from the start of the supervisor to the first new step, by what happens in them."""
    kill = Kill(phase="step", occurrence=2, share=0.5, by_operation=False, power_cut=False, supervisor=False)
    drill = Drill(load_cluster("local"), home / "runs", say=note)
    parts: dict[str, list[float]] = {"lease, data, checkpoint": [], "imports, model, optimizer": [], "first step": []}
    outcome = drill.run([kill] * runs)
    for trial in outcome.trials:
        run = RunDirectory(home / "runs" / trial.run)
        events = run.ledger()
        for start in (event for event in events if event["event"] == "start" and event["attempt"] > 1):
            attempt = start["attempt"]
            begun = next((e for e in events if e["event"] == "training" and e["attempt"] == attempt), None)
            first = next((line for line in read_lines(run.metrics) if line["attempt"] == attempt), None)
            if begun is None or first is None:
                continue
            ready = first["time"] - first["phases"].get("learning", 0) - first["phases"].get("journal", 0)
            parts["lease, data, checkpoint"].append(begun["time"] - start["time"])
            parts["imports, model, optimizer"].append(ready - begun["time"])
            parts["first step"].append(first["time"] - ready)
    rows = [(name, spread(seconds)) for name, seconds in parts.items() if seconds]
    show("seconds from a restart to the first new step, median (min–max)", ("", "seconds"), rows)


def main() -> None:
    """Measures and prints."""
    made = parser(__doc__, 5)
    made.add_argument("--millions", type=float, default=30.0, help="parameters of the model that is saved (30)")
    made.add_argument("--steps", type=int, default=42, help="steps of a run (42)")
    made.add_argument("--parts", default="standstill,overhead,restart", help="which to measure")
    args = made.parse_args()
    torch.set_num_threads(1)
    bytecode(args.cache)
    print(f"{machine()}; {args.runs} rounds")
    with tempfile.TemporaryDirectory() as home:
        if "standstill" in args.parts:
            standstill(args.runs, args.millions, Path(home) / "checkpoints")
        if "overhead" in args.parts:
            overhead(args.runs, args.steps, Path(home))
        if "restart" in args.parts:
            restart(args.runs, Path(home))


if __name__ == "__main__":
    main()
