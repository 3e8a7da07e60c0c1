"""What stands in the manifests, and why a run may rely on it. No cluster here."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from openrs.engines import Artifacts, Job, Place, engine_for
from openrs.engines.kubernetes import KINDS, KubernetesEngine, checks
from openrs.engines.kubernetes.api import Api, release
from openrs.engines.kubernetes.manifest import CONTAINER, SENDING, reader
from openrs.errors import BadInput
from openrs.plan import make_plan
from openrs.spec.cluster import Cluster
from openrs.spec.experiment import Experiment
from openrs.spec.load import load_experiment
from tests.engines.test_kubernetes_render import GPUS, K8S, SMOKE, Object, pod, render, stage, variables

kubernetes_validate = pytest.importorskip("kubernetes_validate")

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(path.stem for path in (ROOT / "openrs" / "experiments").glob("*.yaml"))
EXP3 = load_experiment("exp3")
WHOLE = load_experiment("smoke", ["evaluation.at_steps=[40]"])


def documents(artifacts: Artifacts) -> list[Object]:
    return [item for text in artifacts.files.values() for item in yaml.safe_load_all(text)]


def jobs(artifacts: Artifacts) -> dict[str, Object]:
    return {name.partition("/")[0]: list(yaml.safe_load_all(text))[1] for name, text in artifacts.files.items()}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_experiment_renders_the_same_bytes_twice(name: str) -> None:
    experiment = load_experiment(name)
    first, second = render(experiment), render(experiment)
    assert list(first.files.items()) == list(second.files.items())
    assert all(text.isascii() for text in first.files.values())
    for item in documents(first):
        kubernetes_validate.validate(item, "1.34", strict=True)


@pytest.mark.parametrize("version", ["1.31", "1.32", "1.33", "1.34"])
def test_schemas_of_kubernetes(version: str) -> None:
    shipped = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "k8s").glob("*.yaml"))]
    golden = [
        item for path in (ROOT / "tests" / "golden").glob("*.k8s.txt") for item in yaml.safe_load_all(path.read_text())
    ]
    full = render(EXP3, **EVERYTHING)
    own = [*documents(full), reader(full.place, Cluster.model_validate({**K8S.model_dump(), **EVERYTHING}))]
    assert len(shipped) == 4 and len(golden) >= 20
    for item in shipped + golden + own:
        kubernetes_validate.validate(item, version, strict=True)


EVERYTHING: dict[str, Any] = {
    "image_pull_secrets": ["pull"],
    "volumes": [{"claim": "runs", "path": "/openrs"}, {"claim": "models", "path": "/models", "read_only": True}],
    "gpu_products": {"A40": ["NVIDIA-A40", "NVIDIA-A40-SHARED"]},
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "effect": "NoSchedule"}, {"key": "group", "operator": "Equal", "value": "ai"}, {}],
    "spread": "kubernetes.io/hostname",
    "priority_class": "high",
    "cell_priority_class": "low",
    "queue": "a40",
    "labels": {"cost-centre": "42"},
    "shm_gb": 32,
    "array_parallel": 4,
}


def test_every_pod_is_what_restricted_pod_security_asks_for() -> None:
    cluster = Cluster.model_validate({**K8S.model_dump(), **EVERYTHING})
    specs = [pod(job) for job in jobs(render(EXP3, **EVERYTHING)).values()]
    specs.append(reader(Place("r", Path("/openrs/runs/r")), cluster)["spec"])
    for spec in specs:
        context, (container,) = spec["securityContext"], spec["containers"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] == context["fsGroup"] == 1000
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        kinds = {key for volume in spec["volumes"] for key in volume if key != "name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim"}
        assert spec["restartPolicy"] == "Never"
        assert spec["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
        memory = container["resources"]["limits"]["memory"]
        in_memory = [v["emptyDir"] for v in spec["volumes"] if v.get("emptyDir", {}).get("medium") == "Memory"]
        assert all(checks.quantity(volume["sizeLimit"]) < checks.quantity(memory) for volume in in_memory)


def test_gpus_memory_and_place() -> None:
    found = jobs(render(EXP3, **EVERYTHING))
    train, cells = pod(found["train"]), pod(found["eval"])
    resources = train["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"]["nvidia.com/gpu"] == "4"
    assert resources["limits"]["memory"] == f"{EXP3.resources.memory_gb + 32}Gi"
    shm = next(volume for volume in train["volumes"] if volume["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "32Gi"}
    terms = train["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    wanted = {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-A40", "NVIDIA-A40-SHARED"]}
    assert terms == [{"matchExpressions": [wanted]}]
    assert (train["priorityClassName"], cells["priorityClassName"]) == ("high", "low")
    assert train["tolerations"] == [
        {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "group", "operator": "Equal", "value": "ai"},
        {"operator": "Exists"},
    ]
    assert "topologySpreadConstraints" not in train
    (spread,) = cells["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == {"batch.kubernetes.io/job-name": found["eval"]["metadata"]["name"]}
    assert found["eval"]["spec"]["parallelism"] == 4
    cpu = pod(jobs(render(SMOKE))["train"])
    assert "affinity" not in cpu
    assert set(cpu["containers"][0]["resources"]["limits"]) == {"cpu", "memory"}


def test_the_pod_that_pull_makes_may_stand_where_the_runs_do() -> None:
    cluster = Cluster.model_validate({**K8S.model_dump(), **EVERYTHING})
    job = jobs(render(EXP3, **EVERYTHING))["train"]
    made = reader(Place("r", Path("/openrs/runs/r")), cluster)
    for key in ("nodeSelector", "tolerations", "imagePullSecrets", "securityContext"):
        assert made["spec"][key] == pod(job)[key], key
    labels = made["metadata"]["labels"]
    assert labels["cost-centre"] == "42" and labels["openrs.dev/run"] == "r"
    assert labels["app.kubernetes.io/component"] == "pull" and "kueue.x-k8s.io/queue-name" not in labels
    assert [item["name"] for item in (made["spec"]["containers"] + pod(job)["containers"])] == [CONTAINER] * 2


def test_what_a_job_survives_and_what_ends_it() -> None:
    found = jobs(render(EXP3))
    for name, action in (("train", "FailJob"), ("eval", "FailIndex")):
        spec = found[name]["spec"]
        rules = spec["podFailurePolicy"]["rules"]
        assert [rule["action"] for rule in rules] == ["Ignore", "Ignore", action], "the first that matches decides"
        assert rules[0]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        assert [rule["onExitCodes"]["values"] for rule in rules[1:]] == [[75], [78]]
        assert {rule["onExitCodes"]["containerName"] for rule in rules[1:]} == {
            pod(found[name])["containers"][0]["name"]
        }
        assert spec["podReplacementPolicy"] == "Failed"
        assert "activeDeadlineSeconds" not in spec and "activeDeadlineSeconds" not in pod(found[name])
        assert pod(found[name])["terminationGracePeriodSeconds"] > EXP3.recovery.grace_seconds
    assert found["train"]["spec"]["backoffLimit"] == EXP3.recovery.max_attempts
    assert found["eval"]["spec"]["backoffLimitPerIndex"] == EXP3.recovery.max_attempts
    assert found["eval"]["spec"]["maxFailedIndexes"] == found["eval"]["spec"]["completions"]
    assert [found[name]["spec"]["suspend"] for name in ("base", "train", "eval")] == [False, False, True]


def test_only_training_has_a_token_and_only_to_release() -> None:
    artifacts = render(WHOLE)
    found = jobs(artifacts)
    assert pod(found["train"])["serviceAccountName"] == "openrs-worker"
    tokens = {name: pod(job)["automountServiceAccountToken"] for name, job in found.items()}
    assert tokens == {"base": False, "train": True, "eval": False}
    told = {name: json.loads(stage(artifacts, name)[0]["data"]["stage.json"])["releases"] for name in found}
    assert told == {"base": [], "train": ["r-eval-1"], "eval": []}
    for fields in ({"release": "watch"}, {"service_account": None}):
        artifacts = render(WHOLE, **fields)
        for name, job in jobs(artifacts).items():
            assert pod(job)["automountServiceAccountToken"] is False
            assert "serviceAccountName" not in pod(job)
            assert json.loads(stage(artifacts, name)[0]["data"]["stage.json"])["releases"] == []


class Recorder(Api):
    """Answers from a store instead of a server, and keeps what was asked: the order of requests is what counts here."""

    def __init__(self, stored: list[Object]) -> None:
        self.namespace, self._where = "openrs", "nowhere"
        self.stored = {item["metadata"]["name"]: item for item in stored if item["kind"] == "Job"}
        self.asked: list[tuple[str, str, Object]] = []

    def call(self, method: str, path: str, query: Any = None, body: Any = None, content_type: str = "") -> Object:
        if method != "GET" and "dryRun" not in (query or {}):
            self.asked.append((method, path, body))
        if path == "/version":
            return {"major": "1", "minor": "34"}
        if method == "POST":
            return {**body, "metadata": {**body["metadata"], "uid": "u-1"}}
        return self.stored.get(path.rpartition("/")[2], {"items": []})


def test_submit_sends_what_render_shows() -> None:
    """But for the owner of the ConfigMap, whose uid only the server knows, the suspension until that is there, and a word."""
    artifacts = render(WHOLE)
    engine = KubernetesEngine(K8S)
    engine._connected = api = Recorder([])
    handles = engine.submit(artifacts)
    assert handles == {"base": "r-base-1", "train": "r-train-1", "eval": "r-eval-1"}
    posted = [body for method, _, body in api.asked if method == "POST"]
    assert [item["kind"] for item in posted] == ["Job", "ConfigMap"] * 3
    for rendered, sent in zip(documents(artifacts), [posted[i] for i in (1, 0, 3, 2, 5, 4)], strict=True):
        if sent["kind"] == "Job":
            assert sent["spec"].pop("suspend") is True
            assert len(sent["metadata"]["annotations"].pop(SENDING)) == 16
            rendered["spec"].pop("suspend")
        else:
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": sent["metadata"]["name"], "uid": "u-1"}
            assert sent["metadata"].pop("ownerReferences") == [owner]
        assert sent == rendered
    patched = [(path.rpartition("/")[2], body) for method, path, body in api.asked if method == "PATCH"]
    assert patched == [("r-base-1", {"spec": {"suspend": False}}), ("r-train-1", {"spec": {"suspend": False}})]
    assert api.asked.index(("PATCH", api.path("jobs", "r-base-1"), {"spec": {"suspend": False}})) == len(posted)
    assert len(KINDS) == 2


def test_kueue() -> None:
    """By Kueue's documented labels alone; its controller is not at hand."""
    artifacts = render(WHOLE, queue="a40")
    found = jobs(artifacts)
    for name in ("base", "train"):
        assert found[name]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "a40"
        assert "suspend" not in found[name]["spec"]
    assert found["eval"]["spec"]["suspend"] is True
    assert "kueue.x-k8s.io/queue-name" not in found["eval"]["metadata"]["labels"], "it would release what it knows of"
    seconds = WHOLE.resources.minutes * 60 * WHOLE.recovery.max_attempts
    assert found["train"]["metadata"]["labels"]["kueue.x-k8s.io/max-exec-time-seconds"] == str(seconds)
    api = Recorder(documents(artifacts))
    release(api, ["r-eval-1"])
    change = {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "a40"}}}
    assert api.asked == [("PATCH", api.path("jobs", "r-eval-1"), change)]
    api = Recorder(documents(render(WHOLE)))
    release(api, ["r-eval-1"])
    assert api.asked == [("PATCH", api.path("jobs", "r-eval-1"), {"spec": {"suspend": False}})]
    long = load_experiment("smoke", ["resources.minutes=1000000", "recovery.max_attempts=1000000"])
    labels = jobs(render(long, queue="a40"))["train"]["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/max-exec-time-seconds"] == str(2**31 - 1), "Kueue's is an int32"


def many(cells: int) -> Experiment:
    seeds = list(range(cells))
    return load_experiment("smoke", [f"evaluation.benchmarks.0.seeds={seeds}", "evaluation.at_steps=[]"])


def test_1000_cells_fit_and_too_many_are_refused() -> None:
    start = time.process_time()
    artifacts = render(many(1000), array_limit=1000)
    assert time.process_time() - start < 5
    assert max(len(text.encode()) for text in artifacts.files.values()) < 1_000_000 < 1_572_864, "a request of etcd"
    assert jobs(artifacts)["base"]["spec"]["completions"] == 1000
    assert len(artifacts.files) == 2
    with pytest.raises(BadInput, match=r"stage base: .* a ConfigMap holds 1000000; lower array_limit = 100000"):
        render(many(9000), array_limit=100_000)
    assert len(render(many(2500)).files) == 4, "three arrays, and training"


def test_an_experiment_too_large_for_a_config_map() -> None:
    experiment = Experiment.model_validate({**SMOKE.model_dump(), "prompt": {"system": "é" * 600_000}})
    with pytest.raises(BadInput, match=r"^stage base: .*; shorten the longest texts of the experiment$"):
        render(experiment)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image": None}, "image is not set"),
        ({"setup": ["module load cuda"]}, "setup: 'module load cuda' cannot run in a pod"),
        ({"shared_root": "/elsewhere"}, "shared_root = '/elsewhere': no pod sees it"),
        ({"shared_root": "/openrs/../elsewhere"}, "no pod sees it"),
        ({"shared_root": "/openrsx"}, "no pod sees it"),
        ({"shared_root": None}, "shared_root = ''"),
        ({"volumes": []}, "it has none"),
        ({"volumes": [{"claim": "c", "path": "/openrs", "read_only": True}]}, "claim c at /openrs is read_only"),
        ({"gpu_products": {"A40": []}}, "gpu_products.A40 is empty"),
        ({"gpu_types": {"A40": "one of them"}}, "gpu_products"),
        ({"environment": {"JOB_COMPLETION_INDEX": "0"}}, "environment.JOB_COMPLETION_INDEX: set by"),
        ({"environment": {"OPENRS_NODE": "x"}}, "environment.OPENRS_NODE: set by"),
        ({"environment": {"X": "é" * 66_000}}, "environment.X: 132002 bytes"),
    ],
)
def test_profiles_that_pods_could_not_use(fields: Object, words: str) -> None:
    with pytest.raises(BadInput) as refused:
        render(GPUS, **fields)
    assert words in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "override",
    [
        "model={type: path, path: /home/me/model, dtype: float32}",
        "data={type: jsonl, path: /data/train.jsonl}",
        "evaluation.benchmarks.0.data={type: jsonl, path: /openrs/../etc/passwd}",
    ],
)
def test_files_that_no_pod_sees(override: str) -> None:
    with pytest.raises(BadInput, match=r"path = '/.*no pod sees it.*\(/openrs, /cache\)"):
        render(load_experiment("smoke", [override]))


@pytest.mark.parametrize(
    "reference",
    [
        *("env:T", "file:/t", "secret:hf", "secret:hf/", "secret:HF/token", "secret:a..b/k", "secret:a/..", "secret:a/..k"),
        *("secret:a/b/c", "secret:a/b\u00e9"),
    ],
)  # fmt: skip
def test_secrets_that_no_pod_could_have(reference: str) -> None:
    experiment = Experiment.model_validate({**SMOKE.model_dump(), "secrets": {"HF_TOKEN": reference}})
    with pytest.raises(BadInput, match=r"secrets.HF_TOKEN = .*: on Kubernetes use secret:NAME/KEY"):
        render(experiment)


def test_a_secret_must_be_there_and_stands_in_no_manifest() -> None:
    experiment = load_experiment("smoke", ["secrets.HF_TOKEN=secret:hf.v2/to_ken.txt"])
    for job in jobs(render(experiment)).values():
        source = variables(job)["OPENRS_SECRET_HF_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert source == {"name": "hf.v2", "key": "to_ken.txt", "optional": False}


def test_nothing_is_asked_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    engine = engine_for(K8S)
    engine.render(WHOLE, make_plan(WHOLE, K8S), Place("r", Path("/openrs/runs/r")))
    assert engine.inspect([]) == {}
    with pytest.raises(BadInput, match="no kubeconfig"):
        engine.inspect([Job("r", "r-train-1", None, Path("/openrs"))])
