"""The way to the API server and back: proxies, kubeconfigs, servers that ask to wait, and answers that say nothing.

The servers are the fakes of test_kubernetes_api.py: a real one cannot be had to break off at a chosen request.
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from urllib3.exceptions import InsecureRequestWarning

from openrs import launch
from openrs.engines import Job, Place, StillStopping
from openrs.engines.kubernetes import KubernetesEngine, compare, logs
from openrs.engines.kubernetes.api import Api, Refused
from openrs.engines.kubernetes.manifest import SENDING
from openrs.errors import OpenRSError
from openrs.spec.cluster import Cluster
from tests.engines.test_kubernetes_api import Server, fake, kubeconfig, profile, serving
from tests.engines.test_kubernetes_render import SMOKE

Object = dict[str, Any]
Fake = tuple[type[Server], Cluster]

__all__ = ["fake"]

DEAD = "http://127.0.0.1:1"


def edited(cluster: Cluster, server: Object, **top: Any) -> None:
    """Changes a profile's kubeconfig: fields of its cluster, and of the whole; None takes one out."""
    path = Path(str(cluster.kubeconfig))
    content = yaml.safe_load(path.read_text())
    content["clusters"][0]["cluster"] |= server
    path.write_text(yaml.safe_dump({key: value for key, value in (content | top).items() if value is not None}))


@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_no_proxy_is_heeded(name: str, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    server, cluster = fake
    for other in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv(name, "elsewhere,127.0.0.1")
    assert Api.of(cluster).find("jobs") == []


def test_no_proxy_is_heeded_in_a_pod(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes import config

    monkeypatch.setattr(config, "load_incluster_config", lambda client_configuration: None)
    monkeypatch.setattr("openrs.engines.kubernetes.api._ACCOUNT", tmp_path)
    (tmp_path / "namespace").write_text("mine\n")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    assert Api.in_pod().client.configuration.no_proxy == "10.0.0.0/8"


def test_the_proxy_of_a_kubeconfig(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes before the environment's, as in kubectl, also for commands in pods."""
    server, cluster = fake
    here = yaml.safe_load(Path(str(cluster.kubeconfig)).read_text())["clusters"][0]["cluster"]["server"]
    edited(cluster, {"server": "http://nowhere.invalid", "proxy-url": here})
    monkeypatch.setenv("http_proxy", DEAD)
    monkeypatch.setenv("no_proxy", "nowhere.invalid")
    monkeypatch.setattr(server, "do_CONNECT", lambda self: self._answer({}, 403), raising=False)
    api = Api.of(cluster)
    assert api.find("jobs") == []
    with pytest.raises(OpenRSError, match="cannot read through pod p"):
        next(logs._archive(api, "p", cluster, Place("mine", tmp_path)))
    assert [line.split("?")[0] for line in server.asked] == [
        f"GET http://nowhere.invalid/apis/batch/v1/namespaces/{cluster.namespace}/jobs",
        "CONNECT nowhere.invalid:80",
    ]
    edited(cluster, {"proxy-url": "gopher://nowhere"})
    with pytest.raises(OpenRSError, match="the kubeconfig cannot be used"):
        Api.of(cluster)


def test_a_kubeconfig_without_a_current_context(tmp_path: Path) -> None:
    cluster = profile(kubeconfig(tmp_path / "config", DEAD), namespace=None, context="there")
    edited(cluster, {}, **{"current-context": None})
    assert Api.of(cluster).namespace == "mine"
    with pytest.raises(OpenRSError, match="Expected key current-context"):
        Api.of(cluster.model_copy(update={"context": None}))


def test_a_server_whose_certificate_is_not_looked_at_is_not_told_of_each_time(tmp_path: Path) -> None:
    cluster = profile(kubeconfig(tmp_path / "config", "https://127.0.0.1:1"))
    for verifies, count in ((True, 1), (False, 0)):
        edited(cluster, {"insecure-skip-tls-verify": not verifies})
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            Api.of(cluster)
            warnings.warn("Unverified HTTPS request", InsecureRequestWarning, stacklevel=1)
        assert len([item for item in heard if item.category is InsecureRequestWarning]) == count


def test_a_server_that_asks_to_wait_is_told_of_at_once(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    server, cluster = fake

    def busy(self: Server) -> None:
        self.send_response(429)
        self.send_header("Retry-After", "3")
        self.send_header("Content-Length", "0")
        self.end_headers()

    monkeypatch.setattr(server, "do_GET", busy)
    started = time.monotonic()
    with pytest.raises(Refused, match="Too Many Requests"):
        Api.of(cluster).find("jobs")
    assert time.monotonic() - started < 2


def test_no_right_to_run_commands_in_pods_is_one_line(fake: Fake, tmp_path: Path) -> None:
    server, cluster = fake
    message = 'pods "p" is forbidden: User "u" cannot create resource "pods/exec" in API group "" in the namespace "n"'
    body = json.dumps({"kind": "Status", "message": message, "code": 403}).encode()

    def answer(self: Server) -> None:
        if "/exec" not in self.path:
            return self._answer({"items": [{"metadata": {"name": "p"}}]})
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    server.do_GET = answer  # type: ignore[method-assign]
    with pytest.raises(OpenRSError) as failed:
        logs.pull(Api.of(cluster), cluster, Place("mine", tmp_path / "run"), tmp_path / "here")
    granted = "the Role openrs-user of deploy/base grants it"
    assert str(failed.value) == f"cannot read through pod p ({message}); {granted}"
    assert not [line for line in server.asked if line.startswith("POST")], "another pod could not be read either"
    body = b"<html>"
    with pytest.raises(OpenRSError) as failed:
        logs.pull(Api.of(cluster), cluster, Place("mine", tmp_path / "run"), tmp_path / "here")
    assert str(failed.value) == f"cannot read through pod p (Handshake status 403 Forbidden); {granted}"


class Doubtful(Server):
    """Makes the Jobs that it is asked for, and says nothing clear of it."""

    jobs: ClassVar[dict[str, Object]] = {}
    fails: ClassVar[str] = "closed"
    stranger: ClassVar[bool] = False
    """Somebody else has made the Job meanwhile."""
    mute: ClassVar[bool] = False
    """It answers nothing afterwards, either."""

    def do_GET(self) -> None:
        if "/jobs/" not in self.path:
            return super().do_GET()
        job = self.jobs.get(self.path.rpartition("/")[2])
        if self.mute:
            return self._answer({"message": "gone mad"}, 500)
        if job is None:
            return self._answer({"message": "not found", "reason": "NotFound"}, 404)
        self._answer(job)

    def do_POST(self) -> None:
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "dryRun" in self.path:
            return self._answer(content, 201)
        content["metadata"]["uid"] = "u-1"
        if self.stranger:
            content["metadata"]["annotations"][SENDING] = "0123456789abcdef"
        if self.fails != "refused":
            self.jobs[content["metadata"]["name"]] = content
        if self.fails != "closed":
            self.send_response(201 if self.fails == "cut" else 504)
            self.send_header("Content-Length", "100" if self.fails == "cut" else "6")
            self.end_headers()
            self.wfile.write(b"<html>")

    def do_DELETE(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["preconditions"] == {"uid": "u-1"}, "by its name alone, it could be another one"
        self._answer(self.jobs.pop(self.path.rpartition("/")[2]))


def sent_in_vain(tmp_path: Path, **answers: Any) -> tuple[str, list[str], list[str]]:
    """What is said, the Jobs that are there afterwards, and the methods that were asked for."""
    jobs: dict[str, Object] = {}
    with serving(Doubtful, tmp_path, jobs=jobs, **answers) as (server, cluster):
        with pytest.raises(OpenRSError) as failed:
            launch.submit(SMOKE, cluster, tmp_path / "runs", "doubt")
        methods = [line.partition(" ")[0] for line in server.asked]
    assert str(failed.value).isprintable() and not (tmp_path / "runs").exists()
    return str(failed.value), list(jobs), methods


@pytest.mark.parametrize("fails", ["closed", "cut", "504", "refused"])
def test_a_job_that_was_made_without_a_clear_answer_is_taken_back(fails: str, tmp_path: Path) -> None:
    said, jobs, methods = sent_in_vain(tmp_path, fails=fails)
    assert ("Gateway Timeout" if fails in ("504", "refused") else "the API server does not answer") in said
    assert not jobs and "left behind" not in said
    assert methods.count("DELETE") == (fails != "refused")


def test_another_ones_job_of_the_same_name_stays(tmp_path: Path) -> None:
    _, jobs, methods = sent_in_vain(tmp_path, fails="504", stranger=True)
    assert jobs == ["doubt-base-1"] and "DELETE" not in methods


@pytest.mark.parametrize("fails", ["closed", "504"])
def test_a_job_that_may_be_left_behind_is_named(fails: str, tmp_path: Path) -> None:
    said, jobs, _ = sent_in_vain(tmp_path, fails=fails, mute=True)
    assert said.endswith("; what was made may be left behind: `kubectl delete job doubt-base-1`") and jobs


def test_a_server_that_goes_away_after_a_cancel(tmp_path: Path) -> None:
    """The Jobs are deleted then, which is another thing than that they may not be."""
    jobs = [Job("mine", "mine-train-1", None, tmp_path)]
    there = {"items": [{"metadata": {"name": "mine-train-1"}}]}

    def answer(self: Server) -> None:
        away = any(line.startswith("DELETE") for line in self.asked)
        self._answer({"message": "no leader"} if away else there, 503 if away else 200)

    for refuses, kind in (((), StillStopping), (("Delete",), Refused)):
        pretended = serving(Server, tmp_path, do_GET=answer, refuses=refuses)
        with pretended as (_, cluster), pytest.raises(OpenRSError) as failed:
            KubernetesEngine(cluster).cancel(jobs, 0)
        assert type(failed.value) is kind, failed.value


def test_the_word_of_a_sending_is_no_difference() -> None:
    assert compare._essence({"metadata": {"annotations": {SENDING: "x", "a": "b"}}}) == {
        "metadata": {"annotations": {"a": "b"}}
    }
