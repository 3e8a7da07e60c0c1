"""Images that are really built, pushed to a real registry, and run by digest. The base is the stand-in: no registry can be asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openrs.images.layout import read_layout
from tests.images.plugin import CA, ENVIRONMENT, PRIVATE, demand, run
from tests.images.registry import Registry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MOST_BYTES = 150_000_000
"""Of `cli`, compressed."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    demand()
    with Registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="module")
def cli(registry: Registry) -> dict[str, Any]:
    """`cli`, built twice, the second time without a layer of an earlier build, and pushed: what the command says."""
    ca = ["--ca", str(CA)] if CA.exists() else []
    out, address = registry.directory / "out", f"{registry.address}/openrs/cli:1"
    words: list[str | Path] = [
        "--stand-in",
        "--twice",
        *ca,
        "--out",
        out,
        "--push",
        address,
        "--insecure",
        "--builder",
        "buildah",
        "--json",
    ]
    done = run("images", "build", "cli", *words)
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="module")
def pushed(cli: dict[str, Any]) -> str:
    """Its reference, by digest."""
    return str(cli["pushed"])


def test_the_same_bytes_twice(cli: dict[str, Any], registry: Registry) -> None:
    first, second = (
        read_layout(registry.directory / "out" / "cli"),
        read_layout(registry.directory / "out" / "again" / "cli"),
    )
    assert first.digest == second.digest == cli["digest"]
    assert cli["pushed"] == f"{registry.address}/openrs/cli@{cli['digest']}"
    assert sum(layer["bytes"] for layer in cli["layers"]) == cli["bytes"]
    assert registry.blob(cli["digest"]).exists(), "pushed unchanged"


def test_size_and_settings(cli: dict[str, Any]) -> None:
    image = read_layout(Path(cli["layout"]))
    assert image.size < MOST_BYTES, [(layer.size, layer.made_by[:40]) for layer in image.layers]
    assert image.layers[-1].size < 5_000_000, "a change of the code is a small layer"
    assert image.settings["User"] == "1000:1000" and image.settings["Entrypoint"] == ["/opt/openrs/bin/openrs"]
    assert image.labels["dev.openrs.uv-lock"].startswith("sha256:")
    assert image.config["created"] == "2025-04-30T00:00:00Z"


def test_run_by_digest(pushed: str, registry: Registry, tmp_path: Path) -> None:
    done = run("images", "verify", pushed, "--insecure", "--builder", "buildah", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["digest"] == pushed.rpartition("@")[2]
    assert len(said["checks"]) == 11 and not any(check["wrong"] for check in said["checks"])
    assert "stand-in" in said["warnings"][0]
    said_by = in_container(pushed, "/opt/openrs/bin/openrs", "render", "exp3", "--cluster", "slurm")
    assert "#SBATCH --gres=gpu:a40:4" in said_by


def in_container(reference: str, *command: str) -> str:
    """What a command prints in a container of that image."""
    environment = {**os.environ, **ENVIRONMENT}

    def buildah(*words: str) -> str:
        return subprocess.run(
            [*PRIVATE, "buildah", *words], env=environment, capture_output=True, text=True, check=True
        ).stdout

    container = buildah("from", "--quiet", "--tls-verify=false", f"docker://{reference}").strip()
    try:
        return buildah("run", "--user", "4321:4321", container, "--", *command)
    finally:
        buildah("rm", container)


def test_a_changed_file_is_seen(cli: dict[str, Any], tmp_path: Path) -> None:
    """An image with the same labels in which somebody has edited one module, and left a token behind."""
    environment = {**os.environ, **ENVIRONMENT}
    evil = tmp_path / "evil.py"
    evil.write_text("raise SystemExit('changed')\n")
    inside = "/opt/openrs/lib/python3.11/site-packages/submitit/__init__.py"
    script = (
        'c=$(buildah from --quiet "oci:$0") && buildah add --quiet "$c" "$1" "$2" && buildah config --env HF_TOKEN=x "$c"'
        ' && buildah commit --quiet "$c" "oci:$3:built" && buildah rm "$c"'
    )
    out = tmp_path / "out"
    out.mkdir()
    words = [*PRIVATE, "sh", "-ec", script, str(cli["layout"]), str(evil), inside, str(out / "cli")]
    subprocess.run(words, env=environment, check=True, capture_output=True)
    done = run("images", "verify", "cli", "--out", out, "--builder", "buildah")
    assert done.returncode == 1
    assert "submitit/__init__.py was changed" in done.stderr and "environment HF_TOKEN" in done.stderr


def test_what_is_not_there(pushed: str, registry: Registry, tmp_path: Path) -> None:
    missing = pushed[:-64] + "0" * 64
    done = run("images", "verify", missing, "--insecure", cwd=tmp_path)
    assert done.returncode == 1 and "the registry has no such image or digest" in done.stderr
    assert done.stderr.count("\n") == 1
    done = run("images", "pin", "cli", missing, "--insecure", cwd=tmp_path)
    assert done.returncode == 1 and "the registry has no such image or digest" in done.stderr
    done = run("images", "pin", "cli", pushed, "--insecure", cwd=tmp_path)
    assert done.returncode == 2 and "stands on a stand-in base" in done.stderr
    closed = f"127.0.0.1:9/openrs/cli@{pushed.rpartition('@')[2]}"
    done = run("images", "verify", closed, "--insecure", cwd=tmp_path)
    assert done.returncode == 1 and "cannot be reached" in done.stderr


def test_a_tampered_registry_is_refused(pushed: str, registry: Registry, tmp_path: Path) -> None:
    """Bytes that are not those of the digest never become an image on a cluster."""
    profile = {"container": "oci", "image": pushed, "shared_root": str(tmp_path / "shared")}
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in profile.items())
    (tmp_path / "openrs.toml").write_text(f'[clusters.mine]\nextends = "slurm"\n{lines}')
    last = json.loads(registry.blob(pushed.rpartition("@")[2]).read_bytes())["layers"][-1]["digest"]
    blob = registry.blob(last)
    good = blob.read_bytes()
    blob.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    done = run("images", "fetch", "--cluster", "mine", "--insecure", cwd=tmp_path)
    assert done.returncode in (1, 2) and "openrs: " in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "shared" / "images").iterdir()), "nothing half done stays"
    blob.write_bytes(good)
    done = run("images", "fetch", "--cluster", "mine", "--insecure", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    place = Path(json.loads(done.stdout)["directory"])
    assert (place / "rootfs" / "opt" / "openrs" / "bin" / "openrs").exists()
    config = json.loads((place / "config.json").read_text())
    assert {"/cache", str(tmp_path / "shared")} <= {mount["destination"] for mount in config["mounts"]}
    done = run("images", "fetch", "--cluster", "mine", "--json", cwd=tmp_path)
    assert done.returncode == 0, "once a digest: the registry is not asked again, which would need --insecure"
    shutil.rmtree(tmp_path / "shared")
