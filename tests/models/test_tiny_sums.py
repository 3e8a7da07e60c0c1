import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openrs.data import sums
from openrs.models import TINY_SUMS


def checksums(directory: Path) -> dict[str, str]:
    """File name → sha256, as ``SHA256SUMS`` says."""
    lines = (directory / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split("  ") for line in lines)}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(TINY_SUMS)


@pytest.fixture(scope="module")
def model() -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoModelForCausalLM.from_pretrained(TINY_SUMS)


def test_every_shipped_file_has_its_checksum() -> None:
    shipped = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in TINY_SUMS.iterdir()
        if path.name != "SHA256SUMS"
    }
    assert shipped == checksums(TINY_SUMS)


def test_the_builder_module_imports_no_heavy_package() -> None:
    code = "import sys, openrs.models.build_tiny_sums; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_generation_config_sets_token_ids_only() -> None:
    generation = json.loads((TINY_SUMS / "generation_config.json").read_text())
    assert generation.keys() == {"eos_token_id", "pad_token_id", "transformers_version"}


def test_model_loads_as_float32_and_agrees_with_its_tokenizer(model: Any, tokenizer: Any) -> None:
    import torch

    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in model.parameters()) == 213_504
    assert model.config.vocab_size == len(tokenizer) == 103
    assert model.config.eos_token_id == tokenizer.eos_token_id == 2
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    assert tokenizer.bos_token is None
    assert tokenizer.padding_side == "left"


def test_markup_survives_a_decode_that_skips_special_tokens(tokenizer: Any) -> None:
    completion = sums.worked_solution("3+8-2+1=?")
    ids = tokenizer(completion + "<|im_end|><|endoftext|>")["input_ids"]
    assert len(ids) < 40  # <think>, </think> and \boxed{ are one token each
    assert tokenizer.decode(ids, skip_special_tokens=True) == completion


def test_any_printable_text_survives_the_tokenizer(tokenizer: Any) -> None:
    text = "\n" + "".join(map(chr, range(32, 127))) + "  two  spaces , and .marks '"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_chat_template_leaves_the_turn_to_the_assistant(tokenizer: Any) -> None:
    from openrs.models.build_tiny_sums import as_prompt

    prompt = "<|im_start|>user\n1+2+3+4+5=?<|im_end|>\n<|im_start|>assistant\n"
    assert as_prompt(tokenizer, "1+2+3+4+5=?") == prompt
    assert len(tokenizer(prompt)["input_ids"]) == 30


def test_recorded_scores_can_be_measured_again(model: Any, tokenizer: Any) -> None:
    from openrs.models.build_tiny_sums import measure

    recorded = json.loads((TINY_SUMS / "build.json").read_text())["held_out"]
    sampled = next(score for score in recorded if score["temperature"] == 0.7)
    assert 25 <= sampled["accuracy"] <= 40
    # Another kind of CPU may sample other tokens; 400 problems have a standard error of 2.3 points.
    assert measure(model, tokenizer, n=400).accuracy == pytest.approx(sampled["accuracy"], abs=9)


@pytest.mark.slow
def test_a_rebuild_gives_the_shipped_model(tmp_path: Path) -> None:
    """Same bytes on the kind of machine that built it, same behaviour elsewhere."""
    pytest.importorskip("transformers")
    from openrs.models.build_tiny_sums import build_environment

    recorded = json.loads((TINY_SUMS / "build.json").read_text())
    command = [sys.executable, "-m", "openrs.models.build_tiny_sums", "--seed", str(recorded["seed"])]
    subprocess.run([*command, "--out", tmp_path], check=True, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    if all(recorded[key] == value for key, value in build_environment().items()):
        assert checksums(tmp_path) == checksums(TINY_SUMS)
    else:
        rebuilt = json.loads((tmp_path / "build.json").read_text())
        for then, now in zip(recorded["held_out"], rebuilt["held_out"], strict=True):
            if then["temperature"] > 0:  # greedy turns on small differences
                assert now["accuracy"] == pytest.approx(then["accuracy"], abs=10)
