"""What pods printed, and their files: the ways from the cluster to a client that does not see the run directory."""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from openrs.engines import Job, LogGone, NodeAway, Place, PodLog
from openrs.engines.kubernetes.api import Api, Refused
from openrs.engines.kubernetes.manifest import CONTAINER, RUN, label_value, reader
from openrs.engines.kubernetes.states import waiting_words
from openrs.errors import BadInput, OpenRSError
from openrs.spec.cluster import Cluster

Object = dict[str, Any]

JOB_LABEL = "batch.kubernetes.io/job-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
"""Labels that the Job controller gives its pods."""

_TIMED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:")
"""How a line begins that was printed."""

START_SECONDS = 300
"""How long the reading pod may take to start."""


def pod_logs(api: Api, jobs: list[Job]) -> list[PodLog]:
    """The output of every pod of these Jobs that is still there, oldest first."""
    selector = f"{JOB_LABEL} in ({','.join(sorted(job.handle for job in jobs))})"
    pods = sorted(api.find("pods", labels=selector), key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
    arrays = {job.handle for job in jobs if job.tasks is not None}
    found = []
    for pod in pods:
        labels, name = pod["metadata"]["labels"], pod["metadata"]["name"]
        phase = pod.get("status", {}).get("phase")
        if phase == "Pending":
            continue  # it has printed nothing
        task = int(labels[INDEX_LABEL]) if labels[JOB_LABEL] in arrays else None
        found.append(PodLog(name, labels[JOB_LABEL], task, phase == "Running", partial(_read, api, name)))
    return found


def _read(api: Api, pod: str, since: str | None = None) -> str:
    query = {"timestamps": "true"} | ({"sinceTime": since} if since else {})
    try:
        text = api.log(pod, **query)
    except Refused as error:
        if error.status == 400 and "waiting" in str(error):  # it has not started yet
            return ""
        if error.status in (400, 404):
            raise LogGone(f"pod {pod} is gone") from None
        if error.status >= 500:  # what the server says when a kubelet does not answer it
            raise NodeAway(f"pod {pod}: its node does not answer") from None
        raise
    if text and not _TIMED.match(text):  # a kubelet that has removed the file says so in place of it
        raise LogGone(f"pod {pod} is gone")
    return text


def pull(api: Api, cluster: Cluster, place: Place, target: Path) -> int:
    """Copies the run directory, but for checkpoints, below `target`; the number of files.

    It is read through a pod of the run that runs, else through one that is made for this. Raises OpenRSError.
    """
    pod = _running_pod(api, place)
    if pod is not None:
        try:
            return _extract(_archive(api, pod, cluster, place), target)
        except _NoWayIn:  # its node may not answer, another one will
            pass
    made = _start_reader(api, cluster, place)
    try:
        return _extract(_archive(api, made, cluster, place), target)
    finally:
        api.delete("pods", made, grace=0)


class _NoWayIn(OpenRSError):
    """No command could be started in a pod."""


def _running_pod(api: Api, place: Place) -> str | None:
    pods = api.find("pods", labels=f"{RUN}={label_value(place.run)}", fields="status.phase=Running")
    usable = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return str(usable[0]["metadata"]["name"]) if usable else None


def _start_reader(api: Api, cluster: Cluster, place: Place) -> str:
    name = str(api.create("pods", reader(place, cluster))["metadata"]["name"])
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            pod = api.get("pods", name)
            if pod.get("status", {}).get("phase") == "Running":
                return name
            if time.monotonic() > deadline or pod.get("status", {}).get("phase") in ("Failed", "Succeeded"):
                words = waiting_words(pod) or "it did not start"
                raise OpenRSError(f"the pod {name}, which was to read the run directory: {words}")
            time.sleep(0.5)
    except BaseException:
        api.delete("pods", name, grace=0)
        raise


def _archive(api: Api, pod: str, cluster: Cluster, place: Place) -> Iterator[bytes]:
    """The bytes of a tar archive of the run directory. Raises OpenRSError where it did not come whole."""
    from kubernetes.client import ApiException, CoreV1Api
    from kubernetes.stream import stream
    from websocket import WebSocketException

    command = [cluster.python or "python3", "-m", "openrs.worker.archive", str(place.directory)]
    try:
        answer = stream(
            CoreV1Api(api.client).connect_get_namespaced_pod_exec,
            pod,
            api.namespace,
            container=CONTAINER,
            command=command,
            stdout=True,
            stderr=True,
            stdin=False,
            tty=False,
            binary=True,
            _preload_content=False,
        )
    except ApiException as error:
        status, words = _handshake(error)
        said = f"cannot read through pod {pod} ({words})"
        if status == 403:  # so it would be through another pod
            raise OpenRSError(f"{said}; the Role openrs-user of deploy/base grants it") from None
        raise _NoWayIn(said) from None
    complaint = b""
    try:
        while answer.is_open():
            answer.update(timeout=1)
            if answer.peek_stdout():
                yield answer.read_stdout()
            if answer.peek_stderr():
                complaint += answer.read_stderr()
        if answer.peek_stdout():  # what came with the last of standard error
            yield answer.read_stdout()
        code = _exit_code(answer)
    except (WebSocketException, OSError):
        code = None
    finally:
        answer.close()
    if code != 0:
        lines = complaint.decode(errors="replace").strip().splitlines()
        raise OpenRSError(f"{lines[-1] if lines else f'pod {pod} broke off while it was read'}")


def _handshake(error: Exception) -> tuple[int | None, str]:
    """Status and message of a refused WebSocket; the client keeps only a text of it all, with every header."""
    cause = error.__context__
    try:
        words = str(json.loads(getattr(cause, "resp_body", None) or "")["message"])
    except (ValueError, TypeError, KeyError):
        words = str(getattr(error, "reason", error)).partition(" -+-+- ")[0]
    return getattr(cause, "status_code", None), " ".join(words.split())[:300]


def _exit_code(answer: Any) -> int | None:
    """Of a command in a pod; None where the connection ended before it did."""
    try:
        return int(answer.returncode)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None


class _Stream(io.RawIOBase):
    """Chunks as a file to be read once from the start."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._left) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._left += chunk
        size = len(self._left) if size < 0 else size
        taken, self._left = self._left[:size], self._left[size:]
        return taken


def _extract(chunks: Iterator[bytes], target: Path) -> int:
    """Unpacks an archive as it comes, each file beside its place and then renamed; the number of files."""
    count = 0
    with tarfile.open(fileobj=cast("IO[bytes]", _Stream(chunks)), mode="r|") as archive:
        for member in archive:
            if not member.isfile():
                continue
            content = archive.extractfile(member)
            assert content is not None
            path = target / member.name
            if not path.resolve().is_relative_to(target.resolve()):
                raise BadInput(f"{member.name!r} in the run directory would be written outside of {target}")
            if member.name == "spec.json" and path.exists():
                if content.read() != path.read_bytes():
                    raise BadInput(
                        f"the run directory in the cluster is that of another run, with another spec than {path}; nothing was copied"
                    )
                continue
            if path.is_relative_to(target / "submission") and path.exists():
                continue  # what was sent is the client's to say; a pod writes a source.json of its own there
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.pulled")
            with open(temporary, "wb") as file:
                while block := content.read(1 << 20):
                    file.write(block)
            temporary.replace(path)
            count += 1
    for _ in chunks:  # what comes after the archive's end is how it ended
        pass
    return count
