"""What each reward teaches the tiny model in a few steps, and the three forms of Experiment 3 beside each other.

Not a contest: it shows that training runs with every reward, what each of them sees, and how much the form changes. The
forms are the rewards of exp3-paper, exp3-as-shipped and exp3, word for word but for `max_len`, which is 48: what the tiny
model may write (tokens; as shipped they count as characters). Gold answers are in dollar signs, as Open-RS's data has
them: without, the shipped code pays 1 to everybody. Runs go through engine `local`, one after the other.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import bytecode, machine, parser, show
from benchmarks.smoke import Outcome, accuracy, train
from openrs import rewards
from openrs.data.sums import generate
from openrs.spec.load import load_experiment

LONGEST = 48
"""Tokens of a completion of smoke."""

FORMS = {"exp3-paper": "as in the paper", "exp3-as-shipped": "as shipped", "exp3": "corrected"}


def experiment(home: Path, name: str, found: list[dict[str, Any]], steps: int) -> Path:
    """A file that extends smoke by these rewards."""
    (benchmark,) = load_experiment("smoke").evaluation.benchmarks
    content = {
        "extends": "smoke",
        "name": name,
        "title": f"The smoke experiment with {name}",
        "data": {"type": "jsonl", "path": str(home / "problems.jsonl")},
        "rewards": found,
        "training": {"steps": steps},
        "evaluation": {
            "at_steps": [steps],
            "benchmarks": [benchmark.model_copy(update={"data": held_out(benchmark.data)}).model_dump(mode="json")],
        },
    }
    file = home / f"{name}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def held_out(data: Any) -> Any:
    """200 of the 1,000 problems: the runs are many."""
    return data.model_copy(update={"count": 200})


def single(name: str) -> list[dict[str, Any]]:
    """A reward alone; in a form that the tiny model, which has no `<answer>`, can meet."""
    more = {"cosine": {"max_len": LONGEST}, "format": {"answer": "boxed"}}
    return [{"type": name, **more.get(name, {})}]


def of_form(name: str) -> list[dict[str, Any]]:
    """The rewards of a shipped experiment, with its lengths cut to the tiny model's."""
    found = [reward.model_dump() for reward in load_experiment(name).rewards]
    return [{**reward, "max_len": LONGEST} if "max_len" in reward else reward for reward in found]


def row(label: str, one: Outcome) -> tuple[object, ...]:
    """A line of the table."""
    score, interval, reasoned, _ = accuracy(one.after)
    return (
        label,
        f"{one.rewards[0]:.2f} → {one.rewards[1]:.2f}",
        f"{one.before['completion_tokens']:.1f} → {one.after['completion_tokens']:.1f}",
        f"{one.gain:+.1f}",
        score,
        interval,
        reasoned,
    )


def main() -> None:
    """Trains in turn and prints two tables."""
    options = parser(__doc__, 20, "training steps")
    options.add_argument("--tables", nargs="+", choices=("rewards", "forms"), default=["rewards", "forms"])
    args = options.parse_args()
    bytecode(args.cache)
    header = ("", "reward", "tokens", "gain, points", "accuracy %", "95 % interval", "reasoned %")
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        lines = [{**row, "answer": f"${row['answer']}$"} for row in generate("train", 4000, 0)]
        (home / "problems.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        singles = {name: single(name) for name in rewards.names()}
        forms = {f"tiny-{name}": of_form(name) for name in FORMS}
        print(f"{machine()}; {args.runs} steps; mean reward of the first five steps and of the last five")
        for title, table in (("rewards", singles), ("forms", forms)):
            if title in args.tables:
                rows = []
                for name, found in table.items():
                    file = experiment(home, name.replace("_", "-"), found, args.runs)
                    rows.append(row(FORMS.get(name.removeprefix("tiny-"), name), train(home, file.stem, str(file), 42)))
                show({"rewards": "each reward alone", "forms": "the rewards of Experiment 3"}[title], header, rows)


if __name__ == "__main__":
    main()
