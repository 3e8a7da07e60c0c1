"""Which changes of a spec a run may go on with."""

from __future__ import annotations

import pytest

from openrs.errors import BadInput
from openrs.spec.change import changed, check_change, identity, is_harmless, with_overrides
from openrs.spec.load import load_experiment

SMOKE = load_experiment("smoke")


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("title=Another", "title"),
        ("checkpoint.keep=3", "checkpoint.keep"),
        ("checkpoint.every_steps=auto", "checkpoint.every_steps"),
        ("recovery.grace_seconds=31", "recovery.grace_seconds"),
        ("training.log_completions=0", "training.log_completions"),
        ("resources.minutes=31", "resources.minutes"),
    ],
)
def test_harmless(override: str, field: str) -> None:
    now = with_overrides(SMOKE, [override])
    assert list(changed(SMOKE, now)) == [field] and is_harmless(field)
    assert identity(now) == identity(SMOKE)
    with pytest.raises(BadInput, match=rf"run mine: {field} was .*--allow-change"):
        check_change("mine", SMOKE, now, allow=False)
    assert list(check_change("mine", SMOKE, now, allow=True)) == [field]


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("training.seed=43", "training.seed"),
        ("training.steps=41", "training.steps"),
        ("sampling.temperature=0.8", "sampling.temperature"),
        ("data.count=3999", "data.count"),
        ("rewards.0.weight=2.0", "rewards"),
        ("environment.OMP_NUM_THREADS='2'", "environment.OMP_NUM_THREADS"),
        ("resources.gpus=1", "resources.gpus"),
        ("model.dtype=bfloat16", "model.dtype"),
    ],
)
def test_grave(override: str, field: str) -> None:
    now = with_overrides(SMOKE, [override, "title=Another"])
    assert not is_harmless(field) and identity(now) != identity(SMOKE)
    for allow in (False, True):
        with pytest.raises(BadInput, match=rf"run mine: {field} was .* \(and 1 more\); .* as a new run"):
            check_change("mine", SMOKE, now, allow)


def test_what_is_evaluated_is_not_trained_but_not_harmless_either() -> None:
    now = with_overrides(SMOKE, ["evaluation.at_steps=[10]"])
    assert identity(now) == identity(SMOKE) and not is_harmless("evaluation.at_steps")


def test_nothing_changed() -> None:
    assert check_change("mine", SMOKE, load_experiment("smoke"), allow=False) == {}
    with pytest.raises(BadInput, match="nowhere"):
        with_overrides(SMOKE, ["nowhere=3"])
