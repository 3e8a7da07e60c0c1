"""Our verdicts beside plain math-verify's: `python -m tests.rewards.verdicts [DIRECTORY] [--all]` lists the differences.

Plain is `verify(parse(gold), parse(completion))` with the library's defaults over the whole completion, called directly,
in processes of its own. Each difference has a reason, found by code that knows the two texts and both readings; one
without a reason fails the test.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from openrs.rewards import verify
from openrs.rewards.verifier import answers, grade
from openrs.rewards.verifier.pool import Verdict
from tests.rewards.corpus import Case, cases, data_directory

REASONS = {
    "cut reasoning": "the reasoning was never closed, so nothing in it is an answer; math-verify reads its last number",
    "answer after the reasoning": "what stands in the reasoning is not the answer; math-verify reads there too, where the "
    "part after it has nothing, or has something of lower rank",
    "box alone": "the only box is the answer; where it cannot be parsed, math-verify goes on to any number inside it or nearby",
    "gold answer not parsed": "math-verify cannot parse it (or its box, and then reads what stands around it), keeps its text, and "
    "says False to all but that text; we say that we do not know",
    "over limit": "given up after the pool's limit of time or memory",
}
"""Why a verdict may differ."""


class Difference(NamedTuple):
    """A pair on which the two differ."""

    case: Case
    plain: bool | None
    ours: Verdict
    reason: str | None


def plain(pair: tuple[str, str]) -> bool | None:
    """Plain math-verify's verdict; None where it reads nothing in the gold answer."""
    from math_verify import parse, verify

    gold, completion = plain_gold(pair[0]), pair[1]
    return bool(verify(gold, parse(completion))) if gold else None


def plain_gold(text: str) -> list[Any]:
    """What plain math-verify reads in a gold answer; one without marks of mathematics is put between dollar signs."""
    from math_verify import parse

    marked = re.search(r"(?<!\\)\$|\\boxed|\\\(|\\\[", text) is not None
    return list(parse(text) if marked else parse(f"${text}$") or parse(text))


def plain_verdicts(pairs: Sequence[tuple[str, str]], processes: int = 2) -> list[bool | None]:
    """Plain math-verify on many pairs."""
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as executor:
        return list(executor.map(plain, pairs, chunksize=100))


def differences(found: Sequence[Case]) -> list[Difference]:
    """Every pair on which our verdict is not plain math-verify's."""
    pairs = [(case.gold, case.completion) for case in found]
    ours = verify.judge([gold for gold, _ in pairs], [completion for _, completion in pairs])
    theirs = plain_verdicts(pairs)
    differing = [(case, a, b) for case, a, b in zip(found, theirs, ours, strict=True) if a != b.correct]
    return [Difference(case, a, b, reason(case, b)) for case, a, b in differing]


def reason(case: Case, verdict: Verdict) -> str | None:
    """Why the two may differ on a pair; None where nothing says so."""
    if verdict.limit is not None:
        return "over limit"
    if verdict.correct is None:
        return "gold answer not parsed" if _is_text(plain_gold(answers.gold(case.gold))) else None
    thought, closed, rest = case.completion.rpartition("</think>")
    answer = answers.locate(case.completion)
    if answer.announced_only or (not closed and not answer.text):
        return "cut reasoning"
    # Read alone, what comes after the reasoning gives our verdict: the difference is what stands in the reasoning.
    if closed and thought.strip() and plain((case.gold, rest)) == verdict.correct:
        return "answer after the reasoning"
    if answer.text.startswith(("$$\\boxed", "\\boxed")):
        unread = _is_text(grade.read(answer.text))
        if unread or plain((case.gold, answer.text)) == verdict.correct:
            return "box alone"
    return None


def _is_text(read: Sequence[Any]) -> bool:
    """Whether math-verify has found no expression, only the text of one."""
    return all(isinstance(one, str) for one in read)


def main() -> None:
    """Prints the differences by reason and kind, two examples of each or all, and the counts."""
    arguments, everything = [word for word in sys.argv[1:] if word != "--all"], "--all" in sys.argv
    directory = Path(arguments[0]) if arguments else data_directory()
    if directory is None:
        sys.exit("usage: python -m tests.rewards.verdicts DIRECTORY [--all] (or set OPENRS_SHARED)")
    found = list(cases(directory))
    start = time.monotonic()
    differing = differences(found)
    kinds = Counter(case.kind for case in found)
    print(f"{len(found)} pairs, {len(differing)} differences, {time.monotonic() - start:.0f} s")
    by: dict[tuple[str, str, str], list[Difference]] = defaultdict(list)
    for one in differing:
        by[one.reason or "WITHOUT A REASON", one.case.kind, f"{one.plain} → {one.ours.correct}"].append(one)
    for (why, kind, change), members in sorted(by.items()):
        print(f"\n{why}: {kind}, plain → ours {change}: {len(members)} of {kinds[kind]}")
        for one in members if everything or why not in REASONS else members[:2]:
            print(f"    gold {one.case.gold[-60:]!r}   completion …{one.case.completion[-110:]!r}")
    print("\nkinds: " + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))


if __name__ == "__main__":
    main()
