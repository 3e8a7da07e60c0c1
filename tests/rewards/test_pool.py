"""The verifier's processes: what hostile answers cost, and what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("math_verify")

from hypothesis import given, settings
from hypothesis import strategies as st

from openrs import rewards
from openrs.errors import OpenRSError
from openrs.rewards import verify
from openrs.rewards.verifier import answers, grade
from openrs.rewards.verifier import pool as pools
from openrs.rewards.verifier.pool import Pair, Pool, Verdict

TOWER = "5^{5^{5^{5^5}}}"


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(1, seconds=2.0, memory=256 << 20)
    yield made
    made.close()


def pair(gold: str, answer: str) -> Pair:
    return Pair("math-verify", f"${gold}$", f"$${answer}$$")


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def test_a_hostile_pair_costs_its_limit_and_nothing_else(pool: Pool) -> None:
    asked = [pair("x", "x"), pair("x", TOWER), pair("x", "x+0"), pair("x", "y"), pair(TOWER, "1"), pair("$$", "1")]
    pool.judge(asked[:1])
    before, start = pool.processes(), time.monotonic()
    found = pool.judge(asked)
    assert time.monotonic() - start < 3 * (2.0 + 15.0)
    assert [verdict.correct for verdict in found[:4]] == [True, False, True, False]
    assert found[1].limit in ("time", "memory", "crash")
    assert found[4].correct in (None, False) and found[5] == Verdict(None)
    assert all(gone(pid) for pid in before if pid not in pool.processes())
    warm = pool.processes()
    assert pool.judge(asked[:1]) == [Verdict(True)] and pool.processes() == warm


def test_a_gold_answer_that_is_over_its_limit_is_counted_as_such() -> None:
    gold = "+".join(f"\\sqrt{{{number}}}" for number in range(2, 5000))
    short = Pool(1, seconds=0.3, memory=256 << 20)
    try:
        assert short.judge([pair(gold, "1"), pair(gold, "2")]) == [Verdict(None, "time")] * 2
    finally:
        short.close()


def test_order_and_groups(pool: Pool) -> None:
    asked = [pair(str(number % 5) + "x", f"{number % 3}x") for number in range(60)]
    assert [verdict.correct for verdict in pool.judge(asked)] == [number % 5 == number % 3 for number in range(60)]


def test_a_worker_that_dies_is_replaced_and_its_pair_asked_again(pool: Pool) -> None:
    pool.judge([pair("x", "x")])
    for pid in pool.processes():
        os.kill(pid, signal.SIGKILL)
    assert pool.judge([pair("x", "x"), pair("x", "y")]) == [Verdict(True), Verdict(False)]


def test_several_workers_and_threads() -> None:
    pool = Pool(2)
    found: dict[int, list[bool | None]] = {}

    def ask(number: int) -> None:
        asked = [pair(f"{number}x", f"{other}x") for other in range(8)]
        found[number] = [verdict.correct for verdict in pool.judge(asked)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pool.processes()) <= 2
    pids = pool.processes()
    pool.close()
    assert all(gone(pid) for pid in pids)
    # math-verify itself says False to everything outside the main thread.
    assert found == {number: [number == other for other in range(8)] for number in range(4)}


def test_memory_is_bounded_and_given_back(pool: Pool) -> None:
    hostile = [pair("x", "10^{10^{9}}"), pair("x", "(10^{50000000})!"), pair("x", "\\binom{10^8}{5 \\cdot 10^7}")]
    assert [verdict.correct for verdict in pool.judge(hostile)] == [False] * 3
    assert pool.judge([pair("x", "x")]) == [Verdict(True)]
    for pid in pool.processes():
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["VmRSS"].split()[0]) < 300 * 1024


BRACES = "{" * 10_000 + "1" + "}" * 10_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0.0),
        ("\0", 0.0),
        ("\ud800 \\boxed{\udfff}", 0.0),
        ("\ud800</think>\\boxed{x+1}", 1.0),
        ("\0\\boxed{1+x}\0", 1.0),
        (f"\\boxed{BRACES}", 0.0),
        (f"\\boxed{{{BRACES}}}", 0.0),
        ("\\boxed{" * 100_000, 0.0),
        ("<answer>" * 100_000, 0.0),
        ("\\boxed{x+1}" * 20_000, 1.0),
        ("x" * 10_000_000, 0.0),
        ("x" * 10_000_000 + "</think>\\boxed{x+1}", 1.0),
        ("\n" * 10_000_000, 0.0),
        ("$" * 5001, 0.0),
        ("- " * 5_000_000, 0.0),
    ],
    ids=lambda value: str(value)[:12] if isinstance(value, str) else "",
)
def test_hostile_completions(text: str, expected: float) -> None:
    start = time.monotonic()
    for name in rewards.names():
        reward = rewards.get(name)([text], answer=["x+1"], completion_ids=[[0]])
        assert len(reward) == 1
        assert name != "accuracy" or reward == [expected]
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("gold", [TOWER, BRACES, "\0", "\ud800", "$" * 1001, "x" * 10_000_000])
def test_hostile_gold_answers(gold: str) -> None:
    assert rewards.get("accuracy")(["\\boxed{1}", "2"], answer=[gold] * 2) in ([0.0, 0.0], [None, None])


@settings(deadline=None, max_examples=150)
@given(
    st.integers(-(10**15), 10**15), st.integers(-30, 30), st.booleans(), st.sampled_from(["%d", "$%d$", "\\boxed{%d}"])
)
def test_whole_numbers_need_no_process(gold: int, difference: int, near: bool, form: str) -> None:
    """Compared as digits, they get the verdict that math-verify gives."""
    other = gold + difference if near else difference
    text = form % other
    wanted, given = answers.gold(str(gold)), answers.locate(text).text
    expected = grade.matches(grade.gold("math-verify", wanted), grade.read(given))
    assert verify.judge([str(gold)], [text])[0].correct is expected is (gold == other)


def test_without_math_verify(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(pools, "_PACKAGE_ROOT", tmp_path / "first")
    (tmp_path / "first").mkdir()
    pool = Pool(1)
    with pytest.raises(OpenRSError, match=r"math-verify cannot be run by .*; install openrs\[train\] there"):
        pool.judge([pair("x", "x")])
    assert pool.processes() == []


def test_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    for ranks, size in [("1", 8), ("3", 5), ("16", 1), ("99", 1), ("no", 8), ("0", 8)]:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
        assert pools.default_size() == size


CHILD = """
import os, sys, time
from openrs import rewards
from openrs.rewards.verifier import pool
print(rewards.get("accuracy")(["\\\\boxed{y}"], answer=["x"]), *pool.shared().processes(), flush=True)
if sys.argv[1] == "fork" and os.fork() == 0:
    print(rewards.get("accuracy")(["\\\\boxed{y}"], answer=["x"]), *pool.shared().processes(), flush=True)
    sys.exit()
if sys.argv[1] == "fork":
    os.wait()
    print(*pool.shared().processes() if rewards.get("accuracy")(["\\\\boxed{x}"], answer=["x"]) == [1.0] else "", flush=True)
if sys.argv[1] == "busy":
    import threading
    threading.Thread(target=rewards.get("accuracy"), args=(["\\\\boxed{%s}"],), kwargs={"answer": ["x"]}).start()
if sys.argv[1] in ("busy", "idle"):
    time.sleep(600)
""".replace("%s", TOWER)


@pytest.mark.parametrize("how", ["idle", "busy"])
def test_no_process_outlives_a_killed_parent(how: str) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, how], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [int(pid) for pid in parent.stdout.readline().split()[1:]]
        if how == "busy":
            time.sleep(0.5)
        assert workers and all(map(alive, workers))
        parent.kill()
    assert all(map(gone, workers))


def test_no_process_outlives_a_parent_that_ends_and_a_fork_keeps_its_hands_off() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "fork"], capture_output=True, text=True, check=True, timeout=120
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines[:2]] == ["[0.0]", "[0.0]"]
    first, forked, after = lines[0][1:], lines[1][1:], lines[2]
    assert first == after and not set(first) & set(forked), done
    assert all(gone(int(pid)) for pid in first + forked)
