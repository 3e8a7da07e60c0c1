"""Memory plan and step model: counted by hand once, and against a real model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openrs.estimate.memory import memory_plan
from openrs.estimate.shape import cached, shape_of, shape_of_config
from openrs.estimate.speed import GPUS, gpu_of, steps
from openrs.spec.load import load_experiment
from openrs.spec.parts import HubModel
from openrs.training.sizes import kv_blocks

GIB = 2**30


def test_the_papers_model() -> None:
    shape = shape_of(load_experiment("exp3").model)
    assert shape is not None
    assert shape.parameters == 1_777_088_000 and shape.kv_bytes(2) == 28_672


@pytest.mark.train
def test_parameters_are_those_of_the_real_model() -> None:
    from openrs.data.load import model_path
    from openrs.training.model import load_model

    spec = load_experiment("smoke").model
    model, shape = load_model(*model_path(spec), "float32", "sdpa"), shape_of(spec)
    assert shape is not None and shape.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_plan_of_exp3() -> None:
    """By hand: 1,777,088,000 parameters, 4 ranks, 18 sequences of 4,096 tokens, 24,576 tokens a micro-batch."""
    spec = load_experiment("exp3")
    shape = shape_of(spec.model)
    assert shape is not None
    plan = memory_plan(spec, shape)
    count = 1_777_088_000
    assert plan.training["weights"] == pytest.approx(2 * count / GIB)
    assert plan.training["gradients, optimizer (this rank's share)"] == pytest.approx((2 + 4 + 8) * count / 4 / GIB)
    assert plan.training["vLLM: KV cache"] == pytest.approx(kv_blocks(18, 4096) * 16 * 28672 / GIB)
    layer = 24576 * (16 * 1536 + 8 * 8960) * 2
    assert plan.training["activations"] == pytest.approx((24576 * 28 * 1536 * 2 + layer) / GIB)
    assert plan.total == pytest.approx(sum(plan.training.values())) and plan.total < GPUS["A40"].memory
    free = memory_plan(load_experiment("exp3", ["training.beta=0"]), shape)
    assert "reference model" not in free.training and plan.total - free.total == pytest.approx(2 * count / GIB)
    served = memory_plan(load_experiment("exp3-paper"), shape)
    assert not any(name.startswith("vLLM") for name in served.training)


def test_the_kv_cache_holds_every_sequence_at_its_longest() -> None:
    for sequences, window in ((1, 1), (18, 4096), (72, 4097), (7, 33)):
        blocks = kv_blocks(sequences, window)
        assert blocks - int(0.01 * blocks) >= sequences * -(-window // 16)  # vLLM admits nothing into the last 1 %


def test_the_modelled_step() -> None:
    """The figures that are published of the shipped run: ≈ 236–252 s a step, 4 × 24 h × $0.44 = $42 with fewer steps."""
    spec = load_experiment("exp3")
    shape, gpu = shape_of(spec.model), gpu_of("a40")
    assert shape is not None and gpu is not None
    shipped, server, colocate = steps(spec, shape, gpu)
    assert 220 < shipped.total < 252 and 200 < shipped.generation < 215
    assert 68 < colocate.total < 76 and colocate.total < server.total < shipped.total
    assert [
        step.name
        for step in steps(load_experiment("exp3", ["resources.gpus=1", "resources.gpu_type=A100"]), shape, gpu)
    ] == ["layout colocate: one generation on all 1 GPUs"]


def test_a_model_is_known_from_the_cache_and_from_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    model = HubModel(type="hub", name="a/b", revision="main")
    assert shape_of(model) is None
    repository = tmp_path / "hub" / "models--a--b"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c" * 40)
    config = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 4, "vocab_size": 100, "tie_word_embeddings": True}
    assert cached("a/b", "main").name == "c" * 40
    cached("a/b", "main").mkdir(parents=True)
    (cached("a/b", "main") / "config.json").write_text(json.dumps(config))
    shape = shape_of(model)
    assert shape is not None and shape.parameters == 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64 + 100 * 64
    assert shape_of_config({"model_type": "mamba"}) is None and shape_of_config({**config, "vocab_size": None}) is None


def test_gpu_types_in_a_schedulers_words() -> None:
    assert gpu_of("NVIDIA-A40") is gpu_of("a40") is GPUS["A40"] and gpu_of("nvidia_a100_80gb") is GPUS["A100"]
    assert gpu_of(None) is None and gpu_of("T4") is None
