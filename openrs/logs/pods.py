"""The logs of a run that only its cluster sees: what its pods printed; where those are gone, the files that were pulled."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from openrs.engines import Job, LogGone, NodeAway, PodLog, RemoteEngine
from openrs.errors import BadInput, OpenRSError
from openrs.logs import Log, Logs, no_attempt
from openrs.logs.files import Files
from openrs.runs.files import last_object
from openrs.runs.record import Record
from openrs.status import status

_START = re.compile(rb"openrs: \S+: attempt (\d+) on ")
"""How a supervisor begins an attempt (openrs/worker/supervisor.py)."""

OVERLAP = timedelta(seconds=2)
"""What was read already and is read again: servers cut times to whole seconds, and the lines of standard output and
standard error, which a node times one by one, may stand in another order than their times."""


class Pod:
    """What a pod prints as a `Log`: read again and again from a little before its end, each line given once."""

    def __init__(self, pod: PodLog, stage: str) -> None:
        self.pod = pod
        self.stage = stage
        self.attempt: int | None = None
        """Number of the attempt that it is; None before it says so, or where it never was one."""
        self.begun = False
        """Whether it was read before."""
        self.whole = False
        """Whether all of it was read."""
        self.trouble = ""
        """Why it cannot be read, though the server answers."""
        self.gone = False
        """Whether it went before all of it was read."""
        self._since: datetime | None = None
        self._seen: Counter[bytes] = Counter()
        """Lines from then on that were read, with their times."""
        self._waiting = b""

    @property
    def unread(self) -> bool:
        """Whether nothing of it could be read."""
        return (bool(self.trouble) or self.gone) and self._since is None

    @property
    def name(self) -> str:
        """`attempt-2/mine-train-1-0-x7k2p`, much as the files of an attempt are called."""
        if self.attempt is None:
            return self.pod.name
        task = "" if self.pod.task is None else f"task-{self.pod.task}-"
        return f"{task}attempt-{self.attempt}/{self.pod.name}"

    def new(self) -> bytes:
        """What `look` has read since the last call."""
        waiting, self._waiting = self._waiting, b""
        return waiting

    def look(self) -> None:
        """Reads what there is. Raises OpenRSError where the server does not answer."""
        if self.whole:
            return
        self.begun, self.trouble = True, ""
        try:
            content = self.pod.read(f"{self._since:%Y-%m-%dT%H:%M:%SZ}" if self._since else None).encode()
        except NodeAway as error:
            self.trouble = str(error)
            return
        except LogGone:
            self.gone = True
            return
        if self.pod.running:
            content = content[: content.rfind(b"\n") + 1]  # the rest of the last line is still to come
        self.whole = not self.pod.running
        left, fresh = self._seen.copy(), []
        for line in content.removesuffix(b"\n").split(b"\n") if content else []:
            if left[line]:
                left[line] -= 1
            else:
                fresh.append(line)
        self._seen.update(fresh)
        self._forget()
        text = b"".join(line.partition(b" ")[2] + b"\n" for line in fresh)
        self._waiting += text
        if self.attempt is None:
            self.attempt = _attempt(text)

    def _forget(self) -> None:
        """Keeps of the lines that were read only those that will come again."""
        times = {line: _time(line) for line in self._seen}
        newest = max((time for time in times.values() if time is not None), default=None)
        if newest is not None:
            self._since = since = newest - OVERLAP
            self._seen = Counter({line: n for line, n in self._seen.items() if (times[line] or since) >= since})


def _attempt(text: bytes) -> int | None:
    """Number of the attempt that printed it. Of a log that grew large the beginning may be gone."""
    match = _START.search(text)
    if match:
        return int(match[1])
    line = last_object(text.splitlines(), lambda item: type(item.get("attempt")) is int)
    return line["attempt"] if line else None


def _time(line: bytes) -> datetime | None:
    """Time of `2026-11-23T23:50:34.123456789Z …`, in whole seconds."""
    try:
        return datetime.strptime(line[:19].decode("ascii"), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None


class Pods:
    """The logs of a run by its engine."""

    period = 2.0

    def __init__(self, record: Record, engine: RemoteEngine) -> None:
        self._record = record
        self._engine = engine
        self._files = Files(record)
        self._pods: dict[str, Pod] = {}
        """By name, also those that are gone since."""
        self._jobs: dict[str, tuple[str, Job]] = {}
        """Handle → stage and job, of all submissions: attempts count through."""
        for submission in record.submissions:
            for sent in submission.stages:
                where = record.stage_directory(submission.number, sent.name)
                self._jobs[sent.handle] = sent.name, Job(record.run, sent.handle, sent.tasks, where)

    def find(self, stage: str | None, attempt: int | None, *, follow: bool = False) -> Logs:
        """Reads what the pods have printed by now; where the stage has none any more, the files that were pulled."""
        there = self._there(stage)
        for pod in there:
            if pod.begun:
                pod.look()  # also what is no longer the newest: its last lines say why
        several = follow and stage is None and attempt is None
        stage = stage or (there[-1].stage if there else self._files.newest_stage())
        mine = [pod for pod in there if pod.stage == stage]
        if attempt is not None:
            for pod in mine:
                pod.look()
            mine = [pod for pod in self._pods.values() if (pod.stage, pod.attempt) == (stage, attempt)]
            if not mine:
                return self._pulled(stage, attempt)
        elif not any(pod.stage == stage for pod in self._pods.values()):
            return self._pulled(stage, None)
        newest = {pod.pod.task: pod for pod in mine}
        chosen = [newest[task] for task in sorted(newest, key=lambda task: -1 if task is None else task)]
        if several:
            chosen += [pod for pod in there if pod.pod.running and pod not in chosen]
        for pod in chosen:
            if not pod.begun and pod in there:
                pod.look()
        known = [pod.attempt for pod in chosen if pod.attempt is not None]
        pulled = self._files.attempts(stage)
        if not follow and attempt is None and known and pulled and pulled[-1] > max(known):
            return self._pulled(stage, None)  # the newest attempt's pod is gone, and an older one's is there
        logs: list[Log] = [pod for pod in chosen if not pod.unread]
        notes = self._notes(there)
        if not follow and notes and not logs:
            found = self._pulled(stage, attempt)
            if not found.logs:
                raise OpenRSError(notes[0])
            return replace(found, notes=notes)
        return Logs(stage, attempt or max(known, default=None), logs, notes=notes)

    def _there(self, stage: str | None) -> list[Pod]:
        """The pods of the stage (of all, without one) that the cluster has, oldest first."""
        found = []
        for log in self._engine.logs([job for name, job in self._jobs.values() if stage in (None, name)]):
            pod = self._pods.setdefault(log.name, Pod(log, self._jobs[log.handle][0]))
            pod.pod = log
            found.append(pod)
        return found

    def _notes(self, there: list[Pod]) -> list[str]:
        pull = f"`openrs pull {self._record.run}` copies what it wrote"
        lost = [pod for pod in self._pods.values() if pod.begun and not pod.whole]
        gone = [pod for pod in lost if pod.gone or pod not in there]
        return [f"pod {pod.pod.name} is gone, and what it printed last with it; {pull}" for pod in gone] + [
            f"{pod.trouble}; {pull}" for pod in there if pod.trouble
        ]

    def _pulled(self, stage: str, attempt: int | None) -> Logs:
        pulled = self._files.attempts(stage)
        if attempt is not None and attempt not in pulled:
            seen = {pod.attempt for pod in self._pods.values() if pod.stage == stage and pod.attempt is not None}
            raise BadInput(
                f"{no_attempt(self._record, stage, attempt, sorted(seen | {*pulled}))}; pods that are gone took their logs "
                f"with them: `openrs pull {self._record.run}` copies the files of all attempts"
            )
        return self._files.find(stage, attempt)

    def why_none(self, stage: str) -> str:
        """Its state as the scheduler gives it, or that its pods are gone."""
        run = self._record.run
        state = next(one for one in status([self._record])[0].stages if one.name == stage)
        if state.state.ended:
            gone = f"run {run}: stage {stage} is {state.state} and has no pods any more"
            return f"{gone}; `openrs pull {run}` copies its logs, then this shows them"
        return f"run {run}: stage {stage} is {state.state}{f' ({state.reason})' if state.reason else ''}"
