"""The result of a check as a value, which is read from a file without TensorFlow."""

from dataclasses import dataclass
from typing import Literal, get_args

Verdict = Literal["ok", "warning", "fault", "not applicable"]
"""What a check concludes, see `Finding`."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""All verdicts."""


@dataclass(frozen=True)
class Finding:
    """Holds the result of one check of a robustness evaluation.

    Args:
        name: Name of the check.
        measured: What was measured, or `None` where the check does not apply.
        threshold: The largest value of `measured` that is `"ok"`, or `None`. There are two
            exceptions: the accuracy in `collapsed` must be greater than the threshold, and the
            share in `no_gradient` must be smaller.
        verdict: `"ok"`; `"warning"`: add a stronger attack before you report the number;
            `"fault"`: the number does not measure robustness; or `"not applicable"`.
        meaning: A sentence that explains the number.
        source: Where the check was published.
    """

    name: str
    measured: float | None
    threshold: float | None
    verdict: Verdict
    meaning: str
    source: str
