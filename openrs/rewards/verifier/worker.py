"""A verifier process: reads pairs from standard input, writes verdicts to standard output, one JSON value a line.

Started by the pool, which kills it where a pair takes too long. It ends by itself when its standard input ends, when it
has grown too large, and with its parent, however that ends.

    {"memory": bytes, "lighteval": bool}        → "ready", or {"error": why}
    {"rule", "gold", "text", "announced_only"}  → true, false or "time" (can the gold answer be read?), and if true
                                                  {"correct": bool, "limit": null, "time" or "memory", "leaving": bool}

A pair is left after so much processor time, which does not depend on what else the machine does. Where that is not
enough, in a long call in C, the pool's limit of time by the clock ends the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

PR_SET_PDEATHSIG = 1

CPU_SECONDS = 0.5
"""Processor time for a pair. Of 10,691 pairs of published problems none that is equal took half of it."""

EXTRACTIVE_CPU_SECONDS = 30.0
"""The same where lighteval judges: it looks for answers in all of a completion, which may have 32,768 tokens."""

GOLD_CPU_SECONDS = 2.0
"""Processor time for the parse of a gold answer, once for all its completions."""

REPEAT = 0.1
"""A library that swallows the interruption is interrupted again after so much more processor time."""


class OverTime(BaseException):
    """The processor time is used up. No `except Exception` of sympy's or math-verify's takes it for its own."""


def main(parent: int) -> int:
    """Serves until standard input ends. `parent` is the process that started this one."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        return 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to answer
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # math-verify's own; its disposition outlives an exec
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    # math-verify prints what it cannot parse.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    settings = json.loads(requests.readline())
    try:
        import math_verify  # noqa: F401

        from openrs.rewards.verifier import grade

        if settings["lighteval"]:
            from openrs.evaluation import extractive

            extractive.preload()
    except ImportError as error:
        _reply(replies, {"error": str(error)})
        return 1
    # What the libraries load when they are first used is no pair's fault.
    grade.correct("strict", "$x+\\frac{1}{2}$", "$\\frac{1+2x}{2}$", False)
    grade.correct("math-verify", "$\\{1,2\\}$", "$x^2=\\sqrt{2}$", False)
    ceiling = _limit_memory(int(settings["memory"]))
    _reply(replies, "ready")
    for line in requests:
        if not _serve(json.loads(line), replies, ceiling):
            return 0
    return 0


def _serve(request: dict[str, Any], replies: BinaryIO, ceiling: int) -> bool:
    """Answers one request; False where this process should be replaced."""
    from openrs.rewards.verifier import grade

    correct, limit = False, None
    readable: bool | str
    try:
        with _cpu_limit(GOLD_CPU_SECONDS):
            readable = bool(grade.gold(request["rule"], request["gold"]))
    except OverTime:
        readable = "time"
    except Exception:
        readable = False
    _reply(replies, readable)
    if readable is not True:
        return True
    try:
        with _cpu_limit(EXTRACTIVE_CPU_SECONDS if request["rule"] in grade.EXTRACTIVE else CPU_SECONDS):
            correct = grade.correct(request["rule"], request["gold"], request["text"], request["announced_only"])
    except OverTime:
        limit = "time"
    except MemoryError:
        limit = "memory"
    except Exception:  # sympy raises whatever it likes, and so much is known: this pair is not shown to be equal
        correct = False
    leaving = limit == "memory" or _resident() > ceiling
    _reply(replies, {"correct": correct, "limit": limit, "leaving": leaving})
    return not leaving


@contextlib.contextmanager
def _cpu_limit(seconds: float) -> Iterator[None]:
    """Raises OverTime once what it encloses has used so much processor time, also where that was caught in there."""
    fired = 0

    def over_time(number: int, frame: object) -> None:
        nonlocal fired
        fired += 1
        raise OverTime

    signal.signal(signal.SIGPROF, over_time)
    signal.setitimer(signal.ITIMER_PROF, seconds, REPEAT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)  # math-verify may have been left before it could do this
    if fired:  # a bare `except` took it for its own; what was found since is half of something
        raise OverTime


def _reply(replies: BinaryIO, value: Any) -> None:
    replies.write(json.dumps(value).encode() + b"\n")


def _limit_memory(more: int) -> int:
    """Allows `more` bytes of address space beyond what is in use. Returns the resident size not to be kept."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _pages(0) + more
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    with contextlib.suppress(ValueError, OSError):  # somebody has set a lower one already
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    return _resident() + more // 4


def _resident() -> int:
    return _pages(1)


def _pages(field: int) -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[field]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
