"""Which completions share a forward and backward pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def by_length(
    chosen: Iterable[int], lengths: Sequence[int], size: int, tokens: int | None, padded: bool
) -> list[list[int]]:
    """The chosen indices of sequences, the longest first, at most `size` and about `tokens` tokens a pass.

    Padding counts where there is any (`padded`). A sequence longer than `tokens` has a pass of its own.
    """
    passes: list[list[int]] = []
    for index in sorted(chosen, key=lambda index: -lengths[index]):
        if passes and len(passes[-1]) < size:
            last = [*passes[-1], index]
            held = lengths[last[0]] * len(last) if padded else sum(lengths[one] for one in last)
            if tokens is None or held <= tokens:
                passes[-1] = last
                continue
        passes.append([index])
    return passes


def in_passes(passes: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """The same, cut into `count` passes, which are at least as many; every one of them holds something.

    ZeRO reduces gradients in each backward pass, so all ranks must make the same number of them. Raises ValueError
    where there are not enough indices.
    """
    cut = [list(one) for one in passes]
    while len(cut) < count:
        largest = max(range(len(cut)), key=lambda index: len(cut[index]))
        half = len(cut[largest]) // 2
        if not half:
            raise ValueError(f"{len(cut)} completions cannot fill {count} passes")
        cut[largest : largest + 1] = [cut[largest][:half], cut[largest][half:]]
    return cut
