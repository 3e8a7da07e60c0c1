"""The smoke image on a real Kubernetes: by digest, under Pod Security `restricted`, its node's power cut once, whole.

Nothing of this machine is mounted but the volume for runs: code, Python and torch are the image's.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.images.plugin import Built
from tests.integration.k8s_user import Reference, User, newest, wait_ended
from tests.testbed.k8s.bed import K8sBed
from tests.testbed.k8s.client import RUNS_CLAIM, unique

pytestmark = [pytest.mark.k8s, pytest.mark.train, pytest.mark.timeout(900)]

NODE = "node-a"


@pytest.fixture(scope="module")
def user(
    reference: Reference, k8s_bed: K8sBed, smoke_image: Built, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[User]:
    """Somebody whose profile has the image; one node holds it, as if it had pulled it."""
    name = "localhost/openrs-smoke"
    tar = tmp_path_factory.mktemp("image") / "smoke.tar"
    subprocess.run(
        ["skopeo", "copy", "--quiet", f"oci:{smoke_image.layout}", f"oci-archive:{tar}:{name}:1"], check=True
    )
    k8s_bed.nodes[NODE].load(tar)
    tar.unlink()
    space = k8s_bed.namespace(unique("image"))
    environment = {key: value for key, value in space.environment.items() if key != "PYTHONPATH"}
    inside = replace(
        space,
        image=f"{name}@{smoke_image.digest}",
        python="python3",
        volumes={RUNS_CLAIM: space.volumes[RUNS_CLAIM]},
        read_only=frozenset(),
        environment=environment,
    )
    k8s_bed.kubectl("cordon", "node-b")  # it does not have the image
    yield User(k8s_bed, inside, tmp_path_factory.mktemp("user"))
    k8s_bed.restore()
    k8s_bed.kubectl("uncordon", "node-b")
    k8s_bed.delete_namespace(space.name)


def test_killed_and_whole(user: User, reference: Reference) -> None:
    run, bed = "image", user.bed
    with bed.watch_pods(user.space.name) as seen:
        user.pace(run, 0.1)
        user.submit(run, "paced")
        (job,) = [job for job in user.jobs(run) if job["metadata"]["name"] == f"{run}-train-1"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["image"] == user.space.image and container["imagePullPolicy"] == "IfNotPresent"
        hit = user.in_mid_run(run, "power cut", more=5)
        pod = newest(seen, run)
        bed.stop(NODE)
        bed.start(NODE)
        wait_ended(seen, pod["metadata"]["name"])
        user.pace(run, 0)
        user.recovered(run, hit)
        user.wait_for_end(run)
    user.check_whole(run, attempts=2, stages={"eval": 1})
    lock = json.loads((user.directory(run) / "lock.json").read_text())
    assert lock["image"] == user.space.image
    assert lock["image_facts"]["image"] == "smoke"
    assert user.weights(run) == reference.weights(), "torch without its GPU code computes the same on a CPU"


def test_another_image_is_refused(user: User) -> None:
    """An attempt in another image than the run began in ends with 78 and one line, and there is no further one."""
    run = "other"
    with user.bed.watch_pods(user.space.name) as seen:
        user.pace(run, 0.1)
        user.submit(run, "paced")
        user.in_mid_run(run, "another image")
        lock = user.directory(run) / "lock.json"
        began = f"{user.space.image.rpartition('@')[0]}@sha256:{'0' * 64}"
        lock.write_text(json.dumps({**json.loads(lock.read_text()), "image": began}))
        user.bed.kubectl("delete", "pod", newest(seen, run)["metadata"]["name"], "-n", user.space.name, "--wait=false")
        user.wait_for_end(run, "FAILED")
    last = user.ledger(run, "end")[-1]
    assert last["code"] == 78 and last["attempt"] == 2
    assert f"image {began} → {user.space.image}" in last["reason"]
