"""What the engine does with a real Kubernetes: what it sends, how it reads answers, how it words refusals.

No training here: pods wait for a node that there is not, or end within seconds since no test machine has a GPU. The client
never sees the run directory.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from openrs import launch
from openrs.cli.app import main
from openrs.engines import Artifacts, JobState
from openrs.engines.kubernetes import KubernetesEngine, manifest
from openrs.engines.kubernetes.api import Api
from openrs.spec.cluster import Cluster
from openrs.spec.load import load_cluster, load_experiment
from openrs.status import jobs as jobs_of
from openrs.status import status
from tests.cli.conftest import Said
from tests.engines.test_kubernetes_render import ODD
from tests.testbed.k8s.client import K8sCluster, Namespace, unique
from tests.testbed.k8s.machine import wait

pytestmark = pytest.mark.k8s

Object = dict[str, Any]
ACCESS = Path(__file__).resolve().parents[2] / "deploy" / "base" / "access.yaml"
NOWHERE = {"openrs-test/nowhere": "yes"}
"""Nodes with this label do not exist: pods wait."""
SMALL = ["evaluation.at_steps=[40]", "evaluation.base=false"]


@dataclass
class Place:
    """A namespace with the rights of deploy/, a directory to call openrs from, and profiles for it."""

    cluster: K8sCluster
    space: Namespace
    home: Path
    capsys: pytest.CaptureFixture[str]
    fields: Object = field(default_factory=dict)

    def profile(self, **fields: Any) -> Cluster:
        space = self.space
        volumes = [{"claim": c, "path": p, "read_only": c in space.read_only} for c, p in space.volumes.items()]
        own = {
            "name": "mine", "kubeconfig": str(self.cluster.kubeconfig), "namespace": space.name, "image": space.image,
            "python": space.python, "environment": dict(space.environment), "volumes": volumes,
            "shared_root": space.volumes["openrs-runs"], "node_selector": NOWHERE, "lease_seconds": 4,
        }  # fmt: skip
        return Cluster.model_validate({**load_cluster("k8s").model_dump(), **own, **self.fields, **fields})

    def __call__(self, *words: str) -> Said:
        """`openrs …`, with --runs outside of every volume."""
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main([*words, "--runs", str(self.home / "runs")])
        captured = self.capsys.readouterr()
        return Said(int(exit_.value.code or 0), captured.out, captured.err)

    def submit(self, run: str, *overrides: str, experiment: str = "smoke", **fields: Any) -> Said:
        content = self.profile(**fields).model_dump(exclude_none=True, exclude={"name"})
        lines = [f"{key} = {_toml(value)}" for key, value in content.items()]
        (self.home / "openrs.toml").write_text("[clusters.mine]\n" + "\n".join(lines) + "\n")
        sets = [word for one in overrides or SMALL for word in ("--set", one)]
        return self("submit", experiment, "--cluster", "mine", "--run", run, *sets)

    def status(self, run: str) -> Object:
        """What `openrs status --json` says of a run."""
        said = self("status", run, "--json")
        assert said.code == 0, said
        (found,) = said.json["runs"]
        return dict(found)

    def path(self, kind: str, name: str = "") -> str:
        base = "/apis/batch/v1" if kind == "jobs" else "/api/v1"
        return f"{base}/namespaces/{self.space.name}/{kind}" + (f"/{name}" if name else "")

    def make(self, content: Object) -> None:
        self.cluster.apply(content, self.space.name)

    def names(self, kind: str) -> set[str]:
        """Of the objects of a kind that openrs could have made."""
        items = self.cluster.request("GET", self.path(kind))["items"]
        return {item["metadata"]["name"] for item in items} - {"kube-root-ca.crt"}


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


def refused(said: Said, place: Place, *words: str) -> None:
    """One printable line with these words, exit code 2, and nothing left behind on either side."""
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("openrs: ") and said.err.count("\n") == 1 and said.err[:-1].isprintable(), said.err
    for word in words:
        assert word in said.err, said.err
    assert not (place.home / "runs").exists()
    if place.space.name in said.err or "mine" in said.err:
        assert not {name for name in place.names("jobs") | place.names("pods") if name.startswith("refused")}
        assert not [name for name in place.names("configmaps") if name.startswith("refused-train")]


@pytest.fixture(scope="module")
def space(k8s_cluster: K8sCluster) -> Iterator[Namespace]:
    space = k8s_cluster.namespace(unique("engine"))
    k8s_cluster.kubectl("apply", "-n", space.name, "-f", str(ACCESS))
    yield space
    k8s_cluster.delete_namespace(space.name)


@pytest.fixture
def place(
    k8s_cluster: K8sCluster,
    space: Namespace,
    workdir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
    monkeypatch.setenv("no_proxy", "*")
    place = Place(k8s_cluster, space, workdir, capsys)
    yield place
    k8s_cluster.request("DELETE", place.path("jobs"), propagationPolicy="Background", gracePeriodSeconds=0)
    for kind in ("resourcequotas", "limitranges"):
        k8s_cluster.request("DELETE", place.path(kind))
    wait(lambda: not place.names("jobs") | place.names("pods"), "the namespace to be empty", 60)


def user(place: Place, name: str, role: str | None) -> Path:
    """The kubeconfig of a fresh account, with a Role of deploy/ or with none."""
    place.make({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
    if role is not None:
        place.cluster.kubectl(
            "create", "rolebinding", name, "-n", place.space.name, f"--role={role}", f"--serviceaccount={place.space.name}:{name}",
        )  # fmt: skip
    token = place.cluster.kubectl("create", "token", name, "-n", place.space.name).strip()
    content = yaml.safe_load(place.cluster.kubeconfig.read_text())
    content["users"] = [{"name": item["name"], "user": {"token": token}} for item in content["users"]]
    path = place.home / f"{name}.kubeconfig"
    path.write_text(yaml.safe_dump(content))
    return path


def test_what_the_profile_names_and_is_not_there(place: Place) -> None:
    gone = f"{place.space.name}-gone"
    said = place.submit("refused", namespace=gone)
    refused(said, place, f'namespaces "{gone}" not found', "deploy/README.md", "set namespace in the profile")
    volumes = [*place.profile().model_dump()["volumes"], {"claim": "no-claim", "path": "/data"}]
    said = place.submit("refused", volumes=volumes)
    refused(said, place, "there is no PersistentVolumeClaim 'no-claim'", place.space.name)
    refused(place.submit("refused", context="nope"), place, "context = 'nope'", "get-contexts")
    said = place.submit("refused", priority_class="no-class")
    refused(said, place, "no PriorityClass with name no-class", "set priority_class")
    said = place.submit("refused", service_account="no-account")
    refused(said, place, 'serviceaccount "no-account" not found', "set service_account in the profile")
    gpus = ["generation={type: transformers}", "resources.gpus=1", "resources.gpu_type=H900", *SMALL]
    said = place.submit("refused", *gpus)
    refused(said, place, "no node has a GPU of product H900", "the nodes have NVIDIA-A40", "set gpu_products")


def test_a_name_that_is_taken(place: Place) -> None:
    container = {"name": "c", "image": "x", "command": ["true"]}
    template = {"spec": {"restartPolicy": "Never", "containers": [container], "nodeSelector": NOWHERE}}
    other = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "refused-train-1"}}
    place.make({**other, "spec": {"suspend": True, "template": template}})
    said = place.submit("refused")
    assert said.code == 2 and said.err.count("\n") == 1
    assert "there is a Job refused-train-1" in said.err and "choose another id with --run" in said.err
    assert place.names("jobs") == {"refused-train-1"} and not (place.home / "runs").exists()
    kept = place.cluster.job(place.space.name, "refused-train-1")
    assert kept["metadata"].get("labels", {}).get("openrs.dev/run") is None, "it is still the other one's"
    place.make({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs-eval-1"}, "data": {"a": "b"}})
    said = place.submit("theirs")
    assert said.code == 2 and "there is a ConfigMap theirs-eval-1" in said.err and "not openrs's" in said.err
    assert place.cluster.request("GET", place.path("configmaps", "theirs-eval-1"))["data"] == {"a": "b"}
    wait(lambda: place.names("jobs") == {"refused-train-1"}, "what was made before to be taken back")
    wait(lambda: place.names("configmaps") == {"theirs-eval-1"}, "its ConfigMap to go with it", 30)
    place.cluster.request("DELETE", place.path("configmaps", "theirs-eval-1"))


def test_what_admission_refuses(place: Place) -> None:
    limits = {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]}
    place.make({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": limits})
    refused(place.submit("refused"), place, "is forbidden: maximum memory usage per Container is 1Gi")


def test_a_policy_against_pods_without_an_owner(place: Place) -> None:
    """Clusters have it from Kyverno or Gatekeeper, here the API server itself does it. The pods of a Job have an owner."""
    name, kind = place.space.name, "ValidatingAdmissionPolicy"
    rules = [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]
    wants = [{"expression": f"request.namespace != '{name}' || has(object.metadata.ownerReferences)"}]
    policy = {"matchConstraints": {"resourceRules": rules}, "validations": wants}
    binding = {"policyName": name, "validationActions": ["Deny"]}
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    artifacts = launch.render(load_experiment("smoke"), place.profile(), place.home, "bare")
    bare = json.dumps(manifest.reader(artifacts.place, place.profile()))

    def taken() -> str:
        return place.cluster.kubectl("create", "--dry-run=server", "-o", "name", "-f", "-", stdin=bare, check=False)

    assert taken()
    place.cluster.apply({**head, "kind": kind, "spec": policy})
    place.cluster.apply({**head, "kind": f"{kind}Binding", "spec": binding})
    try:
        wait(lambda: not taken(), "a pod without an owner to be refused")
        assert place.submit("owned").code == 0
        wait(lambda: place.names("pods"), "its pod")
    finally:
        place.cluster.kubectl("delete", f"{kind},{kind}Binding", name)


def quota(place: Place, **hard: str) -> None:
    content = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "share"}}
    place.make({**content, "spec": {"hard": {key.replace("_", "."): value for key, value in hard.items()}}})
    path = place.path("resourcequotas", "share")
    wait(lambda: place.cluster.request("GET", path).get("status", {}).get("used"), "the quota to be counted")


def test_a_quota_that_no_run_of_this_size_fits_in(place: Place) -> None:
    quota(place, requests_memory="1Gi")
    refused(place.submit("refused"), place, "exceeded quota: share", "ask for less in resources")


def test_a_quota_of_jobs(place: Place) -> None:
    place.cluster.request("DELETE", place.path("resourcequotas"))
    quota(place, **{"count/jobs_batch": "1"})
    refused(place.submit("refused"), place, "exceeded quota: share", "delete what is finished")


def test_a_quota_that_others_use_up_is_waited_for(place: Place) -> None:
    quota(place, pods="1")
    assert place.submit("first").code == 0
    wait(lambda: place.names("pods"), "the first pod")
    assert place.submit("second").code == 0

    def told() -> str:
        train = next(stage for stage in place.status("second")["stages"] if stage["name"] == "train")
        return str(train["reason"]) if "no pod may be made" in train["reason"] else ""

    words = wait(told, "status to say why")
    assert "exceeded quota: share" in words and "tries again by itself" in words


def test_forbidden(place: Place) -> None:
    nobody = user(place, "nobody", None)
    said = place.submit("refused", kubeconfig=str(nobody))
    refused(said, place, 'cannot create resource "jobs"', "the Role openrs-user of deploy/base grants it, if ")
    wrong = yaml.safe_load(nobody.read_text())
    for item in wrong["users"]:
        item["user"]["token"] = base64.b64encode(b"nonsense").decode()
    nobody.write_text(yaml.safe_dump(wrong))
    refused(place.submit("refused", kubeconfig=str(nobody)), place, "credentials are not accepted, log in anew")


def test_the_rights_of_deploy_are_enough(place: Place) -> None:
    """Submit, status, and a cancel that leaves nothing."""
    config = user(place, "somebody", "openrs-user")
    said = place.submit("rights", kubeconfig=str(config))
    assert said.code == 0, said
    assert place.names("jobs") == {"rights-train-1", "rights-eval-1"} == place.names("configmaps")
    shown = place.status("rights")
    assert shown["state"] == "PENDING", shown
    train, held = shown["stages"]
    wait(lambda: place.names("pods"), "the pod")
    reason = wait(lambda: _train_reason(place, "rights", "didn't match Pod's node affinity"), "why it waits")
    assert "gpu_products in the profile" in reason
    assert held["reason"] == "waits for rights-train-1" and train["handle"] == "rights-train-1"
    said = place("cancel", "rights")
    assert said.code == 0, said
    assert not place.names("jobs") | place.names("pods")
    wait(lambda: not place.names("configmaps"), "the ConfigMaps to be collected", 30)
    assert place.status("rights")["state"] == "CANCELLED"


def _train_reason(place: Place, run: str, words: str) -> str:
    stages = place.status(run)["stages"]
    reason = str(next(stage["reason"] for stage in stages if stage["name"] == "train"))
    return reason if words in reason else ""


def test_a_secret_that_is_missing_is_said(place: Place) -> None:
    said = place.submit("secretless", "secrets.HF_TOKEN=secret:hf/token", *SMALL, node_selector={})
    assert said.code == 0, said
    words = wait(lambda: _train_reason(place, "secretless", 'secret "hf" not found'), "status to say it", 90)
    assert "CreateContainerConfigError" in words


def test_what_the_server_has_is_what_was_rendered(place: Place) -> None:
    experiment, cluster = load_experiment("smoke", SMALL), place.profile(queue="a40", spread="kubernetes.io/hostname")
    record = launch.submit(experiment, cluster, place.home / "runs", "same")
    rendered = launch.render(experiment, cluster, place.home / "elsewhere", "same")
    assert KubernetesEngine(cluster).changes(rendered) == {}
    for stage in record.submissions[0].stages:
        config = place.cluster.request("GET", place.path("configmaps", stage.handle))
        owner = config["metadata"]["ownerReferences"][0]
        assert owner["uid"] == place.cluster.job(place.space.name, stage.handle)["metadata"]["uid"]
    other = launch.render(load_experiment("smoke", [*SMALL, "resources.cpus=2"]), cluster, place.home / "runs", "same")
    assert "train/job.yaml" in KubernetesEngine(cluster).changes(other)


def _text(artifacts: Artifacts) -> str:
    return "".join(artifacts.files.values())


@pytest.mark.parametrize("name", ["exp1", "exp2", "exp3", "smoke"])
def test_the_server_takes_every_manifest_strictly(place: Place, name: str) -> None:
    fields = {"tolerations": [{"key": "gpu"}], "spread": "kubernetes.io/hostname", "labels": {"cost-centre": "42"}}
    text = _text(launch.render(load_experiment(name), place.profile(**fields), place.home / "runs", f"dry-{name}"))
    shown = place.cluster.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=text)
    assert shown.count("created (server dry run)") == text.count("\nkind: ")
    assert not place.names("jobs")


def test_kubectl_alone_runs_what_is_rendered(place: Place) -> None:
    """exp3 is given its four A40s, finds no driver, and says so in one line."""
    experiment = load_experiment("exp3", ["evaluation.benchmarks=[]", "recovery.node_fault_retries=0"])
    artifacts = launch.render(experiment, place.profile(node_selector={}), place.home / "runs", "by-hand")
    place.cluster.kubectl("apply", "-f", "-", stdin=_text(artifacts))
    name = place.space.name
    place.cluster.kubectl("wait", "-n", name, "--for=condition=Failed", "job/by-hand-train-1", "--timeout=120s")
    (pod,) = place.cluster.pods(name, labelSelector="openrs.dev/run=by-hand")
    assert pod["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
    words = json.loads(ended["message"])
    assert ended["exitCode"] == words["code"] == 78
    assert "offers 0 of the 4 GPUs" in words["reason"]
    assert "Traceback" not in place.cluster.log(name, pod["metadata"]["name"])
    place.cluster.request("DELETE", place.path("configmaps", "by-hand-train-1"))


def test_containers_get_the_values_that_were_written(place: Place) -> None:
    """Through YAML, the server, and Kubernetes' expansion of `$(NAME)`; a variable's value may not hold a NUL, and none does."""
    values = {f"ODD_{number}": text for number, text in enumerate(ODD)}
    cluster = place.profile(node_selector={}, environment={**place.space.environment, **values})
    artifacts = launch.render(load_experiment("smoke", ["evaluation.benchmarks=[]"]), cluster, place.home, "odd")
    config, job = manifest.read(_text(artifacts))
    code = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('ODD_')}))"
    job["spec"]["template"]["spec"]["containers"][0]["command"][1:] = ["-c", code]
    place.cluster.kubectl("apply", "-f", "-", stdin=manifest.dump([config, job]))
    place.cluster.wait_job(place.space.name, "odd-train-1")
    (pod,) = place.cluster.pods(place.space.name)
    assert json.loads(place.cluster.log(place.space.name, pod["metadata"]["name"])) == values
    place.cluster.request("DELETE", place.path("configmaps", "odd-train-1"))


def test_a_job_that_kubernetes_removed_keeps_its_end(place: Place) -> None:
    said = place.submit(
        "forgotten", "evaluation.benchmarks=[]", "recovery.node_fault_retries=0",
        experiment="exp3", ttl_seconds=4, node_selector={},
    )  # fmt: skip
    assert said.code == 0, said

    def ended() -> Object | None:
        shown: Object = place.status("forgotten")
        return shown if shown["state"] == "FAILED" else None

    last = wait(ended, "it to fail", 120)
    assert "offers 0 of the 4 GPUs" in last["stages"][0]["reason"]
    wait(lambda: not place.names("jobs"), "Kubernetes to remove it", 60)
    assert place.status("forgotten") == last


def test_1000_cells_in_one_request(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = load_experiment(
        "smoke", [f"evaluation.benchmarks.0.seeds={list(range(1000))}", "evaluation.at_steps=[40]", "evaluation.base=false"]
    )  # fmt: skip
    asked: list[str] = []
    send = Api._send

    def counted(self: Api, method: str, path: str, *args: Any, **words: Any) -> Any:
        asked.append(f"{method} {path.rpartition('/')[2]}")
        return send(self, method, path, *args, **words)

    monkeypatch.setattr(Api, "_send", counted)
    record = launch.submit(experiment, place.profile(), place.home / "runs", "many")
    assert asked.count("POST jobs") == asked.count("POST configmaps") == 2, "one each for training and for 1,000 cells"
    cells = jobs_of(record)["eval"]
    asked.clear()
    info = KubernetesEngine(record.cluster).inspect([cells])[cells.handle]
    assert info.state == JobState.PENDING and cells.tasks == 1000
    assert asked.count("GET jobs") == 1
    records = [record] * 5
    asked.clear()
    assert {each.state for each in status(records)} == {JobState.PENDING}
    assert asked.count("GET jobs") == 1 and len(asked) <= 3, asked
