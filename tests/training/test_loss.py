"""The loss and its gradient: against the formulas, from whole logits, and against TRL 0.16.1."""

from __future__ import annotations

import contextlib
import copy
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from openrs.data.load import model_path
from openrs.spec.experiment import Experiment
from openrs.training.generation import Completion
from openrs.training.learner import Learned, Learner
from openrs.training.logprobs import _packed, _padded, token_stats
from openrs.training.model import load_model
from openrs.training.rollout import Group, Rollout, advantages_of
from tests.training.harness import tiny

pytestmark = pytest.mark.train

LENGTHS = [[3, 9, 1, 5], [12, 2, 7, 4]]
PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4, 3, 11]]
SCORES = [[1.0, 0.0, 2.0, 0.0], [0.0, 0.0, 1.0, 0.5]]
RANK: Any = SimpleNamespace(rank=0, world=1)


@pytest.fixture(scope="module")
def base() -> Any:
    name, revision = model_path(tiny().model)
    return load_model(name, revision, "float32", "sdpa")


@pytest.fixture
def model(base: Any) -> Any:
    """Some way from the base model, which is the reference."""
    moved = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return moved


def rollout(scores: list[list[float]] = SCORES) -> Rollout:
    """Two groups of four completions of several lengths; two of them were cut."""
    generator = torch.Generator().manual_seed(0)
    groups = [
        Group(
            row=row,
            prompt=prompt,
            completions=[
                Completion(
                    torch.randint(4, 100, (length,), generator=generator).tolist(), finished=length not in (9, 4)
                )
                for length in lengths
            ],
            scores={"accuracy": [*judged], "format": [None] * 4},
        )
        for row, (prompt, lengths, judged) in enumerate(zip(PROMPTS, LENGTHS, scores, strict=True))
    ]
    return Rollout(0, groups, {})


def experiment(*overrides: str) -> Experiment:
    return tiny(
        "training.prompts_per_step=2",
        "training.completions_per_prompt=4",
        "training.micro_batch=8",
        "sampling.max_new_tokens=16",
        *overrides,
    )


def learned(
    spec: Experiment, model: Any, base: Any, scores: list[list[float]] = SCORES
) -> tuple[Learned, list[torch.Tensor]]:
    """What the learner finds, and the gradients that it leaves."""
    model.zero_grad()
    learner = Learner(spec, base, RANK)
    result = learner.learn(model, rollout(scores), contextlib.nullcontext, lambda loss, last: loss.backward())
    return result, [parameter.grad.clone() for parameter in model.parameters()]


def plain_logps(model: Any, prompt: list[int], ids: list[int], temperature: float) -> torch.Tensor:
    """From the whole logits of one sequence."""
    logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / temperature
    return torch.log_softmax(logits.float(), dim=-1)[range(len(ids)), ids]


def by_formula(
    spec: Experiment, model: Any, base: Any, judged: list[list[float]] = SCORES
) -> tuple[float, list[torch.Tensor]]:
    """Loss and gradients as the papers write them, sequence by sequence."""
    training, total = spec.training, torch.zeros(())
    temperature = training.logprob_temperature or spec.sampling.temperature
    scores = torch.tensor(judged)
    advantages = scores - scores.mean(1, keepdim=True)
    if training.scale_rewards:
        advantages = advantages / (scores.std(1, keepdim=True) + 1e-4)
    costs, counted = [], []
    for group, row in zip(rollout().groups, advantages, strict=True):
        for one, advantage in zip(group.completions, row, strict=True):
            logps = plain_logps(model, group.prompt, one.ids, temperature)
            cost = -torch.exp(logps - logps.detach()) * advantage
            if training.beta:
                with torch.no_grad():
                    reference = plain_logps(base, group.prompt, one.ids, temperature)
                cost = cost + training.beta * (torch.exp(reference - logps) - (reference - logps) - 1)
            costs.append(cost)
            counted.append(one.finished or not training.mask_truncated)
    kept = [cost for cost, counts in zip(costs, counted, strict=True) if counts]
    match training.loss:
        case "dapo":
            total = torch.cat(kept).sum() / sum(map(len, kept))
        case "grpo":
            total = torch.stack([cost.mean() for cost in kept]).sum() / len(costs)
        case "dr_grpo":
            total = torch.cat(kept).sum() / (len(costs) * spec.sampling.max_new_tokens)
        case "bnpo":
            size = training.micro_batch
            parts = [torch.cat(costs[first : first + size]).mean() for first in range(0, len(costs), size)]
            total = torch.stack(parts).mean()
    model.zero_grad()
    total.backward()
    return total.item(), [parameter.grad.clone() for parameter in model.parameters()]


def close(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5 * float(other.abs().max() + 1e-3))


VARIANTS = [
    ["training.loss=dapo"],
    ["training.loss=dapo", "training.micro_batch=3", "training.beta=0.04"],
    ["training.loss=dapo", "training.micro_batch_tokens=80"],
    ["training.loss=dapo", "training.mask_truncated=true"],
    ["training.loss=grpo", "training.micro_batch=3", "training.beta=0.04"],
    ["training.loss=grpo", "training.mask_truncated=true", "training.scale_rewards=false"],
    ["training.loss=dr_grpo", "training.micro_batch=2", "training.scale_rewards=false"],
    ["training.loss=bnpo", "training.micro_batch=2", "training.beta=0.04"],
    ["training.loss=bnpo", "training.logprob_temperature=1.0"],
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: " ".join(changes).replace("training.", ""))
def test_the_gradient_is_the_formulas(changes: list[str], model: Any, base: Any) -> None:
    """The ratio is 1 (μ = 1), so no clipping acts, whatever ε is."""
    spec = experiment(*changes, "training.epsilon=0.1", "training.epsilon_high=0.3")
    result, gradients = learned(spec, model, base)
    loss, expected = by_formula(spec, model, base)
    assert result.loss.item() == pytest.approx(loss, rel=1e-4, abs=1e-6) and result.finite
    counted = [one for one in rollout().completions if one.finished or not spec.training.mask_truncated]
    assert result.clipped == 0 and result.tokens == sum(len(one.ids) for one in counted) and result.entropy > 0
    assert (result.kl is None) == (spec.training.beta == 0) and (result.kl is None or result.kl > 0)
    close(gradients, expected)


@pytest.mark.parametrize("loss", ["dapo", "grpo", "dr_grpo", "bnpo"])
@pytest.mark.parametrize("first", [0, 1])
def test_a_group_of_equal_rewards_is_left_out(loss: str, first: int, model: Any, base: Any) -> None:
    """Where nothing draws it to the reference model it has no gradient, but still counts in what tokens are divided by."""
    scores = [[0.7] * 4, [0.0, 0.0, 1.0, 0.5]]
    scores = scores if first == 0 else scores[::-1]
    spec = experiment(f"training.loss={loss}", "training.micro_batch=2", "training.beta=0.0")
    result, gradients = learned(spec, model, base, scores)
    value, expected = by_formula(spec, model, base, scores)
    assert (result.passes, result.tokens) == (2, sum(LENGTHS[1 - first]))
    assert result.loss.item() == pytest.approx(value, rel=1e-4, abs=1e-6)
    close(gradients, expected)
    kept = learned(experiment("training.beta=0.04", "training.micro_batch=2"), model, base, scores)[0]
    assert (kept.passes, kept.tokens) == (4, sum(map(sum, LENGTHS)))


def test_a_rank_with_too_little_to_learn_from_makes_as_many_passes(
    model: Any, base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other rank is said to need six; here four completions have a gradient."""
    monkeypatch.setattr(
        "openrs.training.learner.every_rank", lambda _, item: [item, 6] if isinstance(item, int) else [item]
    )
    spec, scores = experiment("training.beta=0.0"), [[0.7] * 4, [0.0, 0.0, 1.0, 0.5]]
    last: list[bool] = []

    def backward(loss: torch.Tensor, end: bool) -> None:
        loss.backward()
        last.append(end)

    model.zero_grad()
    result = Learner(spec, base, RANK).learn(model, rollout(scores), contextlib.nullcontext, backward)
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    assert last == [False] * 5 + [True] and (result.passes, result.tokens) == (4, sum(LENGTHS[1]))
    value, expected = by_formula(spec, model, base, scores)
    assert result.loss.item() == pytest.approx(value, rel=1e-4, abs=1e-6)
    close(gradients, expected)


def test_a_step_of_equal_rewards_moves_nothing(model: Any, base: Any) -> None:
    result, gradients = learned(experiment("training.beta=0.0"), model, base, [[0.1] * 4, [0.7] * 4])
    assert (result.passes, result.tokens, result.entropy, result.loss.item()) == (0, 0, 0.0, 0.0)
    assert all(not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("passes", [1, 4])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_bnpo_is_what_trl_computes(beta: float, passes: int, temperature: float, model: Any, base: Any) -> None:
    """TRL 0.16.1's own loss on the same completions, padded as it pads them. At 1 it is what Open-RS shipped."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    size = 8 // passes
    changes = [f"training.micro_batch={size}", f"training.beta={beta}", f"training.logprob_temperature={temperature}"]
    result, gradients = learned(experiment("training.loss=bnpo", *changes), model, base)
    theirs = SimpleNamespace(
        temperature=temperature,
        beta=beta,
        num_iterations=1,
        epsilon_low=0.2,
        epsilon_high=0.2,
        control=SimpleNamespace(should_evaluate=False),
        accelerator=SimpleNamespace(gather_for_metrics=lambda tensor: tensor),
        args=SimpleNamespace(report_to=[]),
        _metrics={"train": defaultdict(list)},
    )
    theirs._get_per_token_logps = lambda *arguments: GRPOTrainer._get_per_token_logps(theirs, *arguments)
    samples = [(group.prompt, one.ids) for group in rollout().groups for one in group.completions]
    advantages = advantages_of(torch.tensor(SCORES), scale=True).flatten()
    model.zero_grad()
    total = 0.0
    for first in range(0, 8, size):
        batch = samples[first : first + size]
        inputs = padded(batch) | {"advantages": advantages[first : first + size], "old_per_token_logps": None}
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        with torch.no_grad():
            inputs["ref_per_token_logps"] = theirs._get_per_token_logps(
                base, ids, mask, inputs["completion_ids"].shape[1]
            )
        loss = GRPOTrainer.compute_loss(theirs, model, inputs) / passes
        loss.backward()
        total += loss.item()
    assert result.loss.item() == pytest.approx(total, rel=1e-4, abs=1e-6) and result.passes == passes
    close(gradients, [parameter.grad for parameter in model.parameters()])


def padded(batch: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    """As TRL has them: prompts padded on the left, completions on the right."""
    wide, long = (max(len(sample[part]) for sample in batch) for part in (0, 1))
    left = [
        ([0] * (wide - len(prompt)) + prompt, [0] * (wide - len(prompt)) + [1] * len(prompt)) for prompt, _ in batch
    ]
    right = [(ids + [0] * (long - len(ids)), [1] * len(ids) + [0] * (long - len(ids))) for _, ids in batch]
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
    values = [[row[part] for row in rows] for rows in (left, right) for part in (0, 1)]
    return {name: torch.tensor(value) for name, value in zip(names, values, strict=True)}


def test_blocks_change_nothing(model: Any) -> None:
    samples = [(group.prompt, one.ids) for group in rollout().groups for one in group.completions]
    prompts, completions = map(list, zip(*samples, strict=True))
    found = []
    for elements in (1, 103 * 5, 2**26):
        model.zero_grad()
        stats = token_stats(model, prompts, completions, 0.7, elements)
        (stats.logps * torch.arange(len(stats.logps))).sum().backward()
        found.append(
            (stats.logps.detach(), stats.entropy, [parameter.grad.clone() for parameter in model.parameters()])
        )
    for logps, entropy, gradients in found[:2]:
        torch.testing.assert_close(logps, found[2][0])
        torch.testing.assert_close(entropy, found[2][1])
        close(gradients, found[2][2])
    logits = model(torch.tensor([prompts[0] + completions[0]])).logits[0, len(prompts[0]) - 1 : -1] / 0.7
    expected = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(found[0][1][: len(completions[0])], expected, rtol=1e-4, atol=1e-5)


def test_the_packed_layout_is_the_same_sequences(model: Any) -> None:
    """What flash-attention gets, which needs a GPU: here a mask keeps the sequences of the one row apart instead."""
    samples = [(group.prompt, one.ids) for group in rollout().groups for one in group.completions]
    prompts, completions = map(list, zip(*samples, strict=True))
    inputs, places = _packed(prompts, completions, torch.device("cpu"))
    positions = inputs["position_ids"][0]
    assert inputs["input_ids"].shape == (1, sum(len(p) + len(c) for p, c in samples))
    number = (positions == 0).cumsum(0)
    visible = (number.unsqueeze(1) == number.unsqueeze(0)).tril()
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)[None, None]
    packed = model.get_decoder()(**inputs, attention_mask=mask, use_cache=False).last_hidden_state[0][places]
    inputs, places = _padded(prompts, completions, torch.device("cpu"))
    hidden = model.get_decoder()(**inputs, use_cache=False).last_hidden_state
    torch.testing.assert_close(packed, hidden.reshape(-1, hidden.shape[-1])[places], rtol=1e-4, atol=1e-5)


def test_a_loss_that_is_no_number_is_reported(model: Any, base: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    assert not learned(experiment(), model, base)[0].finite
