"""What a check found, and how large a difference counts."""

from typing import NamedTuple

OK, WARNING, FAULT, NOT_APPLICABLE = VERDICTS = ("ok", "warning", "fault", "not applicable")

AUTOATTACK = (
    "Croce & Hein 2020, 'Reliable evaluation of adversarial robustness with an ensemble of "
    "diverse parameter-free attacks', and the checks of its code"
)
CARLINI = "Carlini et al. 2019, 'On Evaluating Adversarial Robustness'"
ATHALYE = "Athalye, Carlini & Wagner 2018, 'Obfuscated Gradients Give a False Sense of Security'"
PINTOR = "Pintor et al. 2022, 'Indicators of Attack Failure'"


class Finding(NamedTuple):
    """One check of an evaluation.

    Attributes:
        name: which check.
        measured: a number, or `None` where the check does not apply.
        threshold: what `measured` may be at most, or `None`. Two differ: an accuracy in
            `collapsed` must be greater, a share in `no_gradient` smaller.
        verdict: `"ok"`, `"warning"`: the number needs a stronger attack beside it, `"fault"`:
            the number is not robustness, or `"not applicable"`.
        meaning: a sentence with the number.
        source: where the check comes from.
    """

    name: str
    measured: float | None
    threshold: float | None
    verdict: str
    meaning: str
    source: str


def judged(name, measured, threshold, meaning, source, beyond=FAULT):
    """A `Finding` that is `"ok"` up to the threshold, `beyond` above it."""
    verdict = beyond if measured > threshold else OK
    return Finding(name, float(measured), float(threshold), verdict, meaning, source)


def not_applicable(name, meaning, source):
    """A `Finding` of a check that this model or data gives nothing to measure."""
    return Finding(name, None, None, NOT_APPLICABLE, meaning, source)


def difference(share, n):
    """A share of n examples that is no accident: never a single example.

    Args:
        share: the least that matters.
        n: number of examples.
    """
    return max(share, 1.5 / n)


def percent(share):
    """A share in words: `73 %`, `0.4 %`."""
    value = 100 * share
    return f"{value:.0f} %" if value >= 10 or value == round(value) else f"{value:.2g} %"
