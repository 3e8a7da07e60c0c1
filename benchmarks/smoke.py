"""What the smoke experiment teaches on this machine: three seeds of training, beside two controls.

The controls are the same experiment with a reward that knows nothing of the answer: a coin (an algorithm that gains under
it gains by its own bias), and the form alone (what of the gain is form). Each is a YAML file that extends `smoke`. The
mean reward of the first and the last five steps tells whether a reward was learned, whatever became of accuracy.
All runs go through engine `local`, one after the other. Accuracy is that of the 1,000 held-out problems; the base
model's cell is the same in every run, bit for bit, so it is shown once.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.common import bytecode, machine, note, parser, run_openrs, sets, show, verdict
from openrs.evaluation.interval import wilson

EXPECTED = 40.0
"""Points of held-out accuracy that every seed should gain."""

CONTROLS = {
    "random reward": "rewards:\n  - {type: random}\n",
    "format reward": "rewards:\n  - {type: format, answer: boxed}\n",
}
RANKS = {"training": "openrs.training", "evaluation": "openrs.evaluation"}


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    name: str
    seed: int
    before: dict[str, Any]
    """Result of the base model's cell."""
    after: dict[str, Any]
    """Result of the last checkpoint's cell."""
    steps_per_second: float
    """Between the first step and the last, saves included."""
    wall: float
    """Seconds from submit to the end of the last evaluation."""
    peak: dict[str, float]
    """MiB, most that one process of each kind had in memory."""
    rewards: tuple[float, float]
    """Mean reward of the first five steps and of the last five."""

    @property
    def gain(self) -> float:
        """Points of accuracy."""
        return 100.0 * (float(self.after["score"]) - float(self.before["score"]))


def peaks(run_dir: Path, found: dict[str, float]) -> None:
    """Raises `found` to the high-water marks (VmHWM) of the run's ranks that live now."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            kind = next((kind for kind, module in RANKS.items() if module in words), None)
            if kind is None or not any(word.startswith(f"{run_dir}/") for word in words):
                continue
            status = (process / "status").read_text()
        except OSError:  # it has ended
            continue
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                found[kind] = max(found.get(kind, 0.0), int(line.split()[1]) / 1024)


def train(home: Path, name: str, experiment: str, seed: int) -> Outcome:
    """One run from submit to its end."""
    run = f"{name.replace(' ', '-')}-{seed}"
    start = time.monotonic()
    options = sets({"training.seed": seed})
    run_openrs("submit", experiment, "--cluster", "local", "--run", run, *options, home=home)
    directory, peak = home / "runs" / run, dict[str, float]()
    ended = False
    while not ended:
        for _ in range(20):
            peaks(directory, peak)
            time.sleep(0.1)
        state = json.loads(run_openrs("status", run, "--json", home=home))["runs"][0]["state"]
        ended = state not in ("PENDING", "RUNNING")
    wall = time.monotonic() - start
    if state != "SUCCEEDED":
        logs = "\n".join(path.read_text() for path in sorted((directory / "logs").rglob("*.log")))
        sys.exit(f"{run} ended as {state}\n{logs}")
    cells = [json.loads(path.read_text()) for path in (directory / "eval").rglob("*.json")]
    trained = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    outcome = Outcome(
        name=name,
        seed=seed,
        before=next(cell for cell in cells if cell["step"] is None),
        after=max((cell for cell in cells if cell["step"] is not None), key=lambda cell: int(cell["step"])),
        steps_per_second=(len(trained) - 1) / (trained[-1]["time"] - trained[0]["time"]),
        wall=wall,
        peak=peak,
        rewards=(mean(line["reward"] for line in trained[:5]), mean(line["reward"] for line in trained[-5:])),
    )
    note(f"{run}: {outcome.gain:+.1f} points, {wall:.0f} s, load {os.getloadavg()[0]:.1f}")
    return outcome


def accuracy(cell: dict[str, Any]) -> tuple[str, str, str, str]:
    """Accuracy, its interval, share of reasoned answers and their accuracy, in percent."""
    low, high = wilson(cell["correct"], cell["n"])
    right = cell["reasoned_accuracy"]
    return (
        f"{100 * cell['score']:.1f}",
        f"{100 * low:.1f}–{100 * high:.1f}",
        f"{100 * cell['reasoned']:.1f}",
        "-" if right is None else f"{100 * right:.1f}",
    )


def main() -> None:
    """Trains in turn and prints one table."""
    options = parser(__doc__, 3, "seeds of the experiment itself: 42, 43, …")
    options.add_argument("--control-runs", type=int, default=1, metavar="N", help="seeds of each control (1)")
    args = options.parse_args()
    bytecode(args.cache)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        todo = [("smoke", "smoke", 42 + number) for number in range(args.runs)]
        for name, rewards in CONTROLS.items():
            file = home / f"{name.replace(' ', '-')}.yaml"
            file.write_text(f"extends: smoke\nname: {file.stem}\ntitle: The smoke experiment with a {name}\n{rewards}")
            todo += [(name, str(file), 42 + number) for number in range(args.control_runs)]
        for name, experiment, seed in todo:
            outcomes.append(train(home, name, experiment, seed))
    first = outcomes[0].before
    print(f"{machine()}; {first['hardware']}; {first['n']} held-out problems, one answer each")
    header = (
        "",
        "accuracy %",
        "95 % interval",
        "gain, points",
        "reasoned %",
        "right of those %",
        "reward",
        "steps/s",
        "wall s",
    )
    rows: list[tuple[object, ...]] = []
    seen: set[int] = set()
    for one in outcomes:
        if one.before["correct"] not in seen:
            seen.add(one.before["correct"])
            score, interval, *reasoned = accuracy(one.before)
            rows.append(("base model", score, interval, "", *reasoned, "", "", "", "", ""))
        score, interval, *reasoned = accuracy(one.after)
        memory = [f"{one.peak.get(kind, float('nan')):.0f}" for kind in RANKS]
        reward = f"{one.rewards[0]:.2f} → {one.rewards[1]:.2f}"
        speed = (reward, f"{one.steps_per_second:.2f}", f"{one.wall:.0f}", *memory)
        rows.append((f"{one.name}, seed {one.seed}", score, interval, f"{one.gain:+.1f}", *reasoned, *speed))
    show("before and after training", (*header, "MiB training", "MiB evaluation"), rows)
    print()
    gains = [one.gain for one in outcomes if one.name == "smoke"]
    controls = [one.gain for one in outcomes if one.name != "smoke"]
    shown = ", ".join(f"{gain:+.1f}" for gain in gains)
    verdict(f"every seed gains at least {EXPECTED:g} points", min(gains) >= EXPECTED, shown)
    if controls:
        shown = ", ".join(f"{gain:+.1f}" for gain in controls)
        verdict("every control gains less than every seed", max(controls) < min(gains), shown)


if __name__ == "__main__":
    main()
