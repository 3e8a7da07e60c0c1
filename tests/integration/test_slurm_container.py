"""A run in its image on a real Slurm: `srun --container` with runc, the smoke image, killed and asked to stop, resumed, whole.

submitit and the requeue are outside, as on a cluster; torch is inside only.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openrs.images import store
from openrs.spec.cluster import Cluster
from tests.images.plugin import Built, run
from tests.integration.test_slurm_smoke import User
from tests.testbed.slurm import SlurmBed

pytestmark = [pytest.mark.slurm, pytest.mark.train, pytest.mark.timeout(900)]

STEPS = 16
SETTINGS = [
    f"training.steps={STEPS}",
    "checkpoint.every_steps=2",
    f"evaluation.at_steps=[{STEPS}]",
    "evaluation.base=false",
    "evaluation.benchmarks.0.data.count=20",
    "recovery.grace_seconds=25",
]


class Inside(User):
    """A user whose profile has the smoke image."""

    def __init__(self, bed: SlurmBed, home: Path, image: Built) -> None:
        super().__init__(bed, home)
        self.image = f"registry.example/openrs/smoke@{image.digest}"
        self.root = home / "shared"
        self.root.mkdir()
        pace = Path(__file__).parent / "slow_saves"
        shutil.copytree(pace, self.root / "pace")
        fields: dict[str, Any] = {
            "container": "oci",
            "image": self.image,
            "shared_root": str(self.root),
            "lease_seconds": 8,
            "setup": [f"export PYTHONPATH={self.root / 'pace'}"],
        }
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in fields.items())
        text += 'environment = { SECONDS_A_FILE = "0.05" }\n'
        with open(home / "openrs.toml", "a") as file:
            file.write(f'[clusters.inside]\nextends = "slurm"\n{text}')

    def submit(self, run: str, cluster: str, *overrides: str) -> None:
        options = [word for value in (*SETTINGS, *overrides) for word in ("--set", value)]
        assert self.openrs("submit", "smoke", "--cluster", cluster, "--run", run, *options).split()[0] == run

    def directory(self, run: str) -> Path:
        return self.root / "runs" / run

    def metrics(self, run: str) -> list[dict[str, Any]]:
        path = self.directory(run) / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def ends(self, run: str) -> list[tuple[int, str]]:
        files = (self.directory(run) / "ledger").glob("*")
        events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        ended = sorted(
            (e for e in events if e["event"] == "end" and e["stage"] == "train"), key=lambda e: float(e["time"])
        )
        return [(event["code"], event["reason"]) for event in ended]


@pytest.fixture(scope="module")
def user(slurm_bed: SlurmBed, smoke_image: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    slurm_bed.reset()
    user = Inside(slurm_bed, tmp_path_factory.mktemp("inside"), smoke_image)
    done = run("images", "fetch", "--cluster", "inside", "--layout", smoke_image.layout, "--json", cwd=user.home)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] == smoke_image.digest
    yield user
    slurm_bed.reset()
    shutil.rmtree(user.root / "images")  # 2 GB, which pytest would keep


def test_stopped_killed_and_whole(user: Inside) -> None:
    """A request to stop by signal, then a power cut; each time the next attempt goes on in the same image."""
    name = "inside"
    user.submit(name, "inside")
    user.wait(lambda: len(user.metrics(name)) >= 3, 300, "third step")
    handle = user.handle(name)
    user.bed.run("scancel", "--signal=USR2", handle)
    user.wait(lambda: len(user.ends(name)) == 1, 120, "end of the first attempt")
    assert user.ends(name) == [(75, "stopped (SIGUSR2)")], "the signal came through runc"
    saved = len(user.metrics(name))
    kept, before = user.directory(name) / "checkpoints", f"step-{saved:06d}"
    user.wait(lambda: any(path.name > before for path in kept.glob("step-*")), 300, "a second attempt's checkpoint")
    node = user.bed.job(handle)["NodeList"]
    user.bed.kill_node(node, notice=True)
    killed = len(user.metrics(name))
    user.wait(lambda: len(user.metrics(name)) > killed, 300, "third attempt")
    user.bed.start_node(node)
    user.wait_for_end(name)
    lines = user.metrics(name)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["attempt"] for line in lines[:saved]] == [1] * saved and lines[saved]["attempt"] == 2
    assert [row["State"].split()[0] for row in user.rows(name)] == ["REQUEUED", "NODE_FAIL", "COMPLETED"]
    lock = json.loads((user.directory(name) / "lock.json").read_text())
    assert lock["image"] == user.image
    assert lock["image_facts"]["image"] == "smoke" and "vllm" not in lock["distributions"]
    assert len(list((user.directory(name) / "eval").rglob("*.json"))) == 1


def test_tampered_image_is_refused(user: Inside) -> None:
    """Whatever was changed since it was fetched: the job ends with 78 and one line, and is not tried again."""
    place = store.directory(
        Cluster(name="inside", engine="slurm", container="oci", image=user.image, shared_root=str(user.root))
    )
    touched = next((place / "rootfs" / "opt" / "openrs").rglob("transformers/__init__.py"))
    before = touched.read_bytes()
    times = touched.stat()
    touched.write_bytes(before + b"\n# changed\n")
    user.submit("tampered", "inside")
    user.wait_for_end("tampered", "FAILED")
    (end,) = user.ends("tampered")
    assert end[0] == 78 and "was changed since it was fetched" in end[1]
    assert user.bed.job(user.handle("tampered"))["ExitCode"] == "78:0"
    assert "was changed since it was fetched" in user.openrs("status", "tampered")
    touched.write_bytes(before)
    os.utime(touched, ns=(times.st_atime_ns, times.st_mtime_ns))
    store.check(place, user.image.rpartition("@")[2])


def test_wrong_lock_is_refused(user: Inside) -> None:
    """The code that was sent has another uv.lock than the image was built from."""
    user.submit("foreign", "inside", "training.steps=2", "evaluation.at_steps=[2]")
    source = user.directory("foreign") / "submission" / "1" / "source.json"
    content = json.loads(source.read_text())
    source.write_text(json.dumps({**content, "uv_lock_sha256": "0" * 64}))
    user.wait_for_end("foreign", "FAILED")
    (end,) = user.ends("foreign")
    assert end[0] == 78 and "built from another uv.lock" in end[1]
