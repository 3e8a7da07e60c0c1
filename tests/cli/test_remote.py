"""logs, pull and watch where the client does not see the run directory, with a pretended engine (see tests/cli/fake.py)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from openrs.engines import JobInfo, JobState, StillStopping
from openrs.errors import OpenRSError
from openrs.runs.directory import RunDirectory
from openrs.runs.record import Record, load
from tests.cli.conftest import Openrs, Said
from tests.cli.fake import FakeRemoteEngine, Pod, Scheduler

TRAIN, EVAL = "1-train", "1-eval"


@pytest.fixture
def record(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> Record:
    """A run `mine` that was sent."""
    assert openrs("submit", "smoke", "--cluster", "k8s", "--run", "mine").code == 0
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.RUNNING)
    return load(workdir / "runs", "mine")


def second(number: float) -> str:
    return f"2026-01-01T00:00:{number:012.9f}Z"


def start(attempt: int, label: str = "train") -> tuple[str, str]:
    return second(0.5), f"openrs: mine/{label}: attempt {attempt} on node-a"


def test_logs_are_the_newest_pods_output(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.pods = [
        Pod("mine-train-1-0-aaaaa", TRAIN, running=False, lines=[start(1), (second(1), "first")]),
        Pod("mine-train-1-0-bbbbb", TRAIN, lines=[start(2), (second(2), "10%\r20%"), (second(3), "\x1b[31mred")]),
    ]
    said = openrs("logs", "mine")
    assert (said.code, said.err) == (0, "")
    header = "openrs: mine/train: attempt 2 on node-a"
    assert said.out == f"==> attempt-2/mine-train-1-0-bbbbb <==\n{header}\n20%\n\\x1b[31mred\n"
    assert openrs("logs", "mine", "train", "--json").json == {
        "run": "mine",
        "stage": "train",
        "attempt": 2,
        "files": [{"name": "attempt-2/mine-train-1-0-bbbbb", "text": f"{header}\n20%\n\\x1b[31mred\n"}],
    }
    assert openrs("logs", "mine", "--attempt", "1").out.endswith("first\n")


def test_logs_of_an_array_are_each_tasks_newest_pod(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.pods = [
        Pod(f"mine-eval-1-{task}-{name}", EVAL, task, running=False, lines=[start(attempt, f"eval-{task}")])
        for task, name, attempt in ((10, "a", 1), (1, "b", 1), (1, "c", 2), (2, "d", 1))
    ]
    names = [file["name"] for file in openrs("logs", "mine", "--json").json["files"]]
    assert names == [
        "task-1-attempt-2/mine-eval-1-1-c",
        "task-2-attempt-1/mine-eval-1-2-d",
        "task-10-attempt-1/mine-eval-1-10-a",
    ]


def test_an_attempt_is_known_though_the_log_lost_its_beginning(
    openrs: Openrs, scheduler: Scheduler, record: Record
) -> None:
    scheduler.pods = [Pod("p", TRAIN, lines=[(second(1), json.dumps({"step": 7, "attempt": 3}))])]
    assert openrs("logs", "mine", "--json").json["attempt"] == 3


def test_logs_of_a_stage_without_pods_say_its_state(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.states["eval"] = JobInfo(JobState.PENDING, "waits for mine-train-1")
    said = openrs("logs", "mine", "eval")
    assert (said.code, said.out) == (1, "")
    assert said.err == "openrs: run mine: stage eval is PENDING (waits for mine-train-1)\n"
    said = openrs("logs", "mine", "base")
    assert said.code == 1 and said.err.count("\n") == 1
    assert "base is SUCCEEDED and has no pods any more; `openrs pull mine`" in said.err


def test_pods_that_are_gone_leave_the_pulled_files(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.pods = [Pod("new", TRAIN, lines=[start(3)])]
    missing = openrs("logs", "mine", "train", "--attempt", "2")
    assert missing.code == 2 and "no attempt 2; there are 3" in missing.err and "`openrs pull mine`" in missing.err
    for attempt in (1, 2):
        scheduler.files[f"logs/train/attempt-{attempt}/rank-0.log"] = f"file {attempt}\n"
    assert openrs("pull", "mine").code == 0
    assert openrs("logs", "mine", "train", "--attempt", "2").out == "==> attempt-2/rank-0.log <==\nfile 2\n"
    assert openrs("logs", "mine", "train").out.startswith("==> attempt-3/new <==")
    scheduler.pods = []
    assert openrs("logs", "mine", "train").out == "==> attempt-2/rank-0.log <==\nfile 2\n"
    # A pod of an attempt before the pulled ones is no newest one.
    scheduler.pods = [Pod("old", TRAIN, running=False, lines=[start(1)])]
    assert openrs("logs", "mine", "train").out == "==> attempt-2/rank-0.log <==\nfile 2\n"
    unknown = openrs("logs", "mine", "train", "--attempt", "9")
    assert unknown.code == 2 and "there are 1, 2" in unknown.err


def test_a_node_that_does_not_answer_is_one_line(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.pods = [
        Pod("mine-eval-1-0-a", EVAL, 0, lines=[start(1, "eval-0")]),
        Pod("mine-eval-1-1-b", EVAL, 1, away=True),
    ]
    said = openrs("logs", "mine", "eval")
    assert said.code == 0 and "attempt 1 on node-a" in said.out
    assert said.err.count("\n") == 1 and "mine-eval-1-1-b: its node does not answer" in said.err
    assert "`openrs pull mine`" in said.err
    scheduler.pods = [Pod("mine-train-1-0-c", TRAIN, away=True)]
    said = openrs("logs", "mine", "train")
    assert (said.code, said.out) == (1, "") and said.err.count("\n") == 1 and "does not answer" in said.err
    scheduler.files["logs/train/attempt-1/rank-0.log"] = "pulled\n"
    assert openrs("pull", "mine").code == 0
    said = openrs("logs", "mine", "train")
    assert said.out.endswith("pulled\n") and "does not answer" in said.err


def test_a_pod_that_goes_while_it_is_asked_is_one_line(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.pods = [Pod("first", TRAIN, running=False, gone=True)]
    said = openrs("logs", "mine", "train")
    assert (said.code, said.out) == (1, "")
    assert (
        said.err
        == "openrs: pod first is gone, and what it printed last with it; `openrs pull mine` copies what it wrote\n"
    )


def follow(
    openrs: Openrs, scheduler: Scheduler, time_passes: Callable[[int], None], pods: list[Pod], *stage: str
) -> Said:
    """`logs -f` of a run with these pods, to which `time_passes` does something at each query (1 is the first)."""
    scheduler.queries.clear()
    scheduler.pods, scheduler.on_query = pods, time_passes
    return openrs("logs", "mine", *stage, "-f")


def test_follow_prints_each_line_once(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    """Through times that are cut to seconds, equal lines, an absent server, a pod that is replaced, one that vanishes."""
    first, last = Pod("first", TRAIN, lines=[start(1)]), Pod("last", TRAIN, lines=[start(2), (second(50), "again")])
    read = FakeRemoteEngine.logs
    failing: list[bool] = []

    def logs(self: FakeRemoteEngine, jobs: list[object]) -> object:
        if failing:
            raise OpenRSError("the API server does not answer")
        return read(self, jobs)  # type: ignore[arg-type]

    def time_passes(query: int) -> None:
        if first.running:
            for n in range(3):  # the same words, some in the same instant
                first.lines.append((second(query + 0.1 * (n // 2)), "same"))
            first.lines.append((second(query - 0.05), f"line {query}, whose time is behind its place"))
        if query == 3:
            failing.append(True)
            raise OpenRSError("the API server does not answer")
        if query == 5:
            failing.clear()
        if query == 6:
            scheduler.pods.append(last)
        if query == 7:
            first.lines.append((second(40), "its last words"))
            first.running = False
        if query == 9:
            last.running = False
            scheduler.set(train=JobState.SUCCEEDED)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeRemoteEngine, "logs", logs)
        said = follow(openrs, scheduler, time_passes, [first], "train")
    assert said.code == 0
    printed: dict[str, list[str]] = {}
    for line in said.out.splitlines():
        if line.startswith("==> "):
            lines = printed.setdefault(line, [])
        else:
            lines.append(line)
    assert printed == {
        f"==> train/attempt-{number}/{pod.name} <==": [line for _, line in pod.lines]
        for number, pod in ((1, first), (2, last))
    }
    assert len(first.lines) == 1 + 4 * 7 + 1
    assert first.reads[0] is None and None not in first.reads[1:]  # not all of it again and again
    assert said.err == "openrs: the API server does not answer; trying again for 5 min 00 s\n"


@pytest.mark.parametrize("listed", [False, True], ids=["gone", "ended and gone before it is read"])
def test_follow_says_what_is_lost_with_a_pod(
    listed: bool, openrs: Openrs, scheduler: Scheduler, record: Record
) -> None:
    def time_passes(query: int) -> None:
        if query == 3 and listed:
            scheduler.pods[0].running, scheduler.pods[0].gone = False, True
        if query == (4 if listed else 3):
            scheduler.pods.clear()
        if query == 5:
            scheduler.pods.append(Pod("second", TRAIN, running=False, lines=[start(2)]))
            scheduler.set(train=JobState.INTERRUPTED)

    said = follow(openrs, scheduler, time_passes, [Pod("first", TRAIN, lines=[start(1)])], "train")
    assert said.code == 0 and "attempt-1/first" in said.out and "attempt-2/second" in said.out
    assert said.err == (
        "openrs: pod first is gone, and what it printed last with it; `openrs pull mine` copies what it wrote\n"
    )


def test_follow_a_pod_that_goes_as_its_stage_ends(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    """It was deleted, and was done before that reached it."""

    def time_passes(query: int) -> None:
        if query == 3:
            scheduler.pods.clear()
            scheduler.set(train=JobState.SUCCEEDED)

    said = follow(openrs, scheduler, time_passes, [Pod("only", TRAIN, lines=[start(1)])], "train")
    assert said.code == 0 and "attempt-1/only" in said.out and "pod only is gone" in said.err
    assert said.err.count("\n") == 1


def test_follow_a_run_through_its_stages(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.set(base=JobState.RUNNING)
    base, train = Pod("base", "1-base", 0, lines=[start(1, "base-0")]), Pod("train", TRAIN, lines=[start(1)])

    def time_passes(query: int) -> None:
        if query == 2:
            base.lines.append((second(2), "base goes on"))
        if query == 4:
            base.running = train.running = False
            scheduler.pods.append(Pod("eval", EVAL, 0, running=False, lines=[start(1, "eval-0")]))
            scheduler.set(base=JobState.SUCCEEDED, train=JobState.FAILED, eval=JobState.CANCELLED)

    said = follow(openrs, scheduler, time_passes, [base, train])
    headers = [line for line in said.out.splitlines() if line.startswith("==>")]
    assert headers == [
        "==> train/attempt-1/train <==",
        "==> base/task-0-attempt-1/base <==",
        "==> eval/task-0-attempt-1/eval <==",
    ]
    assert "base goes on" in said.out


def test_follow_what_has_not_begun_says_what_it_waits_for(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.states["eval"] = JobInfo(JobState.PENDING, "waits for mine-train-1")

    def time_passes(query: int) -> None:
        if query == 3:
            scheduler.states["eval"] = JobInfo(JobState.CANCELLED, "it waited in vain")

    said = follow(openrs, scheduler, time_passes, [], "eval")
    first, last = said.err.splitlines()
    assert (said.code, said.out) == (1, "")
    assert first == "openrs: mine: stage eval is PENDING (waits for mine-train-1)"
    assert "eval is CANCELLED and has no pods" in last


def test_pull(openrs: Openrs, scheduler: Scheduler, record: Record, workdir: Path) -> None:
    scheduler.files = {"metrics.jsonl": '{"step": 3}\n', "logs/train/attempt-1/rank-0.log": "hello\n"}
    said = openrs("pull", "mine", "--json").json
    assert said == {"run": "mine", "dir": str(workdir / "runs" / "mine"), "files": 2}
    assert openrs("pull", "mine").out == f"mine: 2 files copied to {workdir / 'runs' / 'mine'}\n"
    assert (workdir / "runs/mine/metrics.jsonl").read_text() == '{"step": 3}\n'
    scheduler.files = {}
    said_no = openrs("pull", "mine")
    assert said_no.code == 1 and said_no.err.count("\n") == 1
    assert openrs("pull", "nobody").code == 2


def test_pull_where_the_run_is_here_already(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    assert openrs("submit", "smoke", "--cluster", "local", "--run", "near").code == 0
    said = openrs("pull", "near")
    assert (said.code, said.out) == (0, f"near: its files are here already, in {workdir / 'runs' / 'near'}\n")
    assert openrs("pull", "near", "--json").json["files"] == 0


def result(step: int, score: float) -> str:
    samples = [{"problem": "1+1=?", "completion": "2", "gold": "2", "correct": True}]
    content = {"state": "done", "checkpoint": f"step-{step:06d}", "step": step, "benchmark": "sums", "seed": 0}
    content |= {"settings": "x", "score": score, "correct": 10, "n": 20, "interval": [0.3, 0.7], "samples": samples}
    return json.dumps(content)


def test_watch_releases_and_shows_the_results(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    def time_passes(query: int) -> None:
        if query == 3:
            raise OpenRSError("the API server does not answer")
        if query == 4:
            scheduler.set(train=JobState.SUCCEEDED, eval=JobState.RUNNING)
        if query == 6:
            scheduler.files = {"eval/step-000040/sums/0-x.json": result(40, 0.5)}
            scheduler.set(eval=JobState.SUCCEEDED)

    scheduler.queries.clear()
    scheduler.on_query = time_passes
    said = openrs("watch", "mine")
    assert said.code == 0
    assert scheduler.released == [["1-base", TRAIN, EVAL]] * 2  # while something waits, and the server answers
    assert "sums" in said.out and "50.0" in said.out
    assert "eval: 3/3 cells" in said.err and "does not answer; trying again" in said.err
    again = openrs("watch", "mine")
    assert again.code == 0 and "from submission to end" not in again.out  # it had ended before


def test_watch_of_a_run_that_fails(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    cancelled = JobInfo(JobState.CANCELLED)
    scheduler.states = {"base": cancelled, "train": JobInfo(JobState.FAILED, "no GPU"), "eval": cancelled}
    said = openrs("watch", "mine")
    # Nothing ever began, so there is nothing to pull.
    assert said.code == 1 and "not there" not in said.err
    assert said.err.splitlines()[-1] == (
        "openrs: mine FAILED in stage train (no GPU); `openrs logs mine train` shows why"
    )


def test_results_that_cannot_be_pulled(openrs: Openrs, scheduler: Scheduler, record: Record) -> None:
    scheduler.set(train=JobState.SUCCEEDED, eval=JobState.SUCCEEDED)
    said = openrs("watch", "mine")
    assert said.code == 1 and said.err.splitlines()[-1].endswith("`openrs pull mine` tries again")


def test_submit_watch(openrs: Openrs, scheduler: Scheduler, workdir: Path) -> None:
    scheduler.set(base=JobState.SUCCEEDED, train=JobState.SUCCEEDED, eval=JobState.SUCCEEDED)
    scheduler.files = {"eval/step-000040/sums/0-x.json": result(40, 0.5)}
    said = openrs("submit", "smoke", "--cluster", "k8s", "--run", "seen", "--watch")
    assert said.code == 0 and said.out.startswith("seen\n") and "50.0" in said.out


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (OpenRSError("cannot patch jobs"), "FAILED"),
        (StillStopping("deleted, but not gone"), "CANCELLED"),
        (KeyboardInterrupt(), "CANCELLED"),
        (None, "CANCELLED"),
    ],
)
def test_a_cancel_that_is_refused_does_not_hide_how_the_run_ends(
    openrs: Openrs,
    scheduler: Scheduler,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException | None,
    state: str,
) -> None:
    def cancel(self: FakeRemoteEngine, jobs: list[object], grace: int) -> None:
        assert RunDirectory(Path(record.dir)).is_cancelled(1), "who watches is not told that the Jobs are lost"
        if error is not None:
            raise error

    monkeypatch.setattr(FakeRemoteEngine, "cancel", cancel)
    assert (openrs("cancel", "mine").code == 0) == (error is None)
    scheduler.states["train"] = JobInfo(JobState.FAILED, "no GPU")
    (run,) = openrs("status", "mine", "--json").json["runs"]
    assert {stage["name"]: stage["state"] for stage in run["stages"]}["train"] == state
