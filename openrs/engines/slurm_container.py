"""Containers on Slurm: the script that starts the supervisor in the image, from `slurm/container.<runtime>.sh.j2`.

Outside stay submitit and the requeue; inside run the supervisor and its ranks, which speak exit codes and the run directory.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from openrs.engines import Place
from openrs.errors import BadInput
from openrs.images import store
from openrs.plan import Stage
from openrs.resources import template
from openrs.spec.cluster import Cluster

IN_A_STEP = ("pyxis", "oci")
"""Runtimes that srun starts."""

PASSED = ("PYTHONPATH", "OPENRS_HANDLE", "OPENRS_IMAGE", "CUDA_VISIBLE_DEVICES")
"""Variables of the host that the supervisor gets beside SLURM_*; the rest of its environment is the image's."""


def check_secrets(secrets: dict[str, str], cluster: Cluster) -> None:
    """Raises BadInput for a file that the supervisor, which reads it inside, would not see; `~` is not the user's there."""
    for name, reference in secrets.items():
        path = Path(reference.partition(":")[2])
        if not any(path.is_relative_to(inside) for _, inside in store.mounts(cluster)):
            raise BadInput(
                f"secrets.{name} = {reference}: not to be seen in the container; name the file by its whole path, below shared_root or "
                f"one of container_mounts of cluster {cluster.name}"
            )


def launcher(stage: Stage, place: Place, cluster: Cluster) -> str:
    """The script: its arguments are those of the image's Python. Raises BadInput for an image or a mount that is missing."""
    assert cluster.container is not None
    image, directory, mounts = store.reference(cluster), store.directory(cluster), store.mounts(cluster)
    seen = [Path(inside) for _, inside in mounts]
    for path in map(Path, [*stage.mounts, str(place.directory)]):
        if not any(path.is_relative_to(mount) for mount in seen):
            raise BadInput(
                f"cluster {cluster.name}: the job must see {path}, which is below none of shared_root and container_mounts; "
                f'add it: container_mounts = ["{path}"]'
            )
    for path in seen:
        if set(":,") & set(str(path)):
            raise BadInput(
                f"cluster {cluster.name}: {path} has a ':' or ',', which no container runtime takes in a mount"
            )
    return template("slurm", f"container.{cluster.container}.sh.j2").render(
        run=place.run,
        stage=stage,
        submission=place.submission,
        image=shlex.quote(image),
        digest=image.rpartition("@")[2],
        store=shlex.quote(str(directory)),
        content=shlex.quote(str(directory / store.CONTENT[cluster.container])),
        stage_file=shlex.quote(str(place.directory / "submission" / str(place.submission) / stage.name / "stage.json")),
        mounts=shlex.quote(",".join(f"{outside}:{inside}" for outside, inside in mounts)),
        passed=",".join(PASSED),
        gpus=stage.resources.gpus,
        cpus=stage.resources.cpus,
        host_python=shlex.quote(cluster.python or sys.executable),
        python=shlex.quote(cluster.container_python),
    )
