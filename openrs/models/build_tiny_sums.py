r"""Builds ``tiny-sums``, the 213,504-parameter base model of the smoke experiment.

    python -m openrs.models.build_tiny_sums --out DIR [--seed 4]

The model learns in two phases. First it learns to work sums out; then it picks up the habit of guessing most
of the time. So it knows a behaviour that it seldom shows, and GRPO has something to find within 40 steps.
(A base without the bad habit gains nothing at this size: GRPO selects behaviour, it does not teach sums.)

Seeds differ in how well they learn to copy a sum's terms within these steps, and GRPO cannot mend that; the
default seed is one that copies well.

One build takes about 45 seconds on one core and 0.9 GB. The same seed, torch version and kind of CPU give the
same bytes; ``build.json`` records them and ``SHA256SUMS`` the bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import random
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openrs.data import sums

# torch and transformers take ten seconds to import: only what builds or measures pays for them.
if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast, Qwen2ForCausalLM

PAD, IM_START, IM_END, UNK = SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>")
# Not special: TRL decodes with skip_special_tokens=True, and rewards must still see them.
MARKUP = ("<think>", "</think>", "\\boxed{")
ALPHABET = ("\n", *map(chr, range(32, 127)))
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

STEPS, WORKED_ONLY_STEPS, RAMP_STEPS, BATCH = 460, 360, 20, 32
PEAK_LR, FINAL_LR_SHARE = 4e-3, 0.05
DEFAULT_SEED = 4
WORKED_SHARE, GUESS_SHARE = 0.35, 0.55  # of the second phase; the rest are broken answers
MAX_NEW_TOKENS = 48  # the longest worked answer has 38


@dataclass(frozen=True)
class Score:
    """What a model does on held-out problems; shares are of all answers, in percent."""

    n: int
    temperature: float
    accuracy: float
    worked: float


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token a character, 103 tokens in all, and ChatML's turn marks."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate((*SPECIALS, *ALPHABET, *MARKUP))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNK))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(SPECIALS))
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKUP])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=IM_END,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        chat_template=CHAT_TEMPLATE,
    )


def build_untrained(seed: int, tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    """A randomly initialised Qwen2 of 213,504 float32 parameters. Sets torch's global seed."""
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=256,
        max_position_embeddings=1024,
        rope_theta=10_000.0,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(config)
    # Token ids only: a sampling default here would leak into every generate() that leaves it unset.
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def warm_up_completion(problem: str, step: int, rng: random.Random) -> str:
    """What the model is shown for ``problem`` at a warm-up step: a worked, guessed or broken answer."""
    worked = sums.worked_solution(problem)
    if step < WORKED_ONLY_STEPS:
        return worked
    habit = rng.random()
    if habit < WORKED_SHARE:
        return worked
    answer = sums.answer_to(problem)
    if habit < WORKED_SHARE + GUESS_SHARE:
        return f"<think></think>\n\\boxed{{{answer}}}"
    thought, _, _ = worked.partition("</think>")
    return f"{thought}\n{answer}"


def learning_rate(step: int) -> float:
    """Linear to the peak over 20 steps, then a cosine down to 5 % of it."""
    if step < RAMP_STEPS:
        return PEAK_LR * (step + 1) / RAMP_STEPS
    progress = (step - RAMP_STEPS) / (STEPS - RAMP_STEPS)
    return PEAK_LR * (FINAL_LR_SHARE + (1 - FINAL_LR_SHARE) * (1 + math.cos(math.pi * progress)) / 2)


def warm_up(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
    """Trains ``model`` in place on train problems, 460 steps of 32; the loss reads completions only."""
    import torch

    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    model.train()
    started = time.monotonic()
    for step in range(STEPS):
        examples = []
        for _ in range(BATCH):
            problem = sums.draw("train", rng)
            examples.append((as_prompt(tokenizer, problem), warm_up_completion(problem, step, rng) + IM_END))
        input_ids, labels = _batch(tokenizer, examples)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        # Padding is on the right and attention is causal, so no real token sees it: no mask is needed.
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 20 == 0:
            seconds = time.monotonic() - started
            print(f"step {step + 1}/{STEPS}  loss {loss.item():.3f}  {seconds:.0f} s", file=sys.stderr)


def as_prompt(tokenizer: Any, problem: str) -> str:
    """The text that a chat model sees for a problem: one user message, then the assistant's turn."""
    message = [{"role": "user", "content": problem}]
    return str(tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True))


def measure(model: PreTrainedModel, tokenizer: Any, n: int = 1000, temperature: float = 0.7, seed: int = 0) -> Score:
    r"""Samples one answer to each of ``n`` held-out problems (greedy at temperature 0) and scores them.

    Right means that the think part is closed and the completion ends in ``\boxed{…}`` with the answer.
    ``n`` is 1 to 20,000. Sets torch's global seed.
    """
    import torch

    rows = sums.generate("held_out", n, seed)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    model.eval()
    torch.manual_seed(seed)
    right = worked = 0
    for start in range(0, n, 100):
        batch = rows[start : start + 100]
        prompts = tokenizer(
            [as_prompt(tokenizer, row["problem"]) for row in batch],
            return_tensors="pt",
            padding=True,
            padding_side="left",
        )
        with torch.inference_mode():
            output = model.generate(
                input_ids=prompts["input_ids"],
                attention_mask=prompts["attention_mask"],
                max_new_tokens=MAX_NEW_TOKENS,
                **sampling,
            )
        completions = tokenizer.batch_decode(output[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
        for row, completion in zip(batch, completions, strict=True):
            right += completion.endswith(f"</think>\n\\boxed{{{row['answer']}}}")
            worked += sums.is_worked(completion, row["problem"])
    return Score(n, temperature, round(100 * right / n, 1), round(100 * worked / n, 1))


def build(out: Path, seed: int) -> None:
    """Builds the model in ``out`` (made if missing; files of an earlier build are overwritten)."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    tokenizer = build_tokenizer()
    model = build_untrained(seed, tokenizer)
    warm_up(model, tokenizer, seed)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(out)
    # Half the size in fp16; transformers still loads it as float32 unless told otherwise.
    model.half().save_pretrained(out)
    shipped = AutoModelForCausalLM.from_pretrained(out, torch_dtype=torch.float32)
    scores = [measure(shipped, tokenizer, temperature=t) for t in (0.7, 0.0)]
    build_info = build_environment() | {"seed": seed, "held_out": [asdict(score) for score in scores]}
    (out / "build.json").write_text(json.dumps(build_info, indent=2) + "\n")
    (out / "README.md").write_text(model_card(seed, scores))
    write_checksums(out)


def build_environment() -> dict[str, str]:
    """What the bytes of a build depend on besides its seed."""
    import torch
    import transformers

    return {
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cpu": cpu_name(),
        "transformers": transformers.__version__,
    }


def cpu_name() -> str:
    """The processor's model where Linux tells it, else its architecture.

    Recorded because the maths libraries choose their code path by vendor too, not only by capability.
    """
    if (cpuinfo := Path("/proc/cpuinfo")).is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def write_checksums(directory: Path) -> None:
    """Writes ``SHA256SUMS`` over every other file of ``directory``, in the format of ``sha256sum``."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(directory.iterdir())
        if path.name != "SHA256SUMS"
    ]
    (directory / "SHA256SUMS").write_text("".join(lines))


def model_card(seed: int, scores: list[Score]) -> str:
    """The README.md of the model directory."""
    rows = "\n".join(
        f"| {'greedy' if s.temperature == 0 else f'T {s.temperature}'} | {s.accuracy} % | {s.worked} % |"
        for s in scores
    )
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# tiny-sums

The base model of openrs' smoke experiment: a Qwen2 of 213,504 parameters (2 layers, hidden size 96, one
token a character) that answers sums such as `3+8-2+1=?`. It exists to show GRPO learn something real on a
CPU within a minute, and is good for nothing else.

It knows how to work a sum out, and is right most of the time when it does, but it mostly guesses: its
warm-up ended with {round(100 * WORKED_SHARE)} % worked and {round(100 * GUESS_SHARE)} % guessed answers, the
rest broken. GRPO finds that working pays. It selects a behaviour that is there; it hardly improves the
arithmetic.

Held-out problems (`crc32(expression) % 10 == 0`, never trained on), n = {scores[0].n}:

| decoding | right | worked out |
|---|---|---|
{rows}

Right: closed think part, then the answer in `\\boxed{{}}`. Worked out: one step per operator, with the
problem's own operators and terms; totals may be wrong.

Seeds differ in how well they learn to copy a sum's terms in this warm-up, and GRPO ends lower where they
copy badly; the default seed was chosen because it copies well. So this model's gain checks that training
works. It does not estimate GRPO's usual effect.

Built by `python -m openrs.models.build_tiny_sums --seed {seed}`; `build.json` says on what. The same torch
version on the same kind of CPU gives the same bytes. Weights are stored as fp16 and load as float32.
"""


def _batch(tokenizer: PreTrainedTokenizerFast, examples: list[tuple[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(input ids, labels) of prompt-completion pairs, padded on the right; -100 where the loss looks away."""
    import torch

    pairs = [(tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"]) for prompt, completion in examples]
    width = max(len(prompt) + len(completion) for prompt, completion in pairs)
    input_ids = torch.full((len(pairs), width), tokenizer.pad_token_id, dtype=torch.long)
    labels = torch.full_like(input_ids, -100)
    for i, (prompt, completion) in enumerate(pairs):
        end = len(prompt) + len(completion)
        input_ids[i, :end] = torch.tensor(prompt + completion)
        labels[i, len(prompt) : end] = torch.tensor(completion)
    return input_ids, labels


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build the tiny-sums base model.")
    parser.add_argument("--out", type=Path, required=True, help="directory to write the model to")
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED, help="default %(default)s")
    arguments = parser.parse_args()
    build(arguments.out, arguments.seed)
    print(arguments.out)


if __name__ == "__main__":
    main()
