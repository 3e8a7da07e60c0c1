"""Fixtures of the runs: published problems; on Kubernetes, one user and one reference for each file of tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.k8s_user import Reference, User
from tests.rewards.corpus import data_directory
from tests.testbed.k8s.bed import K8sBed
from tests.testbed.k8s.client import unique


@pytest.fixture(scope="session")
def problem_sets() -> Path:
    """A directory with math500.jsonl, aime24.jsonl and others."""
    found = data_directory()
    if found is None:
        pytest.skip("OPENRS_SHARED names no directory with data/*.jsonl")
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """The same run on this machine, without any cluster."""
    found = Reference(tmp_path_factory.mktemp("reference"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def k8s_user(reference: Reference, k8s_bed: K8sBed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Somebody with a namespace of their own; at the end, what each disturbance cost."""
    space = k8s_bed.namespace(unique("smoke"))
    home = tmp_path_factory.mktemp("user")
    user = User(k8s_bed, space, home)
    yield user
    (home / "losses.json").write_text(json.dumps([vars(loss) for loss in user.losses], indent=2) + "\n")
    print(f"\n{user.table()}")
    k8s_bed.restore()
    k8s_bed.delete_namespace(space.name)
