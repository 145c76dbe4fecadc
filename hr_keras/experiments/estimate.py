"""A mean over realizations and how well it is known."""

import dataclasses
import math
import statistics


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over independent realizations.

    Attributes:
        mean: of the values.
        standard_error: of the mean, s/√n; `None` for a single value.
        interval: `(low, high)`, the 95 % interval of Student's t; `None` for a single value.
        realizations: n, how many values.
    """

    mean: float
    standard_error: float | None
    interval: tuple | None
    realizations: int


def estimate(values):
    """Mean, standard error and 95 % interval of values from independent realizations.

    mean ± t·s/√n, with t the 97.5 % quantile of Student's t with n − 1 degrees of freedom:
    the interval holds the true mean in 95 % of all cases if the values are normal. Of the
    differences of pairs that share their seeds, it is a paired t-test: the mean differs from
    0 at the 5 % level where the interval does not hold 0.

    Args:
        values: at least one number.

    Returns:
        An `Estimate`; of a single value, without standard error and interval.

    Example:
        >>> estimate([0.03, 0.05, 0.04]).interval
        (0.0151..., 0.0648...)
    """
    values = list(values)
    n, mean = len(values), statistics.fmean(values)
    if n < 2:
        return Estimate(mean, None, None, n)
    error = statistics.stdev(values) / math.sqrt(n)
    half = student_t_quantile(n - 1) * error
    return Estimate(mean, error, (mean - half, mean + half), n)


def student_t_quantile(degrees, probability=0.975):
    """The value that Student's t stays below with a probability, by bisection.

    Args:
        degrees: of freedom, an integer of at least 1.
        probability: between 0.5 and 1.
    """
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        if (1 + _within(middle, degrees)) / 2 < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _within(t, degrees):
    """P(|T| < t): the finite sums for integer degrees (Abramowitz & Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, degrees, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    if odd:
        return (angle + sine * total) / (math.pi / 2)
    return sine * total
