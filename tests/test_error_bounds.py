import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hr_keras import error_bounds
from hr_keras._core import information

ORDERS = st.floats(1.001, 30)


@st.composite
def joint_distributions(draw, smallest_label=0.0):
    """p(x), p(y|x) and q(y|x) of a random finite problem, from flat to nearly certain."""
    inputs, classes = draw(st.integers(1, 6)), draw(st.integers(2, 12))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sharpness = [10 ** draw(st.floats(-2, 2)) for _ in range(2)]
    p_x = generator.dirichlet(np.ones(inputs))
    p, q = (np.exp(_log_softmax(s * generator.normal(size=(inputs, classes)))) for s in sharpness)
    if draw(st.booleans()):  # a classifier that knows the truth
        q = p
    p = (1 - smallest_label) * p + smallest_label / classes
    return p_x, p, np.log(np.maximum(q, 1e-300))


def _log_softmax(z):
    return z - np.logaddexp.reduce(z, axis=-1, keepdims=True)


def error(p_x, p, log_q):
    return float(p_x @ (1 - p[np.arange(len(p)), log_q.argmax(axis=-1)]))


def entropy(p_x, log_q):
    return p_x @ np.asarray(information.conditional_entropy(log_q))


@given(joint_distributions(), ORDERS)
def test_no_distribution_violates_the_upper_bounds(joint, alpha):
    p_x, p, log_q = joint
    exponents = np.asarray(information.renyi_exponent(p, log_q, alpha))
    divergence = float(information.log_mean_exp(exponents, p_x)) / (alpha - 1)
    h = entropy(p_x, log_q)
    bound = float(error_bounds.upper_bound(h, divergence, alpha))
    surrogate = float(error_bounds.surrogate_bound(h + divergence, alpha))
    assert error(p_x, p, log_q) <= bound + 1e-9
    assert bound <= surrogate + 1e-9


@given(joint_distributions(smallest_label=0.05), st.floats(2.01, 30))
def test_no_distribution_violates_the_lower_bound(joint, alpha):
    p_x, p, log_q = joint
    exponents = np.asarray(information.reversed_renyi_exponent(p, log_q, alpha - 1))
    divergence = np.logaddexp.reduce(exponents + np.log(p_x)) / (alpha - 2)
    found = float(error_bounds.lower_bound(entropy(p_x, log_q), divergence, alpha, p.shape[-1]))
    assert 0 <= found <= error(p_x, p, log_q) + 1e-9


def test_the_lower_bound_says_something_for_soft_labels():
    """Uniform labels and decisions: P_e = 1 − 1/M, and the divergence is 0."""
    h, classes = math.log(10), 10
    found = float(error_bounds.lower_bound(np.float64(h), 0.0, 20.0, classes))
    assert 0.5 < found < 0.9
    assert found == pytest.approx(0.9 ** (error_bounds.beta(classes) * 19 / 18))


def test_the_lower_bound_is_trivial_for_hard_labels():
    log_q = _log_softmax(np.random.default_rng(0).normal(size=(5, 3)))
    for labels in (np.arange(5) % 3, np.eye(3)[np.arange(5) % 3]):
        assert np.isinf(information.reversed_renyi_exponent(labels, log_q, 2.0)).all()
    assert float(error_bounds.lower_bound(0.5, math.inf, 3.0, 3)) == 0.0


def test_the_reversed_divergence_against_its_definition():
    generator = np.random.default_rng(0)
    p, q = generator.dirichlet(np.ones(4), size=(2, 6))
    for order in (1.5, 2.0, 7.0):
        expected = np.log((q**order * p ** (1 - order)).sum(axis=-1))
        found = information.reversed_renyi_exponent(p, np.log(q), order)
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    same = information.reversed_renyi_exponent(p, np.log(p), 3.0)
    np.testing.assert_allclose(same, 0.0, atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
def test_beta_is_the_smallest_that_will_do(classes):
    """log g⁻¹(h) ≥ β·log(1 − e^(−h)) for all h, with equality somewhere; g⁻¹ by bisection."""
    gaps = []
    for h in np.geomspace(1e-6, math.log(classes), 3000):
        low, high = 0.0, 1 - 1 / classes
        for _ in range(80):
            p = (low + high) / 2
            g = -p * math.log(p) - (1 - p) * math.log1p(-p) + p * math.log(classes)
            low, high = (p, high) if g < h else (low, p)
        gaps.append(math.log(low) / math.log(-math.expm1(-h)))
    assert max(gaps) <= error_bounds.beta(classes) * (1 + 1e-9)
    assert max(gaps) == pytest.approx(error_bounds.beta(classes), rel=1e-3)


def test_bad_arguments_are_refused():
    for alpha in (2.0, 1.6, math.nan, "3"):
        with pytest.raises(ValueError, match="alpha"):
            error_bounds.lower_bound(0.5, 0.1, alpha, 10)
    for alpha in (0, 1, -2.0, math.nan, None):
        with pytest.raises(ValueError, match="alpha"):
            error_bounds.upper_bound(0.5, 0.1, alpha)
        with pytest.raises(ValueError, match="alpha"):
            error_bounds.surrogate_bound(0.5, alpha)
    for classes in (1, math.nan, "10", [10]):
        with pytest.raises(ValueError, match="num_classes"):
            error_bounds.beta(classes)
    for value in ("0.5", ["0.5", "1"], object(), None):
        for name, function in (
            ("entropy", lambda value: error_bounds.upper_bound(value, 0.1, 3.0)),
            ("divergence", lambda value: error_bounds.upper_bound(0.5, value, 3.0)),
            ("risk", lambda value: error_bounds.surrogate_bound(value, 3.0)),
            ("reversed_divergence", lambda value: error_bounds.lower_bound(0.5, value, 3.0, 10)),
        ):
            with pytest.raises(ValueError, match=f"`{name}` must hold numbers"):
                function(value)


def test_integers_count_as_numbers_and_nan_comes_out():
    assert float(error_bounds.upper_bound(1, 0, 2)) == pytest.approx((1 - math.exp(-1)) ** 0.5)
    assert float(error_bounds.surrogate_bound(0, 2)) == pytest.approx(math.exp(-0.5))
    for terms in ((math.nan, 0.1), (0.1, math.nan)):
        assert math.isnan(error_bounds.upper_bound(*terms, 1.6))
