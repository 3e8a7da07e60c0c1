"""A kubeconfig that is of no use, and servers that are not what they should be: one line, exit code 2.

The servers here are fakes that answer what a test says: an old API server and a proxy cannot be had. What a real server
refuses is in test_kubernetes_bed.py.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from openrs import launch
from openrs.engines import LogGone, NodeAway, Place
from openrs.engines.kubernetes import logs
from openrs.engines.kubernetes.api import Api, Refused
from openrs.engines.kubernetes.manifest import KUEUE_QUEUE
from openrs.errors import BadInput, OpenRSError
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Experiment
from openrs.spec.load import load_experiment
from tests.engines.test_kubernetes_render import K8S, SMOKE

Object = dict[str, Any]


def kubeconfig(path: Path, server: str, **user: Any) -> Path:
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": user}],
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u"}},
            {"name": "there", "context": {"cluster": "c", "user": "u", "namespace": "mine"}},
        ],
    }
    path.write_text(yaml.safe_dump(content))
    return path


def profile(path: Path, **fields: Any) -> Cluster:
    return Cluster.model_validate({**K8S.model_dump(), "kubeconfig": str(path), **fields})


def refusal(cluster: Cluster, runs: Path, experiment: Experiment = SMOKE) -> str:
    """What submit says, which must be one line and leave nothing behind."""
    with pytest.raises(BadInput) as refused:
        launch.submit(experiment, cluster, runs / "runs", "refused")
    assert str(refused.value).isprintable()
    assert not (runs / "runs").exists()
    return str(refused.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "config file is empty"),
        (b"[]", "the kubeconfig cannot be used"),
        (b"[1", "the kubeconfig cannot be used (while parsing"),
        (b"\xff\xfe", "the kubeconfig cannot be used"),
        (b"a: b", "Expected key current-context"),
        (b"current-context: x", "Expected object with name x"),
        (b"current-context: x\ncontexts: [{name: x}]", "Expected key"),
        (b"current-context: x\ncontexts: 3", "the kubeconfig cannot be used"),
    ],
)
def test_kubeconfigs_that_are_none(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(content)
    assert words in refusal(profile(tmp_path / "config"), tmp_path)


def test_no_kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    cluster = Cluster.model_validate({**K8S.model_dump(), "kubeconfig": None})
    assert "no kubeconfig: set KUBECONFIG, or kubeconfig in the profile" in refusal(cluster, tmp_path)
    assert "kubeconfig: the file" in refusal(profile(tmp_path / "none"), tmp_path)


def test_contexts(tmp_path: Path) -> None:
    config = kubeconfig(tmp_path / "config", "https://127.0.0.1:1")
    said = refusal(profile(config, context="nope"), tmp_path)
    assert "context = 'nope' is not in the kubeconfig; `kubectl config get-contexts`" in said
    assert Api.of(profile(config, namespace=None)).namespace == "default"
    assert Api.of(profile(config, namespace=None, context="there")).namespace == "mine"
    assert Api.of(profile(config, namespace="own", context="there")).namespace == "own"


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    cluster = profile(kubeconfig(tmp_path / "config", "https://127.0.0.1:1"))
    assert "(https://127.0.0.1:1): the API server does not answer (" in refusal(cluster, tmp_path)
    with pytest.raises(OpenRSError) as failed:
        Api.of(cluster).find("jobs")
    assert not isinstance(failed.value, BadInput), "of a run that is there, it is no mistake of who asks"


def test_a_program_for_credentials_that_does_not_work(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": "no-such-program",
        "interactiveMode": "Never",
    }
    said = refusal(profile(kubeconfig(tmp_path / "config", "https://127.0.0.1:1", exec=program)), tmp_path)
    assert "the kubeconfig's program for credentials gave none (" in said and "no-such-program" in said
    assert capfd.readouterr().err == "", "the client would print a line of its own"


class Server(BaseHTTPRequestHandler):
    """Answers `version`, takes what is created without the fields in `drops`, Jobs with `labels`, and keeps what was asked."""

    version: ClassVar[Object] = {"major": "1", "minor": "34"}
    drops: ClassVar[tuple[str, ...]] = ()
    labels: ClassVar[dict[str, str]] = {}
    page: ClassVar[bytes | None] = None
    refuses: ClassVar[tuple[str, ...]] = ()
    asked: ClassVar[list[str]] = []
    dies: ClassVar[bool] = False
    """In the middle of an answer, as one that is restarted."""

    def do_GET(self) -> None:
        self._answer(self.version if self.path == "/version" else {"items": []})

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if content.get("kind") in self.refuses:
            return self._answer({"message": "no room\nfor it", "reason": "Invalid"}, 422)
        content.setdefault("metadata", {})["uid"] = "u-1"
        for field in self.drops:
            content.get("spec", {}).pop(field, None)
        if content.get("kind") == "Job":
            content["metadata"]["labels"] = self.labels | content["metadata"]["labels"]
        self._answer(content, 201)

    do_PATCH = do_POST

    def do_DELETE(self) -> None:
        status = 403 if "Delete" in self.refuses else 200
        self._answer({"message": 'cannot delete resource "jobs"', "reason": "Forbidden"}, status)

    def _answer(self, content: Object, status: int = 200) -> None:
        self.asked.append(f"{self.command} {self.path}")
        body = json.dumps(content).encode() if self.page is None else self.page
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + 100 * self.dies))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def serving(base: type[Server], path: Path, **answers: Any) -> Iterator[tuple[type[Server], Cluster]]:
    """A class whose variables say what is answered, and a profile that asks it."""
    handler = type("Fake", (base,), {"asked": [], **answers})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield handler, profile(kubeconfig(path / "config", f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
        thread.join()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[tuple[type[Server], Cluster]]:
    """Such a server, which answers as any does."""
    with serving(Server, tmp_path) as found:
        yield found


def test_a_server_that_is_too_old(fake: tuple[type[Server], Cluster], tmp_path: Path) -> None:
    server, cluster = fake
    server.version = {"major": "1", "minor": "28+"}
    said = refusal(cluster, tmp_path)
    assert "1.28 is older than 1.29 and cannot promise that no second trainer starts" in said
    assert "allow_old_server" in said
    assert server.asked == ["GET /version"]


@pytest.mark.parametrize("field", ["podReplacementPolicy", "podFailurePolicy", "backoffLimitPerIndex"])
def test_a_server_that_drops_a_field(field: str, fake: tuple[type[Server], Cluster], tmp_path: Path) -> None:
    server, cluster = fake
    server.drops = (field,)
    said = refusal(cluster, tmp_path)
    assert f"the server dropped {field}, and with it the promise that " in said
    made = [line for line in server.asked if line.startswith("POST") and "/jobs?" in line]
    gone = [line for line in server.asked if line.startswith("DELETE")]
    assert len(gone) == len(made), "what was made is taken back"


@pytest.mark.parametrize("queue", [None, "a40"])
def test_a_queue_that_takes_every_job(queue: str | None, fake: tuple[type[Server], Cluster], tmp_path: Path) -> None:
    """As Kueue does where there is a LocalQueue `default`; its controller is not at hand."""
    server, cluster = fake
    server.labels = {KUEUE_QUEUE: "default"}
    cluster = cluster.model_copy(update={"queue": queue})
    said = refusal(cluster, tmp_path, load_experiment("smoke", ["evaluation.at_steps=[40]"]))
    assert (
        "put Job refused-eval-1 into the Kueue queue 'default', which would start it before refused-train-1 is done"
        in said
    )
    assert "set namespace in the profile to one without a LocalQueue of this name" in said
    made = [line for line in server.asked if line.startswith("POST") and "/jobs?" in line]
    gone = [line for line in server.asked if line.startswith("DELETE")]
    assert len(gone) == len(made) == 3 and not [line for line in server.asked if line.startswith("PATCH")]
    assert launch.submit(SMOKE, cluster, tmp_path / "runs", "at-once").submissions, (
        "what waits for nothing may be queued"
    )


def test_an_old_server_by_leave_of_the_profile(fake: tuple[type[Server], Cluster], tmp_path: Path) -> None:
    server, cluster = fake
    server.version, server.drops = {"major": "1", "minor": "27"}, ("podReplacementPolicy",)
    record = launch.submit(SMOKE, cluster.model_copy(update={"allow_old_server": True}), tmp_path / "runs", "old")
    assert len(record.submissions[0].stages) == 3 - (not SMOKE.evaluation.at_steps)
    sent = [line for line in server.asked if line.startswith("POST") and "/jobs?" in line]
    assert all("fieldValidation=Warn" in line for line in sent), "Strict would refuse the field that it does not know"


def test_a_proxy_that_answers_instead(fake: tuple[type[Server], Cluster], tmp_path: Path) -> None:
    server, cluster = fake
    for page in (b"<html>Log in</html>", b"[]", b"{}", b'{"major": "one", "minor": null}'):
        server.page = page
        assert "what answers there is no Kubernetes API server" in refusal(cluster, tmp_path)


def test_a_server_that_dies_in_mid_answer(fake: tuple[type[Server], Cluster]) -> None:
    server, cluster = fake
    server.dies, api = True, Api.of(cluster)
    for ask in (lambda: api.find("jobs"), lambda: api.log("p")):
        with pytest.raises(OpenRSError, match="the API server does not answer"):
            ask()


@pytest.mark.parametrize("frame", [b"", b"\x82\x7e\x10\x00\x01some of an archive", b"\xff\xff"])
def test_a_connection_that_breaks_in_mid_pull(frame: bytes, fake: tuple[type[Server], Cluster], tmp_path: Path) -> None:
    """A frame of RFC 6455 that is cut, or none."""
    server, cluster = fake

    def upgrade(self: Server) -> None:
        if "/exec" not in self.path:
            return self._answer({"items": [{"metadata": {"name": "p"}}]})
        accepted = sha1((self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        self.send_response(101)
        for name, value in (
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", b64encode(accepted).decode()),
            ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(frame)
        self.close_connection = True

    server.do_GET = upgrade  # type: ignore[method-assign]
    with pytest.raises(OpenRSError, match="pod p broke off while it was read"):
        logs.pull(Api.of(cluster), cluster, Place("broken", tmp_path / "run"), tmp_path / "here")


def test_what_cannot_be_taken_back_is_named(fake: tuple[type[Server], Cluster], tmp_path: Path) -> None:
    server, cluster = fake
    server.refuses = ("ConfigMap", "Delete")
    said = refusal(cluster, tmp_path)
    assert "no room for it" in said
    assert "left behind: `kubectl delete job refused-base-1`" in said


class Kubelet:
    """Answers a request for a log: with a text, or with a refusal."""

    def __init__(self, answer: str | Refused) -> None:
        self.answer = answer

    def log(self, pod: str, **query: str) -> str:
        if isinstance(self.answer, Refused):
            raise self.answer
        return self.answer


def test_what_a_kubelet_says_in_place_of_a_log() -> None:
    """Each as Kubernetes 1.34 said it."""

    def read(answer: str | Refused) -> str:
        return logs._read(Kubelet(answer), "p")  # type: ignore[arg-type]

    line = "2026-11-24T23:34:20.123456789Z openrs: mine/train: attempt 1 on node-a\n"
    assert read(line) == line and read("") == ""
    assert read(Refused('container "worker" in pod "p" is waiting to start: ContainerCreating', 400)) == ""
    for gone in (
        'failed to try resolving symlinks in path "/var/log/pods/openrs_p/worker/0.log": lstat: no such file or directory',
        "unable to retrieve container logs for containerd://5c1f",
        Refused('pods "p" not found', 404),
    ):
        with pytest.raises(LogGone):
            read(gone)
    with pytest.raises(NodeAway):
        read(Refused("Get https://10.240.0.11:10250/containerLogs/…: dial tcp: i/o timeout", 500))
    with pytest.raises(Refused):
        read(Refused('pods "p" is forbidden', 403))


def test_another_runs_directory_is_not_pulled(tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    for directory, spec in ((there, "theirs"), (here, "ours")):
        directory.mkdir()
        (directory / "spec.json").write_text(spec)
    (there / "ledger").mkdir()
    (there / "ledger" / "a.jsonl").write_text("{}\n")
    done = subprocess.run(
        [sys.executable, "-m", "openrs.worker.archive", str(there)], capture_output=True, check=True, timeout=60
    )
    with pytest.raises(BadInput, match="another run, with another spec"):
        logs._extract(iter([done.stdout]), here)
    assert [path.name for path in here.iterdir()] == ["spec.json"] and (here / "spec.json").read_text() == "ours"
    (there / "spec.json").write_text("ours")
    done = subprocess.run([*done.args], capture_output=True, check=True, timeout=60)
    assert logs._extract(iter([done.stdout]), here) == 1 and (here / "ledger" / "a.jsonl").exists()
