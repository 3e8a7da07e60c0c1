"""Start-up of the command line: `openrs` beside TorchX, the nearest tool that shows what it would send.

Both render offline: PATH is empty, so TorchX does not ask `sinfo` for the partition's memory. Both have their byte code
compiled and read by one round that is not counted. TorchX lives in an environment of its own, without torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.common import Cost, alternate, bytecode, cost, machine, note, parser, ratio, show, spread, verdict

TORCHX = "0.7.0"
AIM = 0.35
"""Most that `openrs render` may take of a TorchX dry run."""

DRY_RUN = "torchx run --dryrun -s slurm"
PAIRS = [
    ("openrs --help", "torchx --help"),
    ("openrs list", "torchx --help"),
    ("openrs render exp3", DRY_RUN),
    ("openrs render exp3", "import typer"),
]


def torchx(cache: Path) -> Path:
    """The `torchx` command in an environment below `cache`, which is made if it is not there."""
    home = cache / f"torchx-{TORCHX}"
    if not (home / "done").exists():
        note(f"installing torchx {TORCHX} below {home}")
        shutil.rmtree(home, ignore_errors=True)
        python = str(home / "bin" / "python")
        if uv := shutil.which("uv"):
            commands = [[uv, "venv", "-q", "--python", sys.executable, str(home)]]
            commands += [[uv, "pip", "install", "-q", "--python", python, f"torchx=={TORCHX}"]]
        else:
            commands = [[sys.executable, "-m", "venv", str(home)]]
            commands += [[python, "-m", "pip", "install", "-q", f"torchx=={TORCHX}"]]
        for command in commands:
            subprocess.run(command, cwd=cache, check=True)
        (home / "done").touch()
    return home / "bin" / "torchx"


def main() -> None:
    """Runs the commands in turn and prints their times and ratios."""
    args = parser(__doc__, 15).parse_args()
    bytecode(args.cache)
    other, ours = str(torchx(args.cache.absolute())), [sys.executable, "-m", "openrs"]
    with tempfile.TemporaryDirectory() as empty:
        environment = {**os.environ, "PATH": empty}
        job = ["dist.ddp", "-j", "1x4", "--gpu", "4", "--cpu", "16", "--memMB", "196608", "--script", "train.py"]
        commands: dict[str, list[str]] = {
            "openrs --help": [*ours, "--help"],
            "torchx --help": [other, "--help"],
            "openrs list": [*ours, "list"],
            "openrs render exp3": [*ours, "render", "exp3", "--cluster", "slurm"],
            DRY_RUN: [other, "run", "--dryrun", "-s", "slurm", "-cfg", "partition=gpu", *job],
            "import typer": [sys.executable, "-c", "import typer; print()"],
            "python -c pass": [sys.executable, "-c", "print()"],
        }
        calls: dict[str, Callable[[], Cost]] = {
            name: partial(cost, argv, environment, Path(empty)) for name, argv in commands.items()
        }
        for call in calls.values():
            call()
        found = alternate(calls, args.runs)
    wall = {name: [one.wall for one in costs] for name, costs in found.items()}
    cpu = {name: [one.cpu for one in costs] for name, costs in found.items()}
    print(f"{machine()}; {args.runs} rounds; openrs and typer in one environment, torchx {TORCHX} in its own")
    rows = [(name, spread(wall[name], 1000, 0), spread(cpu[name], 1000, 0)) for name in commands]
    show("milliseconds, median (min–max)", ("command", "wall", "CPU"), rows)
    rows = [(f"{a} / {b}", ratio(wall[a], wall[b]), ratio(cpu[a], cpu[b])) for a, b in PAIRS]
    show("ratio of medians (min–max of a round)", ("ours / theirs", "wall", "CPU"), rows)
    print()
    for word, times in (("wall", wall), ("CPU", cpu)):
        share = median(times["openrs render exp3"]) / median(times[DRY_RUN])
        verdict(f"render at most {AIM} of a TorchX dry run, {word}", share <= AIM, f"{share:.2f}")


if __name__ == "__main__":
    main()
