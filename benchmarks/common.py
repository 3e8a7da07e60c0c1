"""What the benchmarks share: alternation, medians, ratios, tables, and the description of this machine."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from openrs.report.text import table

T = TypeVar("T")

CACHE = Path(tempfile.gettempdir()) / "openrs-benchmarks"


def parser(doc: str | None, runs: int, what: str = "rounds of A B A B …") -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--runs", type=int, default=runs, metavar="N", help=f"{what} ({runs})")
    made.add_argument(
        "--cache", type=Path, default=CACHE, metavar="DIR", help=f"kept between calls: byte code, TorchX ({CACHE})"
    )
    return made


def bytecode(cache: Path) -> Path:
    """Gives this process's children a place below `cache` for byte code, which is not in the packages' directories.

    Installers leave packages uncompiled, and some environments (PYTHONDONTWRITEBYTECODE) never store what they compile:
    then a start-up is mostly compiling. Returns the directory.
    """
    for name in [name for name in os.environ if name.startswith("PYTHON")]:
        del os.environ[name]
    directory = cache.absolute() / "bytecode"
    directory.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONPYCACHEPREFIX"] = str(directory)
    return directory


def alternate(contenders: Mapping[str, Callable[[], T]], runs: int) -> dict[str, list[T]]:
    """Calls A B A B …, so that what else the machine does meets all of them alike."""
    found: dict[str, list[T]] = {name: [] for name in contenders}
    for number in range(runs):
        for name, call in contenders.items():
            found[name].append(call())
        note(f"round {number + 1} of {runs}, load {os.getloadavg()[0]:.1f}")
    return found


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 2) -> str:
    """`median (min–max)`."""
    low, middle, high = (value * scale for value in (min(values), median(values), max(values)))
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Ratio of the medians, and in brackets the smallest and the largest ratio of one round."""
    rounds = [a / b for a, b in zip(ours, theirs, strict=True)]
    return f"{median(ours) / median(theirs):.2f} ({min(rounds):.2f}–{max(rounds):.2f})"


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    wall: float
    """Seconds from start to end."""
    cpu: float
    """Seconds of processor time, its children's too: it feels other load on the machine less."""


def cost(argv: Sequence[str], environment: Mapping[str, str], cwd: Path) -> Cost:
    """Runs a command that must end with 0 and print something."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(argv, env=dict(environment), cwd=cwd, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode or not done.stdout + done.stderr:
        sys.exit(f"{' '.join(argv)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints a table, its first column to the left and the others to the right."""
    print(f"\n{title}\n{table(header, rows, right=range(1, len(header)))}", flush=True)


def verdict(what: str, holds: bool, detail: str) -> None:
    """Prints whether an aim is met."""
    print(f"{'met' if holds else 'MISSED'}: {what}: {detail}", flush=True)


def note(text: str) -> None:
    """A line of progress, on standard error."""
    print(f"  {text}", file=sys.stderr, flush=True)


def wait(condition: Callable[[], T | None], what: str, timeout: float, period: float = 0.1) -> T:
    """Asks until there is an answer that is true, and gives it back."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} after {timeout:g} s")
        time.sleep(period)
    return found


def machine() -> str:
    """One line on where the figures come from."""
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    return f"{cores} cores, load {load:.1f}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d %H:%M')}"


def run_openrs(*arguments: str, home: Path) -> str:
    """Standard output of an `openrs` command typed in `home`, where also its runs live. It must succeed."""
    argv = [sys.executable, "-m", "openrs", *arguments]
    environment = {**os.environ, "OPENRS_RUNS": str(home / "runs")}
    done = subprocess.run(argv, cwd=home, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openrs {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout


def sets(overrides: Mapping[str, Any]) -> list[str]:
    """`--set` options."""
    return [word for key, value in overrides.items() for word in ("--set", f"{key}={value}")]
