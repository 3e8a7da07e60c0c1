"""The commands on a real Kubernetes whose run directories the client does not see: logs, pull, watch, diff, cancel."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.pace import Pace
from tests.testbed.k8s.bed import K8sBed
from tests.testbed.k8s.client import RUNS_CLAIM, K8sCluster, Namespace, unique

pytestmark = [pytest.mark.k8s, pytest.mark.train, pytest.mark.slow]

SMALL = [
    "evaluation.base=false",
    "evaluation.benchmarks.0.data.count=8",
    "evaluation.benchmarks.0.sampling.max_new_tokens=8",
    "training.prompts_per_step=2",
    "training.completions_per_prompt=2",
    "training.micro_batch=4",
    "checkpoint.every_steps=1",
]


@dataclass
class Client:
    """The command line on a machine that sees nothing of the cluster's volumes."""

    directory: Path
    space: Namespace
    cluster: K8sCluster

    def start(self, *args: str) -> subprocess.Popen[str]:
        """A command that goes on by itself."""
        environment = {key: value for key, value in self.cluster.environment().items() if key != "OPENRS_RUNS"}
        return subprocess.Popen(
            [sys.executable, "-m", "openrs", *args],
            cwd=self.directory,
            env=environment | {"XDG_CONFIG_HOME": str(self.directory / "no-config")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *args: str, code: int = 0, timeout: float = 420) -> tuple[str, str]:
        """What a command says on standard output and standard error."""
        process = self.start(*args)
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
        assert process.returncode == code, (args, out, err)
        return out, err

    def submit(self, run: str, steps: int, at: list[int], cluster: str = "mine") -> None:
        """Sends a small smoke."""
        settings = [*SMALL, f"training.steps={steps}", f"evaluation.at_steps={at}"]
        words = [word for setting in settings for word in ("--set", setting)]
        out, _ = self.call("submit", "smoke", "--cluster", cluster, "--run", run, *words)
        assert out == f"{run}\n"

    def state(self, run: str) -> dict[str, Any]:
        """`status` of one run."""
        found: dict[str, Any] = json.loads(self.call("status", run, "--json")[0])["runs"][0]
        return found

    def until(self, run: str, number: int, seconds: float = 180, count: str = "step") -> None:
        """Waits for a training step, or for that many `attempts`."""
        deadline = time.monotonic() + seconds
        while (state := self.state(run))[count] < number:
            assert time.monotonic() < deadline, state
            time.sleep(0.5)


@pytest.fixture(scope="module")
def client(k8s_cluster: K8sCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    space = k8s_cluster.namespace(unique("cli"))
    directory = tmp_path_factory.mktemp("client")
    profile = {
        "extends": "k8s",
        "namespace": space.name,
        "image": space.image,
        "python": space.python,
        "shared_root": space.volumes[RUNS_CLAIM],
        "lease_seconds": 4,
        "release": "watch",
    }
    volumes = ", ".join(
        f"{{claim = {json.dumps(claim)}, path = {json.dumps(path)}, read_only = {json.dumps(claim in space.read_only)}}}"
        for claim, path in space.volumes.items()
    )
    lines = [f"{key} = {json.dumps(value)}" for key, value in profile.items()]
    lines += [f"volumes = [{volumes}]", f"environment = {_table(space.environment)}"]
    paced = ["[clusters.paced]", 'extends = "mine"', f"environment = {_table(Pace.environment(space.environment))}"]
    (directory / "openrs.toml").write_text("\n".join(["[clusters.mine]", *lines, *paced]) + "\n")
    yield Client(directory, space, k8s_cluster)
    k8s_cluster.delete_namespace(space.name)


def _table(variables: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name} = {json.dumps(value)}" for name, value in variables.items()) + "}"


def steps_printed(out: str) -> list[tuple[int, int]]:
    """(Attempt, step) of each progress line."""
    lines = [json.loads(line) for line in out.splitlines() if line.startswith('{"step"')]
    return [(line["attempt"], line["step"]) for line in lines]


def test_a_run_from_outside(client: Client) -> None:
    """Nobody in the cluster releases the evaluation: `watch` does, and shows what it pulled."""
    client.submit("seen", 2, [2])
    _, err = client.call("logs", "seen", "eval", code=1)
    assert err == "openrs: run seen: stage eval is PENDING (waits for seen-train-1)\n"
    follower = client.start("logs", "seen", "-f")
    try:
        out, err = client.call("watch", "seen")
        followed, complaints = follower.communicate(timeout=60)
    finally:
        follower.kill()
    assert "train: step" in err and "eval: 1/1 cells" in err
    assert re.search(r"^sums-held-out +step 2 +1 × 8 ", out, re.MULTILINE)
    run = client.directory / "runs" / "seen"
    assert (run / "metrics.jsonl").is_file() and not (run / "checkpoints").exists()
    assert {stage["name"]: stage["state"] for stage in client.state("seen")["stages"]} == {
        "train": "SUCCEEDED",
        "eval": "SUCCEEDED",
    }
    assert follower.returncode == 0
    assert all(line.startswith("openrs: seen: stage train is PENDING (") for line in complaints.splitlines()), (
        complaints
    )
    assert steps_printed(followed) == [(1, 1), (1, 2)]
    assert "==> eval/task-0-attempt-1/seen-eval-1-0-" in followed
    assert followed.count("openrs: seen/train: attempt 1 on ") == 1
    # The same from the pod that has ended, and from the pulled file when it is gone.
    logs = json.loads(client.call("logs", "seen", "train", "--json")[0])
    assert logs["attempt"] == 1 and steps_printed(logs["files"][0]["text"]) == [(1, 1), (1, 2)]
    assert client.call("logs", "seen", "train", "--attempt", "2", code=2)[1].count("\n") == 1
    sent = (run / "submission" / "1" / "source.json").read_text()
    out, _ = client.call("pull", "seen", "--json")
    assert json.loads(out)["files"] > 10
    assert (run / "submission" / "1" / "source.json").read_text() == sent
    client.cluster.kubectl("delete", "job", "-n", client.space.name, "-l", "openrs.dev/run=seen", "--wait=true")
    logs = json.loads(client.call("logs", "seen", "train", "--json")[0])
    assert [file["name"] for file in logs["files"]] == ["attempt-1/rank-0.log", "attempt-1/supervisor.log"]
    assert client.state("seen")["state"] == "SUCCEEDED"


def test_logs_follow_through_a_server_that_restarts_and_a_pod_that_is_replaced(k8s_bed: K8sBed, client: Client) -> None:
    assert client.space.runs is not None
    pace = Pace(client.space.runs)
    pace("follow", 0.5)  # a step lasts some four seconds: of forty, enough are left when the server is back
    client.submit("follow", 40, [40], "paced")
    follower = client.start("logs", "follow", "train", "-f")
    try:
        client.until("follow", 3)
        with k8s_bed.without("kube-apiserver"):
            time.sleep(3)
        k8s_bed.kubectl(
            "delete",
            "pod",
            "-n",
            client.space.name,
            "-l",
            "openrs.dev/run=follow,openrs.dev/stage=train",
            "--wait=false",
        )
        client.until("follow", 2, count="attempts")  # a kubelet takes its time after a restart of the server
        pace("follow", 0)
        out, err = follower.communicate(timeout=420)
    finally:
        follower.kill()
    assert follower.returncode == 0, err
    printed = steps_printed(out)
    assert len(printed) == len(set(printed))  # none twice
    assert [step for _, step in printed if step == 40] == [40]
    first, second = ([step for number, step in printed if number == attempt] for attempt in (1, 2))
    assert first == list(range(1, len(first) + 1)) and second == list(range(second[0], 41))
    assert second[0] > 1  # the pod was deleted in mid-run, and the next went on
    # Between two readings a pod may print and vanish; then it is said.
    assert second[0] <= len(first) + 1 or "is gone" in err
    assert "==> train/attempt-1/follow-train-1-0-" in out and "==> train/attempt-2/follow-train-1-0-" in out
    assert all(line.startswith("openrs: ") for line in err.splitlines())
    gone, _ = client.call("logs", "follow", "train", "--attempt", "2")
    assert "follow/train: attempt 2 on " in gone
    assert "`openrs pull follow`" in client.call("logs", "follow", "train", "--attempt", "1", code=2)[1]
    client.call("pull", "follow")
    old, _ = client.call("logs", "follow", "train", "--attempt", "1")
    assert "attempt 1 ended with code 75" in old and max(step for _, step in steps_printed(old)) >= len(first)


def test_diff_against_the_server(client: Client) -> None:
    client.submit("differ", 2, [2])
    assert client.call("diff", "differ", "--exit-code")[0] == "differ: a submit now would send the same\n"
    out, _ = client.call("diff", "differ", "--set", "resources.memory_gb=4", "--exit-code", code=1)
    assert "--- sent/train/job.yaml" in out and "--- server/train/job.yaml" in out
    server = out[out.index("--- server/") :]
    assert re.search(r'^-\s+memory: "?4Gi', server, re.MULTILINE) and re.search(
        r'^\+\s+memory: "?5Gi', server, re.MULTILINE
    )
    assert "uid" not in server and "resourceVersion" not in server  # only what would be sent
    _, err = client.call("cancel", "differ")
    assert all("waiting until it has saved" in line for line in err.splitlines())
    found = json.loads(client.call("diff", "differ", "--json")[0])
    assert not found["different"] and set(found["server"]["gone"]) == {f"{s}/job.yaml" for s in ("train", "eval")}


def test_what_cannot_start_is_said_while_it_is_followed(client: Client) -> None:
    out, _ = client.call("submit", "smoke", "--cluster", "mine", "--run", "big", "--set", "resources.cpus=512")
    assert out == "big\n"
    follower = client.start("logs", "big", "train", "-f")
    try:
        assert follower.stderr is not None
        os.set_blocking(follower.stderr.fileno(), True)
        line = follower.stderr.readline()
    finally:
        follower.kill()
        follower.communicate()
    assert "stage train is PENDING (" in line
    table, _ = client.call("status", "big")
    assert "Unschedulable" in table and "Insufficient cpu" in table and "ask for less" in table
    client.call("cancel", "big")
    assert client.state("big")["state"] == "CANCELLED"
