"""A rank that stands still says where and ends; one that goes on, however slowly, is left alone."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from openrs.training.watchdog import Watchdog

HANGS = """
import sys, threading, time
from openrs.training import watchdog
watchdog.OTHERS_SECONDS = 0.1
dog = watchdog.Watchdog(3, float(sys.argv[1]))
dog.start()
def waits_for_a_rank_that_is_gone():
    time.sleep(60)
waits_for_a_rank_that_is_gone()
"""


def test_a_hang_is_shown_and_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS, "0.3"], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert any("waits_for_a_rank_that_is_gone" in line for line in lines)
    assert lines[-1].startswith("openrs: no step has ended for ") and "limit 0 s" in lines[-1]


def test_the_limit_follows_the_median() -> None:
    ended = threading.Event()
    dog = Watchdog(20, 5, end=ended.set)
    assert dog.limit == 5
    dog._durations.extend([1.0, 2.0, 90.0])
    assert dog.limit == 40
    dog._durations.extend([0.01] * 50)
    assert dog.limit == 5


def test_beats_keep_it_quiet_and_stop_ends_it() -> None:
    ended = threading.Event()
    dog = Watchdog(2, 2.0, end=ended.set)
    dog.start()
    for _ in range(4):
        time.sleep(0.6)
        dog.beat()
    assert not ended.is_set()
    dog.stop()
    assert not ended.wait(3)
