"""Completions from the training model itself: the right distribution, seeds of their own, rows that are let go."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from openrs.data.load import model_path
from openrs.spec.parts import Sampling
from openrs.training.generation import Completion, Request, request_seed
from openrs.training.generation.local import LocalGenerator, draw
from openrs.training.model import load_model
from tests.training.harness import tiny

pytestmark = pytest.mark.train

SAMPLING = Sampling(temperature=1.0, max_prompt_tokens=32, max_new_tokens=24)
PROMPTS = [[1, 30, 40, 50, 4, 60, 70], [1, 33, 44], [1, 22, 60, 61, 62]]
END = 2


@pytest.fixture(scope="module")
def model() -> Any:
    name, revision = model_path(tiny().model)
    return load_model(name, revision, "float32", "sdpa")


def requests(count: int) -> list[Request]:
    return [Request(PROMPTS[number % 3], request_seed(7, 0, number % 3, number)) for number in range(count)]


def generate(model: Any, wanted: list[Request], batch_tokens: int = 65536, sampling: Sampling = SAMPLING) -> Any:
    generator = LocalGenerator(sampling, batch_tokens, [END], 0)
    generator.sync(model, 0)
    return generator.generate(wanted, lambda: False)


def test_each_completion_is_its_own(model: Any) -> None:
    """Whoever shares the batch, and whatever is drawn before: a row gets its prompt's and its seed's completion."""
    torch.manual_seed(3)
    state = torch.get_rng_state()
    drawn: list[Completion] = generate(model, requests(12))
    assert torch.equal(torch.get_rng_state(), state)
    assert len({tuple(one.ids) for one in drawn}) > 6
    for one in drawn:
        assert one.finished == (one.ids[-1] == END) and END not in one.ids[:-1]
        assert one.finished or len(one.ids) == SAMPLING.max_new_tokens
    assert {one.finished for one in drawn} == {True, False}
    assert generate(model, requests(12), batch_tokens=100) == drawn
    assert generate(model, requests(12)[::-1]) == drawn[::-1]
    assert model.training is False
    model.train()
    assert generate(model, requests(12)) == drawn
    assert model.training
    model.eval()


def test_a_token_is_drawn_with_its_probability(model: Any) -> None:
    """Step by step, the tokens are those of inversion under the probabilities of a plain forward pass."""
    for request, one in zip(requests(6), generate(model, requests(6)), strict=True):
        noise = torch.rand(SAMPLING.max_new_tokens, generator=torch.Generator().manual_seed(request.seed))
        ids = list(request.prompt)
        for number, token in enumerate(one.ids):
            probabilities = torch.softmax(model(torch.tensor([ids])).logits[0, -1], dim=-1).double()
            below, upto = probabilities[:token].sum(), probabilities[: token + 1].sum()
            assert below - 1e-5 <= float(noise[number]) <= upto + 1e-5
            ids.append(token)


def test_the_share_of_each_token() -> None:
    """100,000 draws against the probabilities, within five standard deviations."""
    count, logits = 100_000, torch.tensor([0.3, -1.0, 2.0, float("-inf"), 0.0, -3.0])
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0))
    for temperature, top_p in ((1.0, 1.0), (0.5, 1.0), (1.0, 0.8)):
        expected = torch.softmax(logits / temperature, dim=-1)
        if top_p < 1:  # the two likeliest hold more than 0.8, the likeliest alone does not
            expected = torch.where(expected >= expected.sort(descending=True).values[1], expected, 0.0)
            expected = expected / expected.sum()
        found = torch.bincount(draw(logits.expand(count, -1), uniform, temperature, top_p), minlength=6) / count
        deviation = (expected * (1 - expected) / count).sqrt()
        assert ((found - expected).abs() <= 5 * deviation).all(), (temperature, top_p, found, expected)


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-24])
def test_the_ends_of_the_interval(uniform: float) -> None:
    """Impossible tokens stand at both ends of the vocabulary, and are not taken."""
    logits = torch.full((1, 1000), float("-inf"))
    logits[0, 3:996] = torch.linspace(-5, 5, 993)
    token = int(draw(logits, torch.tensor([uniform]), 1.0, 1.0))
    assert token == (3 if uniform == 0 else 995)


def test_a_stop_is_seen_at_the_next_token(model: Any) -> None:
    generator = LocalGenerator(SAMPLING, 65536, [END], 0)
    generator.sync(model, 0)
    looks = 0

    def stop() -> bool:
        nonlocal looks
        looks += 1
        return looks > 3

    assert generator.generate(requests(3), stop) is None and looks == 4


def test_seeds_of_neighbours_share_nothing() -> None:
    seeds = {
        request_seed(run, step, row, number) for run in (0, 1) for step in (0, 1) for row in (0, 1) for number in (0, 1)
    }
    assert len(seeds) == 16 and all(0 <= seed < 2**63 for seed in seeds)
    assert min(abs(a - b) for a in seeds for b in seeds if a != b) > 2**40
