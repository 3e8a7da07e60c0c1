"""When a drill kills: instants spread evenly over the phases of a step. Plain data; imports no torch."""

from __future__ import annotations

from itertools import pairwise

from openrs.spec.base import Strict
from openrs.training.phases import PHASES, Phase

VARIABLE = "OPENRS_DRILL"
"""Environment variable that tells a training process of its drill."""


class Kill(Strict):
    """One instant. The attempt `n` of a run dies at the `n`th kill of its orders."""

    phase: Phase
    occurrence: int
    """In the so-manieth of these phases since the attempt began."""
    share: float
    """How much of the phase is over, 0 to 1."""
    by_operation: bool
    """Whether `share` counts file operations or time."""
    power_cut: bool
    """Whether what was not yet on disk is lost as well."""
    supervisor: bool
    """Whether the supervisor is killed along with its ranks, or one rank alone."""


class Measured(Strict):
    """What a phase took in the undisturbed run, medians."""

    seconds: float
    operations: int


class Orders(Strict):
    """What `VARIABLE` holds, in JSON."""

    kills: list[Kill] = []
    typical: dict[Phase, Measured] = {}
    """None in the undisturbed run, which measures them."""
    save_seconds: float = 0.0
    """A save lasts at least so long."""


def spread(count: int, ranks: int = 1) -> list[Kill]:
    """`count` kills, as many in each phase as in every other (or one less), evenly over each."""
    per_phase = -(-count // len(PHASES))
    kills = []
    for number in range(count):
        turn, place = divmod(number, len(PHASES))
        phase = PHASES[place]
        # Each phase begins elsewhere in the round of four, so that a few kills are of all kinds too.
        kind = (turn + place) % 4
        kills.append(
            Kill(
                phase=phase,
                occurrence=1 + turn % 2,
                share=(turn + 0.5) / per_phase,
                # Writing takes long where there is much to write, and the rest of a file phase is operations.
                by_operation=phase == "rename" or (phase in ("journal", "save") and turn % 3 != 2),
                # With several ranks nobody sees what all of them have made durable.
                power_cut=ranks == 1 and kind in (1, 2),
                supervisor=kind in (2, 3),
            )
        )
    return kills


def largest_gap(shares: list[float]) -> float:
    """The longest part of a phase in which nothing was killed."""
    return max(after - before for before, after in pairwise([0.0, *sorted(shares), 1.0]))
