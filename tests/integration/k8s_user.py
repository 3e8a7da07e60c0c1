"""Somebody with a kubeconfig, and what a test must know of a run that this person does not see: pods, ledger, lost time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from openrs.engines.kubernetes import states
from tests.integration.pace import Pace
from tests.testbed.k8s.bed import K8sBed
from tests.testbed.k8s.client import RUNS_CLAIM, Namespace
from tests.testbed.k8s.machine import BedError
from tests.testbed.k8s.watch import Pod, PodWatch, describe

ROOT = Path(__file__).resolve().parents[2]
STEPS = 24
SETTINGS = [
    f"training.steps={STEPS}",
    "checkpoint.every_steps=2",
    f"evaluation.at_steps=[{STEPS}]",
    "evaluation.base=false",
    "evaluation.benchmarks.0.data.count=20",
    "recovery.grace_seconds=20",
    "resources.memory_gb=1",
]
LEASE_SECONDS = 8
T = TypeVar("T")


@dataclass(frozen=True)
class Hit:
    """What was done to a run, when, and where it stood."""

    what: str
    attempt: int
    step: int
    """The last one that was finished."""
    time: float


@dataclass(frozen=True)
class Loss:
    """What it cost: the time from there to the first step that had not been done before, and the steps done again."""

    what: str
    hit_after_step: int
    next_attempt_from: int
    steps_again: int
    seconds: float


def options(*more: str) -> list[str]:
    return [word for value in (*SETTINGS, *more) for word in ("--set", value)]


class Reference:
    """The same run on the local engine, begun at once and waited for where its weights are needed."""

    def __init__(self, home: Path) -> None:
        self._runs = home / "runs"
        command = [sys.executable, "-m", "openrs", "submit", "smoke", "--cluster", "local", "--run", "reference"]
        self._process = subprocess.Popen(
            [*command, *options(), "--watch"],
            cwd=home,
            env={**os.environ, "OPENRS_RUNS": str(self._runs)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def weights(self) -> str:
        said, _ = self._process.communicate(timeout=300)
        assert self._process.returncode == 0, said
        return weights(self._runs / "reference")

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.communicate(timeout=300)


def weights(run: Path) -> str:
    return hashlib.sha256((run / "checkpoints" / f"step-{STEPS:06d}" / "model.safetensors").read_bytes()).hexdigest()


class User:
    """Types commands outside the cluster; `runs` of theirs is no directory of a pod."""

    def __init__(self, bed: K8sBed, space: Namespace, home: Path) -> None:
        assert space.runs is not None
        self.bed, self.space, self.home, self.volume = bed, space, home, space.runs
        self.losses: list[Loss] = []
        self.pace = Pace(self.volume)
        profiles = {
            "undisturbed": self._profile(),
            "paced": self._profile(paced=True),
            "paced-watched": self._profile(paced=True) | {"release": "watch"},
        }
        (home / "openrs.toml").write_text("".join(f"[clusters.{name}]\n{_toml(p)}" for name, p in profiles.items()))
        # The worker's rights are those of deploy/, no more.
        for item in yaml.safe_load_all((ROOT / "deploy" / "base" / "access.yaml").read_text()):
            bed.kubectl("apply", "-n", space.name, "-f", "-", stdin=json.dumps(item))

    def _profile(self, paced: bool = False) -> dict[str, Any]:
        environment = dict(self.space.environment)
        if paced:
            environment = Pace.environment(environment)
        volumes = [
            {"claim": claim, "path": path, "read_only": claim in self.space.read_only}
            for claim, path in self.space.volumes.items()
        ]
        return {
            "extends": "k8s",
            "namespace": self.space.name,
            "image": self.space.image,
            "python": self.space.python,
            "shared_root": self.space.volumes[RUNS_CLAIM],
            "volumes": volumes,
            "environment": environment,
            "lease_seconds": LEASE_SECONDS,
        }

    # --- commands ------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        return {**self.bed.environment(), "OPENRS_RUNS": str(self.home / "runs")}

    def openrs(self, *arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "openrs", *arguments]
        done = subprocess.run(command, cwd=self.home, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, f"openrs {' '.join(arguments)}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that goes on for a while."""
        return subprocess.Popen(
            [sys.executable, "-m", "openrs", *arguments],
            cwd=self.home,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def submit(self, run: str, cluster: str, *overrides: str) -> None:
        said = self.openrs("submit", "smoke", "--cluster", cluster, "--run", run, *options(*overrides))
        assert said.split()[0] == run

    def status(self, run: str) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.openrs("status", run, "--json"))["runs"][0]
        return status

    def stage(self, run: str, stage: str = "train") -> dict[str, Any]:
        return next(item for item in self.status(run)["stages"] if item["name"] == stage)

    # --- the run directory, which only a test sees -----------------------------------------------

    def directory(self, run: str) -> Path:
        return self.volume / "runs" / run

    def metrics(self, run: str) -> list[dict[str, Any]]:
        path = self.directory(run) / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def ledger(self, run: str, event: str, stage: str = "train") -> list[dict[str, Any]]:
        """Events of that kind, oldest first; the trainer's own (`training`) name no stage."""
        files = (self.directory(run) / "ledger").glob("*")
        found = [json.loads(line) for file in files for line in file.read_text().split("\n")[:-1]]
        mine = [item for item in found if item["event"] == event and item.get("stage", "train") == stage]
        return sorted(mine, key=lambda item: float(item["time"]))

    def writings(self, run: str) -> dict[str, int]:
        """Every file, and when it was written."""
        paths = (path for path in self.directory(run).rglob("*") if path.is_file())
        return {str(path): path.stat().st_mtime_ns for path in paths}

    # --- waiting -------------------------------------------------------------------------------

    def wait(self, ready: Callable[[], T | None], what: str, timeout: float = 120) -> T:
        deadline = time.monotonic() + timeout
        while not (result := ready()):
            if time.monotonic() > deadline:
                pods = "\n".join(describe(pod) for pod in self.bed.pods(self.space.name))
                raise BedError(f"no {what} after {timeout:g} s\n{pods}\n{self.output()}")
            time.sleep(0.1)
        return result

    def output(self) -> str:
        """The last lines of every pod that is there."""
        names = [pod["metadata"]["name"] for pod in self.bed.pods(self.space.name)]
        return "\n".join(f"--- {name}\n{self.bed.log(self.space.name, name, check=False)[-3000:]}" for name in names)

    def wait_for_end(self, run: str, state: str = "SUCCEEDED", timeout: float = 300) -> dict[str, Any]:
        """The server is asked for the Jobs, which is cheaper than the command; the command says what it was."""

        def ended() -> bool:
            ends = [states.finished(job) for job in self.jobs(run)]
            if state == "SUCCEEDED":
                return bool(ends) and all(ends)
            return any(ends)

        self.wait(ended, f"end of {run}", timeout)
        status = self.status(run)
        assert status["state"] == state, f"{status}\n{self.output()}"
        return status

    def jobs(self, run: str) -> list[dict[str, Any]]:
        path = f"/apis/batch/v1/namespaces/{self.space.name}/jobs"
        jobs: list[dict[str, Any]] = self.bed.request("GET", path, labelSelector=f"openrs.dev/run={run}")["items"]
        return jobs

    def in_mid_run(self, run: str, what: str, more: int = 2) -> Hit:
        """Waits until the newest attempt has itself finished `more` steps; says where it stands then."""

        def stands() -> Hit | None:
            starts, lines = self.ledger(run, "start"), self.metrics(run)
            done = [line["step"] for line in lines if starts and line["attempt"] == starts[-1]["attempt"]]
            return Hit(what, starts[-1]["attempt"], done[-1], time.time()) if len(done) >= more else None

        hit = self.wait(stands, f"attempt of {run} that trains, for {what}")
        assert 0 < hit.step < STEPS
        return hit

    def wait_for_step(self, run: str, step: int) -> None:
        self.wait(lambda: any(line["step"] >= step for line in self.metrics(run)), f"step {step} of {run}")

    def recovered(self, run: str, hit: Hit) -> int:
        """Waits for the first new step of another attempt, and notes the loss; the step from which that one began."""

        def new() -> dict[str, Any] | None:
            before = max((line["step"] for line in self.metrics(run) if line["attempt"] <= hit.attempt), default=0)
            later = [line for line in self.metrics(run) if line["attempt"] > hit.attempt]
            return next((line for line in later if line["step"] > max(before, hit.step)), None)

        line = self.wait(new, f"attempt of {run} after {hit.what}", 240)
        began = next(e for e in self.ledger(run, "training") if e["attempt"] == hit.attempt + 1)["from_step"]
        assert 0 < began < STEPS, f"{hit}: the next attempt began at step {began}"
        last = line["step"] - 1
        self.losses.append(Loss(hit.what, hit.step, began, last - began, round(line["time"] - hit.time, 1)))
        return int(began)

    # --- what must hold at the end -------------------------------------------------------------

    def check_whole(self, run: str, attempts: int, stages: Mapping[str, int]) -> None:
        """Every step once and in order, every cell once (`stages`: how many each has), nothing that is half done."""
        metrics = self.metrics(run)
        assert [line["step"] for line in metrics] == list(range(1, STEPS + 1))
        assert [line["attempt"] for line in metrics] == sorted(line["attempt"] for line in metrics)
        assert [event["attempt"] for event in self.ledger(run, "start")] == list(range(1, attempts + 1))
        for stage, cells in stages.items():
            starts = self.ledger(run, "start", stage)
            assert sorted(start["task"] for start in starts) == list(range(cells)), "a cell was evaluated twice"
        assert len(list((self.directory(run) / "eval").rglob("*.json"))) == sum(stages.values())
        status = self.status(run)
        assert {s["name"]: s["cells"]["done"] for s in status["stages"] if s["name"] in stages} == dict(stages)
        assert (status["step"], status["attempts"]) == (STEPS, attempts)
        self.check_tidy(run)

    def check_tidy(self, run: str) -> None:
        left = [path for path in self.directory(run).rglob(".*") if path.name != ".sending"]
        left += list((self.directory(run) / "lease").glob("*"))
        assert not left, f"left behind: {left}"

    def weights(self, run: str) -> str:
        return weights(self.directory(run))

    def table(self) -> str:
        """The losses, for a note."""
        rows = [list(asdict(loss).values()) for loss in self.losses]
        lines = ["disturbance | hit after step | next attempt from | steps again | seconds to the next new step"]
        return "\n".join([*lines, *(" | ".join(map(str, row)) for row in rows)])


# --- pods --------------------------------------------------------------------------------------


def pods_of(seen: list[Pod], run: str, stage: str = "train") -> dict[str, Pod]:
    """Name → the newest version of each pod of a stage, in the order of their making."""
    found = {}
    for pod in seen:
        labels = pod["metadata"].get("labels", {})
        if labels.get("openrs.dev/run") == run and labels.get("openrs.dev/stage") == stage:
            found[pod["metadata"]["name"]] = pod
    return found


def lost(pods: list[Pod], name: str) -> bool:
    """Whether the control plane has given that pod up, for its node does not answer."""
    versions = [pod for pod in pods if pod["metadata"]["name"] == name]
    conditions = [condition for pod in versions for condition in pod["status"].get("conditions", [])]
    return any(condition.get("reason") == states.LOST for condition in conditions)


def newest(seen: PodWatch, run: str) -> Pod:
    return list(pods_of(list(seen), run).values())[-1]


def wait_ended(seen: PodWatch, name: str, reason: str | None = None, seconds: float = 90) -> states.Ended:
    """How that pod's container ended; with `reason`, its DisruptionTarget must have been that."""

    def ended(pods: list[Pod]) -> states.Ended | None:
        mine = [pod for pod in pods if pod["metadata"]["name"] == name]
        conditions = [c for pod in mine for c in pod.get("status", {}).get("conditions", [])]
        reasons = {c.get("reason") for c in conditions if c["type"] == "DisruptionTarget" and c["status"] == "True"}
        if reason is not None and reason not in reasons:
            return None
        return next((found for pod in mine if (found := states.ended_of(pod)) is not None), None)

    return seen.until(ended, f"the end of {name}" + (f" by {reason}" if reason else ""), seconds)


def _toml(fields: Mapping[str, Any]) -> str:
    def value(item: Any) -> str:
        if isinstance(item, Mapping):
            return "{" + ", ".join(f"{key} = {value(each)}" for key, each in item.items()) + "}"
        if isinstance(item, list):
            return "[" + ", ".join(map(value, item)) + "]"
        return json.dumps(item)

    return "".join(f"{key} = {value(item)}\n" for key, item in fields.items()) + "\n"
