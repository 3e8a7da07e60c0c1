"""What goes wrong around images is one clear line; nothing here needs a builder, a fake one stands in where its words matter."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from openrs.cli.app import app
from openrs.errors import BadInput
from openrs.images import build as building
from openrs.images import layout, pinning, store, tools, verify
from openrs.images.layout import Image, image_of
from openrs.spec.cluster import Cluster

DIGEST = "sha256:" + "0123456789abcdef" * 4
REFERENCE = f"registry.example/openrs/train@{DIGEST}"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of its own, on which a test puts programs."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", str(place))
    return place


def program(place: Path, name: str, says: str, code: int = 1) -> None:
    """A stand-in for a builder or a registry's client that fails as the real one does."""
    path = place / name
    path.write_text(f"#!/bin/sh\n/bin/cat >&2 <<'END'\n{says}\nEND\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def openrs(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["images", *words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return getattr(result.exception, "exit_code", -1), str(result.exception)
    return result.exit_code, result.output


def image(**labels: str) -> Image:
    title, lock = labels.pop("title", "openrs/train"), labels.pop("lock", building.uv_lock())
    config = {"config": {"Labels": {layout.TITLE: title, layout.UV_LOCK: lock, **labels}}, "history": []}
    return image_of(DIGEST, {"layers": []}, config)


def test_no_builder(programs: Path, workdir: Path) -> None:
    code, said = openrs("build", "cli")
    assert code == 2 and "no builder on PATH: buildah, podman or docker with buildx" in said


def test_no_such_builder_and_image(programs: Path, workdir: Path) -> None:
    assert openrs("build", "cli", "--builder", "kaniko") == (2, "--builder kaniko: one of buildah, podman, docker")
    program(programs, "buildah", "", 0)
    code, said = openrs("build", "no-such-image")
    assert code == 2 and "no-such-image: no such image; one of cli, smoke, train, eval" in said


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ("Error: writing blob: write /var/tmp/x: no space left on device", "the disk is full"),
        (
            "Error: initializing source docker://docker.io/library/debian: dial tcp: lookup docker.io: no such host",
            "cannot be reached",
        ),
        (
            "Error: reading manifest sha256:4b50 in docker.io/library/debian: manifest unknown",
            "no such image or digest",
        ),
        ("Error: requested access to the resource is denied", "wants credentials"),
        ("ERROR: process did not complete successfully: exit code: 7", "exit code: 7"),
    ],
)
def test_a_build_that_fails(programs: Path, workdir: Path, says: str, words: str) -> None:
    program(programs, "buildah", f"STEP 1/2: FROM x\n{says}")
    code, said = openrs("build", "cli")
    assert code == 1 and words in said and "\n" not in said and "build/images/cli.log" in said
    assert not list((workdir / "build" / "images").glob(".cli-*")), "nothing half done stays"


def test_a_registry_that_has_no_such_digest(programs: Path, workdir: Path) -> None:
    program(programs, "skopeo", 'level=fatal msg="reading manifest: manifest unknown"')
    code, said = openrs("pin", "train", REFERENCE)
    assert code == 1 and "the registry has no such image or digest" in said and REFERENCE in said


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["pin", "foo", "bar"], "foo: no such image; one of cli, smoke, train, eval"),
        (["pin", "train", "x@sha256:abc"], "'x@sha256:abc' is no reference"),
        (["pin", "train", REFERENCE[:-1]], "is no reference of an image"),
        (["verify", "x/y@sha256:abc"], "is no reference of an image"),
        (["verify", "a\0b"], "is no reference of an image"),
        (["verify", "train"], "not built here"),
    ],
)
def test_what_is_typed_is_looked_at_before_a_registry_is_asked(
    programs: Path, workdir: Path, line: list[str], words: str
) -> None:
    code, said = openrs(*line)
    assert code == 2 and words in said


def test_pinning_refuses_what_is_not_what_it_says() -> None:
    for reference, given, words in (
        ("registry.example/openrs/train:1", image(), "a tag may be another image tomorrow"),
        (REFERENCE, image(title="openrs/cli"), "is not the image train"),
        (REFERENCE, image(lock="sha256:" + "0" * 64), "built from another uv.lock"),
        (REFERENCE, image(**{layout.BASE: layout.STAND_IN}), "stands on a stand-in base"),
    ):
        with pytest.raises(BadInput, match=words):
            pinning.pushed("train", reference, given)
    assert pinning.pushed("train", REFERENCE, image()).reference == REFERENCE


def test_verify_sees_what_is_wrong_outside() -> None:
    settings: dict[str, Any] = {
        "User": "root",
        "Entrypoint": ["/bin/sh", "-c", "openrs"],
        "Env": ["HF_TOKEN=x"],
        "Labels": {layout.TITLE: "openrs/cli", layout.UV_LOCK: "sha256:" + "0" * 64},
    }
    history = [{"created_by": "RUN curl https://user:hunter2@registry.example"}]
    found = {
        f.what: f.wrong
        for f in verify.outside(image_of(DIGEST, {"layers": []}, {"config": settings, "history": history}))
    }
    assert all(found.values()) and len(found["no secrets in its settings"]) == 2
    assert "build the image anew" in found["built from this uv.lock"][0]


def test_a_tag_is_warned_of_and_refused_when_strict(workdir: Path) -> None:
    profile = 'extends = "k8s"\nimage = "registry.example/openrs/train:1"\n'
    Path("openrs.toml").write_text(f"[clusters.tagged]\n{profile}")
    runner = CliRunner()
    fine = runner.invoke(app, ["render", "smoke", "--cluster", "tagged", "--out", "out"])
    assert fine.exit_code == 0 and "registry.example/openrs/train:1 has no digest" in fine.output
    strict = runner.invoke(app, ["render", "smoke", "--cluster", "tagged", "--strict"])
    assert strict.exit_code == 1 and "has no digest" in str(strict.exception)


def test_containers_on_slurm_need_what_they_need(workdir: Path) -> None:
    Path("openrs.toml").write_text(
        '[clusters.a]\nextends = "slurm"\ncontainer = "oci"\nimage = "x/y:1"\nshared_root = "/shared"\n'
        f'[clusters.b]\nextends = "slurm"\ncontainer = "oci"\nimage = "{REFERENCE}"\n'
        f'[clusters.c]\nextends = "k8s"\ncontainer = "oci"\nimage = "{REFERENCE}"\nshared_root = "/shared"\n'
        '[clusters.d]\nextends = "slurm"\ncontainer = "oci"\nshared_root = "/shared"\n'
    )
    for cluster, words in (
        ("a", "has no digest"),
        ("b", "shared_root"),
        ("c", "is for Slurm"),
        ("d", "image is not set"),
    ):
        result = CliRunner().invoke(app, ["render", "smoke", "--cluster", cluster])
        assert result.exit_code == 1 and words in str(result.exception), result.exception


def test_a_path_that_the_container_would_not_see(workdir: Path) -> None:
    model = workdir / "model"
    model.mkdir()
    Path("openrs.toml").write_text(
        f'[clusters.a]\nextends = "slurm"\ncontainer = "oci"\nimage = "{REFERENCE}"\nshared_root = "/shared"\n'
        f'[clusters.b]\nextends = "a"\ncontainer_mounts = ["{workdir}"]\n'
    )
    setting = ["--set", f"model={json.dumps({'type': 'path', 'path': str(model)})}"]
    result = CliRunner().invoke(app, ["render", "exp3", "--cluster", "a", *setting])
    assert f'container_mounts = ["{model}"]' in str(result.exception)
    assert CliRunner().invoke(app, ["render", "exp3", "--cluster", "b", *setting]).exit_code == 0


@pytest.mark.parametrize(
    ("path", "seen"), [("~/.hf-token", False), ("/home/me/.hf-token", False), ("/shared/.hf-token", True)]
)
def test_a_secret_that_the_container_would_not_see(workdir: Path, path: str, seen: bool) -> None:
    Path("openrs.toml").write_text(
        f'[clusters.a]\nextends = "slurm"\ncontainer = "oci"\nimage = "{REFERENCE}"\nshared_root = "/shared"\n'
    )
    result = CliRunner().invoke(
        app, ["render", "smoke", "--cluster", "a", "--set", f'secrets={{HF_TOKEN: "file:{path}"}}']
    )
    assert (result.exit_code == 0) is seen
    assert seen or (
        "secrets.HF_TOKEN" in str(result.exception) and "not to be seen in the container" in str(result.exception)
    )


def test_an_image_that_changed_is_refused(tmp_path: Path) -> None:
    cluster = Cluster(name="c", engine="slurm", container="apptainer", image=REFERENCE, shared_root=str(tmp_path))
    place = store.directory(cluster)
    with pytest.raises(BadInput, match="openrs images fetch"):
        store.check(place, DIGEST)
    place.mkdir(parents=True)
    (place / "image.sif").write_bytes(b"squashfs")
    record = {"digest": DIGEST, "content": "image.sif", "fingerprint": store.fingerprint(place / "image.sif")}
    (place / store.RECORD).write_text(json.dumps(record))
    store.check(place, DIGEST)
    (place / "image.sif").write_bytes(b"squashfS")
    with pytest.raises(BadInput, match="was changed since it was fetched"):
        store.check(place, DIGEST)
    with pytest.raises(BadInput, match="holds the image"):
        store.check(place, DIGEST.replace("0", "1"))


def test_a_tree_is_known_by_names_sizes_modes_and_times(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "b"
    file.write_text("1")
    seen = {store.fingerprint(tmp_path)}
    file.chmod(0o755)
    seen.add(store.fingerprint(tmp_path))
    os.utime(file, ns=(0, 0))
    seen.add(store.fingerprint(tmp_path))
    file.write_text("12")
    seen.add(store.fingerprint(tmp_path))
    file.rename(tmp_path / "a" / "c")
    seen.add(store.fingerprint(tmp_path))
    assert len(seen) == 5 and store.fingerprint(tmp_path) in seen


def test_the_last_words_of_a_program() -> None:
    assert tools.reason("") == "it printed nothing"
    assert tools.reason("a\nE: Unable to locate package x\nb") == "E: Unable to locate package x"
