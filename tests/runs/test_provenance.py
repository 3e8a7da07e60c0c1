"""What an attempt compares with the run's beginning, and what of it is grave. The GPUs are made up: none is at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openrs.runs import provenance

A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def machine(*gpus: str, capability: str = "8.6", shm: float = 8.0) -> dict[str, Any]:
    return {"gpus": list(gpus), "compute_capability": [capability for _ in gpus], "shm_gb": shm}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.json"
    path.write_text(json.dumps({"code": "sha256:1", "uv_lock_sha256": "c" * 64}))
    return path


def test_nothing_differs(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENRS_IMAGE", f"registry.example/train@{A}")
    lock = provenance.lock_content(source, machine())
    assert lock["image"] == f"registry.example/train@{A}"
    assert provenance.differences(lock, source) == ([], [])
    monkeypatch.setenv("OPENRS_IMAGE", f"mirror.example/openrs@{A}")
    assert provenance.differences(lock, source) == ([], []), "the same bytes from another registry"


@pytest.mark.parametrize(
    ("began", "now"), [(f"r/x@{A}", f"r/x@{B}"), (None, f"r/x@{A}"), (f"r/x@{A}", None), ("r/x:1", "r/x:2")]
)
def test_another_image_is_grave(
    source: Path, monkeypatch: pytest.MonkeyPatch, began: str | None, now: str | None
) -> None:
    lock = provenance.lock_content(source, machine()) | {"image": began}
    if now is None:
        monkeypatch.delenv("OPENRS_IMAGE", raising=False)
    else:
        monkeypatch.setenv("OPENRS_IMAGE", now)
    assert provenance.differences(lock, source) == ([f"image {began or 'none'} → {now or 'none'}"], [])


def test_other_versions_and_another_uv_lock(source: Path) -> None:
    lock = provenance.lock_content(source, machine())
    lock["distributions"] |= {"numpy": "1.0", "rich": "1.0"}
    lock["uv_lock_sha256"] = "d" * 64
    grave, harmless = provenance.differences(lock, source)
    assert len(grave) == 1 and grave[0].startswith("numpy 1.0 → ")
    assert [line.partition(" ")[0] for line in harmless] == ["rich", "uv.lock"]


def test_machines() -> None:
    a40 = machine("NVIDIA A40, 550.1", "NVIDIA A40, 550.1")
    assert provenance.machine_differences(a40, a40) == ([], [])
    slower = machine("NVIDIA A40, 560.2", shm=0.1)
    assert provenance.machine_differences(a40, slower) == (
        [],
        ["GPUs 2 → 1", "driver 550.1 → 560.2", "shared memory 8.0 → 0.1"],
    )
    grave, _ = provenance.machine_differences(
        a40, machine("NVIDIA H100 80GB HBM3, 550.1", "NVIDIA H100 80GB HBM3, 550.1")
    )
    assert grave == ["GPU NVIDIA A40 → NVIDIA H100 80GB HBM3"]
    assert provenance.machine_differences(a40, machine())[0] == [], "a GPU that is missing is the node's fault"


@pytest.mark.parametrize(
    ("capability", "attention", "fit"),
    [
        ("7.5", "flash_attention_2", False),
        ("7.5", "sdpa", True),
        ("8.0", "flash_attention_2", True),
        ("10.0", "flash_attention_2", True),
    ],
)
def test_flash_attention_needs_a_young_gpu(capability: str, attention: str, fit: bool) -> None:
    found = provenance.unfit(machine("NVIDIA T4, 550.1", capability=capability), attention)
    assert (found is None) is fit
    assert fit or "this node's have 7.5" in str(found)


def test_an_image_of_another_uv_lock(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.foreign_image(source) is None, "outside of an image"
    monkeypatch.setattr(provenance, "image_facts", lambda: {"uv_lock": "sha256:" + "c" * 64})
    assert provenance.foreign_image(source) is None
    monkeypatch.setattr(provenance, "image_facts", lambda: {"uv_lock": "sha256:" + "d" * 64})
    assert "another uv.lock" in str(provenance.foreign_image(source))
    source.write_text("{}")
    assert provenance.foreign_image(source) is None, "sent from an installed package, which has no uv.lock"
