"""The report of 20 checkpoints × 6 benchmarks × 30 seeds: the whole command, from 3,600 cell files to the page.

The run directory is made up, with outcomes by problem, 500 training steps and a ledger; what is measured is real.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.common import alternate, bytecode, cost, machine, note, parser, show, spread, verdict
from openrs.spec.canonical import pretty
from openrs.spec.load import load_experiment

AIM = 5.0
BENCHMARKS = {"aime24": 30, "aime25": 30, "amc23": 40, "math-500": 500, "minerva": 272, "olympiadbench": 675}


def make_run(run: Path, checkpoints: int, seeds: int, start: float = 1.76e9) -> int:
    """A run directory as a finished run leaves it; returns the number of its cells."""
    rng = np.random.default_rng(0)
    steps: list[int | None] = [None, *(25 * number for number in range(1, checkpoints))]
    count = 0
    for benchmark, problems in BENCHMARKS.items():
        true = rng.beta(0.5, 0.5, problems)
        for step in steps:
            checkpoint = "rev-0123456789ab" if step is None else f"step-{step:06d}"
            folder = run / "eval" / checkpoint / benchmark
            folder.mkdir(parents=True)
            for seed in range(seeds):
                outcomes = (rng.random(problems) < true).astype(int).tolist()
                right = sum(outcomes)
                content = {
                    "schema_version": 1,
                    "state": "done",
                    "checkpoint": checkpoint,
                    "step": step,
                    "benchmark": benchmark,
                    "seed": seed,
                    "settings": "0123456789ab",
                    "score": right / problems,
                    "correct": right,
                    "n": problems,
                    "outcomes": outcomes,
                    "seconds": 600.0,
                    "completion_tokens": 9000.0,
                    "truncated": 0.1,
                    "samples": [
                        {"problem": "1+1=?", "gold": "2", "completion": "x" * 8000, "correct": bool(outcomes[0])}
                    ],
                    "data": {"sha256": f"sha256:{benchmark}", "problems": problems},
                    "hardware": "NVIDIA A40",
                }
                (folder / f"{seed}-0123456789ab.json").write_text(json.dumps(content) + "\n")
                count += 1
    with open(run / "metrics.jsonl", "w") as file:
        for step in range(1, 501):
            line = {
                "step": step,
                "reward": 1 + step / 1000 + rng.normal(0, 0.1),
                "completion_tokens": 2000 - step,
                "kl": step / 1e4,
            }
            line |= {"entropy": 0.5, "accuracy": 0.4, "seconds": 240.0, "attempt": 1, "time": start + 240 * step}
            file.write(json.dumps(line) + "\n")
    (run / "ledger").mkdir()
    with open(run / "ledger" / "train-attempt-1-aaaa.jsonl", "w") as file:
        event = {
            "event": "start",
            "stage": "train",
            "task": None,
            "submission": 1,
            "attempt": 1,
            "gpus": 4,
            "gpu_type": "a40",
        }
        file.write(json.dumps({"time": start, **event}) + "\n")
        file.write(json.dumps({"time": start + 120_000, **event, "event": "end", "code": 0, "reason": "done"}) + "\n")
    (run / "spec.json").write_text(pretty(load_experiment("exp3", [])))
    return count


def main() -> None:
    """Makes the run, reports it, prints."""
    options = parser(__doc__, 7, "reports")
    args = options.parse_args()
    bytecode(args.cache)
    with tempfile.TemporaryDirectory() as home:
        run = Path(home) / "runs" / "big"
        count = make_run(run, 20, 30)
        note(f"{count} cells made")
        argv = [sys.executable, "-m", "openrs", "report", "big", "--out", "page.html"]
        subprocess.run(argv, cwd=home, check=True, capture_output=True)  # compiles what has never been imported
        found = alternate({"report": lambda: cost(argv, os.environ, Path(home))}, args.runs)["report"]
        size = (Path(home) / "page.html").stat().st_size
    wall, cpu = [one.wall for one in found], [one.cpu for one in found]
    print(f"{machine()}; {count} cells, {args.runs} rounds")
    show("openrs report, seconds", ("", "wall", "CPU"), [("command", spread(wall), spread(cpu))])
    print(f"page: {size / 1e6:.1f} MB")
    verdict(f"report of {count} cells in {AIM:g} s", median(wall) <= AIM, f"{spread(wall)} s")


if __name__ == "__main__":
    main()
