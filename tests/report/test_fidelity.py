"""The table of the paper, the shipped code and the corrected experiments."""

from __future__ import annotations

from pathlib import Path

from openrs.report.fidelity import by_family, document, families
from openrs.spec.load import load_experiment, shipped_experiments

DOCUMENT = Path(__file__).parents[2] / "docs" / "fidelity.md"


def test_the_document_is_up_to_date() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run `make fidelity`"


def test_what_it_shows() -> None:
    text = document()
    assert set(families()) == {"exp1", "exp2", "exp3"}
    exp3 = text.partition("## exp3")[2].partition("\n## ")[0]
    assert "| `rewards.cosine.weight` | `1.0` | `2.0` | `2.0` |" in exp3
    assert "| `rewards.cosine.form` | `corrected` | `as-shipped` | `corrected` |" in exp3
    assert "| `data.answer` | `answer` | `solution` | `answer` |" in exp3
    assert "rewards.cosine.max_len" not in exp3  # the same in all three
    assert "| `rewards.cosine.max_len` | – | `1000` | – |" in text.partition("## exp2")[2]


def test_each_family_together() -> None:
    names = list(by_family({name: load_experiment(name) for name in shipped_experiments()}))
    assert names[:4] == ["exp1", "exp1-as-shipped", "exp1-paper", "exp2"] and names[-1] == "smoke"
