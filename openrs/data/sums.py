r"""One-line sums such as ``3+8-2+1=?``: the problems of the smoke experiment.

A problem has three to five one-digit terms (1 to 9) joined by ``+`` or ``-``, and no running total below
zero. That is hard enough for a tiny model to guess wrongly and easy enough for it to work out:

    <think>3+8=11;11-2=9;9+1=10</think>
    \boxed{10}

An expression belongs to one split for ever: to ``held_out`` if ``crc32(expression) % 10 == 0``, else to
``train``. So nothing that trains on ``train``, with any seed, can have seen a held-out problem.

Only the standard library is imported: the command line may list and write these problems without torch.
"""

import random
import re
import zlib
from collections.abc import Iterator
from typing import Literal

Split = Literal["train", "held_out"]

MIN_TERMS, MAX_TERMS = 3, 5  # the pattern below says the same

DISTINCT: dict[Split, int] = {"train": 200_000, "held_out": 20_000}
"""Rows that are promised to differ from each other. Each is under half of its split's expressions, so
drawing again on a repeat stays cheap."""

_PROBLEM = re.compile(r"[1-9](?:[+-][1-9]){2,4}=\?")
_STEP = re.compile(r"(\d+)([+-])(\d)=(\d+)")
_THINK = re.compile(r"<think>([^<]+)</think>")


def split_of(expression: str) -> Split:
    """The split that an expression (without ``=?``) belongs to."""
    return "held_out" if zlib.crc32(expression.encode()) % 10 == 0 else "train"


def draw(split: Split, rng: random.Random) -> str:
    """One problem of ``split``, drawn from ``rng``; a later draw may repeat it.

    The number of terms is uniform over 3 to 5 before the split is applied.
    """
    while True:
        total = rng.randint(1, 9)
        expression = str(total)
        for _ in range(rng.randint(MIN_TERMS, MAX_TERMS) - 1):
            term = rng.randint(1, 9)
            subtract = rng.random() < 0.5 and term <= total
            total += -term if subtract else term
            expression += f"{'-' if subtract else '+'}{term}"
        if split_of(expression) == split:
            return f"{expression}=?"


def generate(split: Split, count: int, seed: int) -> list[dict[str, str]]:
    """``count`` rows of ``split``, each ``{"problem": "3+8-2+1=?", "answer": "10"}``.

    The same split and seed give the same rows on every machine, and a smaller count gives a prefix of them.
    Held-out rows are all distinct. Train rows are distinct within each block of 200,000; a longer data set
    may repeat a row of an earlier block. Short expressions run out first (about 2,000 have three terms), so
    the longer a data set, the larger its share of five-term sums.

    Raises:
        ValueError: ``count`` is below 1, above 20,000 for ``held_out``, or ``split`` is neither split.
    """
    if split not in DISTINCT:
        raise ValueError(f"unknown split {split!r}: choose train or held_out")
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    if split == "held_out" and count > DISTINCT[split]:
        raise ValueError(f"held_out has at most {DISTINCT[split]} distinct rows, {count} were asked for")
    rng = random.Random(f"{split}:{seed}")
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    while len(rows) < count:
        problem = draw(split, rng)
        if problem in seen:
            continue
        if len(seen) == DISTINCT[split]:
            seen.clear()
        seen.add(problem)
        rows.append({"problem": problem, "answer": answer_to(problem)})
    return rows


def answer_to(problem: str) -> str:
    """The sum as a decimal string, always 0 or more for a problem made here.

    Raises:
        ValueError: ``problem`` does not look like ``3+8-2+1=?``.
    """
    *_, (_, _, _, total) = _steps(problem)
    return str(total)


def worked_solution(problem: str) -> str:
    r"""The completion that works the sum out step by step: ``<think>…;…</think>\n\boxed{…}``.

    Raises:
        ValueError: ``problem`` does not look like ``3+8-2+1=?``.
    """
    steps = ";".join(f"{left}{sign}{right}={total}" for left, sign, right, total in _steps(problem))
    return f"<think>{steps}</think>\n\\boxed{{{answer_to(problem)}}}"


def is_worked(completion: str, problem: str) -> bool:
    """Whether the completion works this problem out, rather than guessing.

    True if it has a closed think part with one step per operator, each with the problem's own operator and
    term. Totals may be wrong: that is bad arithmetic, not a guess. What follows the think part is not read.

    Raises:
        ValueError: ``problem`` does not look like ``3+8-2+1=?``.
    """
    think = _THINK.match(completion)
    if think is None:
        return False
    steps = [_STEP.fullmatch(step) for step in think[1].split(";")]
    written = [(step[2], step[3]) for step in steps if step is not None]
    wanted = [(sign, str(right)) for _, sign, right, _ in _steps(problem)]
    return len(written) == len(steps) and written == wanted


def _steps(problem: str) -> Iterator[tuple[int, str, int, int]]:
    """(running total, operator, term, new running total) for each operator of ``problem``, left to right."""
    if not _PROBLEM.fullmatch(problem):
        raise ValueError(f"not a problem of this set: {problem!r} (expected one like 3+8-2+1=?)")
    total = int(problem[0])
    for sign, digit in re.findall(r"([+-])(\d)", problem):
        term = int(digit)
        after = total + term if sign == "+" else total - term
        yield total, sign, term, after
        total = after
