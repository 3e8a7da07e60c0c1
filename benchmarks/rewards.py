"""Rewards of one training step: our pool beside serial math-verify, on the same 72 completions, with the same verdicts.

12 problems of 6 completions each, about 6,600 characters of reasoning before an answer that is right, wrong, or written
another way. In the second table some answers are hostile. Serial is what the public code does: gold answer and whole
completion parsed, then compared, one pair after the other; it runs in a process of its own, which is killed where one pair
holds it longer than a minute. CPU is the processor time of all processes that judge: the steadier figure on a machine
that others use too; two idle cores need half of it by the clock.

Needs published problem sets: a directory of JSON Lines files with `problem`, `answer` and `solution`.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

from benchmarks.common import Cost, alternate, machine, note, parser, ratio, show, spread, verdict
from openrs.rewards import verify
from openrs.rewards.verifier import pool as pools
from openrs.rewards.verifier.pool import Pair, Pool, Verdict
from tests.rewards.corpus import LONG, Case, data_directory, golds, mangled, near_miss, reasoning
from tests.rewards.verdicts import reason

AIM = 8.0
"""Times that the rewards of a step should be faster."""

PATIENCE = 60.0
"""Seconds after which a serial pair is given up and its process killed."""

PROBLEMS, GROUP = 12, 6
HOSTILE = {
    "a tower of powers": "5^{5^{5^{5^5}}}",
    "a large factorial": "(10^8)!",
    "a large binomial": "\\binom{10^8}{5 \\cdot 10^7}",
    "braces 9,000 deep": "{" * 9000 + "1" + "}" * 9000,
    "a sum of 2,000 roots": "+".join(f"\\sqrt{{{number}}}" for number in range(2, 2002)),
    "a power of a sum": "(x+y+z)^{300}",
}
"""Answers made to hurt who reads them."""

Step = list[tuple[str, str]]


def steps(directory: Path, count: int, hostile: bool, seed: int = 3584) -> list[Step]:
    """Gold answers and completions of some training steps."""
    rng = random.Random(seed)
    answers, thoughts = golds(directory), reasoning(directory)
    made: list[Step] = []
    for _ in range(count):
        step: Step = []
        for gold in rng.sample(answers, PROBLEMS):
            wrong = [near_miss(gold, rng) for _ in range(2)]
            for _ in range(GROUP):
                answer = rng.choice([gold, gold, mangled(gold, rng), *wrong])
                # Reasoning whose dollar signs do not match would make another completion for a parser of all of it.
                thought = rng.choice(thoughts)[:LONG].replace("final answer", "result").replace("$$", "$")
                thought += "$" * (thought.count("$") % 2)
                step.append((gold, f"{thought}\n</think>\n\nSo the answer is\n$$\\boxed{{{answer}}}$$"))
        if hostile:
            for place, answer in zip(
                rng.sample(range(len(step)), 4), rng.sample(list(HOSTILE.values()), 4), strict=True
            ):
                gold, text = step[place]
                step[place] = (gold, text.rpartition("$$\\boxed")[0] + f"$$\\boxed{{{answer}}}$$")
        made.append(step)
    return made


class Serial:
    """math-verify in one process, one pair after the other."""

    def __init__(self) -> None:
        self._context, self._before = get_context("spawn"), 0.0
        self._start()

    def _start(self) -> None:
        self._pipe, other = self._context.Pipe()
        self._process = self._context.Process(target=_serve, args=(other,), daemon=True)
        self._process.start()
        self._pipe.recv()  # imports are done

    def judge(self, step: Sequence[tuple[str, str]]) -> list[bool]:
        """The verdicts; False for a pair that was given up."""
        found: list[bool] = []
        for pair in step:
            self._pipe.send(pair)
            if self._pipe.poll(PATIENCE):
                found.append(self._pipe.recv())
            else:
                found.append(False)
                self.close()
                self._start()
        return found

    def cpu(self) -> float:
        """Seconds of processor time so far."""
        return self._before + used(self._process.pid)

    def close(self) -> None:
        """Kills the process."""
        self._before += used(self._process.pid)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection) -> None:
    from math_verify import parse, verify

    pipe.send(None)
    while True:
        gold, completion = pipe.recv()
        marked = "$" in gold or "\\boxed" in gold
        pipe.send(bool(verify(parse(gold if marked else f"${gold}$"), parse(completion))))


def used(pid: int | None) -> float:
    """Processor time of a process, in seconds; 0 for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def compare(title: str, made: list[Step], ours: Pool, theirs: Serial) -> tuple[float, list[str]]:
    """Times both on each step in turn; the ratio of the medians, and the verdicts that differ without a reason."""
    serial: list[bool] = []
    judged: list[Verdict] = []
    waiting = {"serial math-verify": iter(made), "openrs": iter(made)}

    def cpu() -> float:
        return theirs.cpu() + sum(map(used, ours.processes())) + time.process_time()

    def run(name: str) -> Cost:
        step = next(waiting[name])
        before, start = cpu(), time.perf_counter()
        if name == "openrs":
            judged.extend(verify.judge([gold for gold, _ in step], [text for _, text in step], run=ours.judge))
        else:
            serial.extend(theirs.judge(step))
        return Cost(time.perf_counter() - start, cpu() - before)

    times = alternate({name: lambda name=name: run(name) for name in waiting}, len(made))  # type: ignore[misc]
    columns = {
        name: ([one.wall for one in costs], [max(one.cpu, 1e-3) for one in costs]) for name, costs in times.items()
    }
    base = columns["serial math-verify"]
    rows = [
        (name, spread(wall, 1, 3), ratio(base[0], wall), spread(cpu_seconds, 1, 3), ratio(base[1], cpu_seconds))
        for name, (wall, cpu_seconds) in columns.items()
    ]
    header = ("", "wall", "times faster", "CPU", "times less")
    show(f"{title}: seconds a step of 72, median (min–max)", header, rows)
    pairs = [pair for step in made for pair in step]
    differing = [
        (f"serial {a}, ours {b.correct}: gold {gold!r}, completion …{text[-60:]!r}", reason(Case("", gold, text), b))
        for (gold, text), a, b in zip(pairs, serial, judged, strict=True)
        if a != bool(b.correct)
    ]
    for words, why in differing:
        print(f"{why or 'WITHOUT A REASON'}: {words}")
    right = sum(bool(one.correct) for one in judged)
    print(f"{len(judged)} verdicts, {right} of them right answers, {len(differing)} not the same", flush=True)
    unexplained = [words for words, why in differing if why is None]
    return median(base[0]) / median(columns["openrs"][0]), unexplained


def worst_pairs(ours: Pool, theirs: Serial) -> None:
    """Time and memory of single hostile pairs."""
    rows: list[tuple[str, str, str, str, str]] = []
    for name, answer in HOSTILE.items():
        text = f"$$\\boxed{{{answer}}}$$"
        ours.judge([Pair("math-verify", "$x$", "$x$")])
        peak, start = Peak(ours), time.perf_counter()
        found = ours.judge([Pair("math-verify", "$x$", text)])[0]
        seconds = time.perf_counter() - start
        memory = peak.stop()
        start = time.perf_counter()
        theirs.judge([("x", text)])
        serial = time.perf_counter() - start
        shown = f"> {PATIENCE:.0f}" if serial >= PATIENCE else f"{serial:.2f}"
        rows.append((name, f"{seconds:.2f}", f"{memory:.0f}", found.limit or "–", shown))
        note(f"{name}: {seconds:.2f} s, serial {shown} s")
    show("single pairs", ("", "openrs s", "MiB", "limit met", "serial s"), rows)


class Peak:
    """The most memory that the pool's workers have been seen to hold, in MiB."""

    def __init__(self, pool: Pool) -> None:
        import threading

        self._pool, self._most, self._done = pool, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            for pid in self._pool.processes():
                try:
                    status = Path(f"/proc/{pid}/status").read_text()
                except OSError:  # it has been killed
                    continue
                for line in status.splitlines():
                    if line.startswith("VmHWM:"):
                        self._most = max(self._most, int(line.split()[1]) / 1024)

    def stop(self) -> float:
        """Ends the watching."""
        self._done.set()
        self._thread.join()
        return self._most


def main() -> None:
    """Measures clean steps, steps with hostile answers, and single hostile pairs."""
    options = parser(__doc__, 10, "steps without hostile answers, and a third as many with them")
    options.add_argument(
        "--data", type=Path, default=data_directory(), metavar="DIR", help="problem sets ($OPENRS_SHARED/data)"
    )
    options.add_argument("--warm", type=int, default=20, metavar="N", help="steps that both do before (20)")
    args = options.parse_args()
    if args.data is None:
        sys.exit("name a directory of problem sets: --data DIR")
    theirs, ours = Serial(), Pool()
    # The parser of LaTeX learns its grammar by parsing, in every process anew; a training run has hundreds of steps.
    for step in steps(args.data, args.warm, hostile=False, seed=0):
        verify.judge([gold for gold, _ in step], [text for _, text in step], run=ours.judge)
        theirs.judge(step)
    print(f"{machine()}; {pools.default_size()} workers; limits {pools.SECONDS:g} s, {pools.MEMORY >> 20} MiB")
    try:
        clean, differing = compare("clean", steps(args.data, args.runs, hostile=False), ours, theirs)
        rough, rough_differing = compare(
            "4 hostile answers", steps(args.data, max(1, args.runs // 3), True), ours, theirs
        )
        worst_pairs(ours, theirs)
    finally:
        ours.close()
        theirs.close()
    print()
    same = not differing and not rough_differing
    verdict(f"a clean step at least {AIM:g} times faster", clean >= AIM, f"{clean:.1f}")
    verdict(f"a step with hostile answers at least {AIM:g} times faster", rough >= AIM, f"{rough:.1f}")
    verdict("the same verdicts, but for stated reasons", same, f"{len(differing)} and {len(rough_differing)} differ")


if __name__ == "__main__":
    main()
