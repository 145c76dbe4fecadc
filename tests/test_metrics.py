import keras
import numpy as np
import pytest
import reference
from conftest import mirrored
from hypothesis import given
from hypothesis import strategies as st
from processes import output_of

from hr_keras import HRLoss, error_bounds, metrics

KINDS = (
    metrics.ConditionalEntropy,
    metrics.RenyiDivergence,
    metrics.HRRisk,
    metrics.ErrorBound,
)


def draw(seed=0, n=97, classes=4, scale=3.0):
    generator = np.random.default_rng(seed)
    logits = (scale * generator.normal(size=(n, classes))).astype("float32")
    return logits, generator.integers(classes, size=n), generator.integers(0, 4, size=n)


def expected(kind, logits, labels, weights=None, alpha=1.6):
    log_q = reference.log_softmax(logits)
    entropy = np.average(-(np.exp(log_q) * log_q).sum(axis=1), weights=weights)
    p = reference.one_hot(labels, logits.shape[1])
    divergence = reference.hr(p, log_q, alpha, weights) - entropy
    return {
        metrics.ConditionalEntropy: entropy,
        metrics.RenyiDivergence: divergence,
        metrics.HRRisk: entropy + divergence,
        metrics.ErrorBound: min(
            1, ((1 - np.exp(-entropy)) * np.exp(divergence)) ** ((alpha - 1) / alpha)
        ),
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 7, 22])
def test_exact_over_the_data_set_whatever_the_batch_size(kind, batch_size):
    logits, labels, weights = draw(n=22)
    for w in (None, weights):
        metric = kind(from_logits=True)
        for k in range(0, len(labels), batch_size):
            batch = slice(k, k + batch_size)
            metric.update_state(labels[batch], logits[batch], None if w is None else w[batch])
        assert float(metric.result()) == pytest.approx(expected(kind, logits, labels, w), rel=1e-5)
        metric.reset_state()
        assert float(metric.result()) == 0.0


def test_a_spread_of_a_thousand_nats_does_not_overflow():
    """The largest exponent comes last: what was summed up before is scaled down."""
    metric = metrics.HRRisk(alpha=20.0, from_logits=True)
    for gap in (1.0, 1000.0):
        metric.update_state([1], np.array([[gap, 0.0]], "float32"))
    # R = log(½ e^(19·1000)) / 19, the smaller term is nothing beside it, and H is that of gap 1
    q = reference.log_softmax([1.0, 0.0])
    entropy = -(np.exp(q) * q).sum() / 2
    assert float(metric.result()) == pytest.approx(1000 - np.log(2) / 19 + entropy, rel=1e-6)


def test_replicas_and_uneven_batches_give_what_one_device_gives():
    logits, labels, weights = draw(n=50)
    with mirrored(3).scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Identity()])
        model.compile(
            loss=HRLoss(from_logits=True),
            weighted_metrics=[kind(from_logits=True) for kind in KINDS],
        )
    found = model.evaluate(
        logits, labels, sample_weight=weights, batch_size=12, verbose=0, return_dict=True
    )
    for kind in KINDS:
        value = expected(kind, logits, labels, weights)
        assert found[kind().name] == pytest.approx(value, rel=1e-5), kind


def test_probabilities_of_a_softmax_model_are_taken_as_their_logits():
    logits, labels, _ = draw(scale=30.0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Softmax()])
    model.compile(metrics=[metrics.HRRisk()], loss="sparse_categorical_crossentropy")
    found = model.evaluate(logits, labels, verbose=0, return_dict=True)["hr_risk"]
    assert found == pytest.approx(expected(metrics.HRRisk, logits, labels), rel=1e-5)


@given(st.integers(0, 2**32 - 1), st.floats(1.05, 30), st.integers(2, 6))
def test_the_error_rate_never_exceeds_its_bound(seed, alpha, classes):
    logits, labels, weights = draw(seed, n=20, classes=classes, scale=np.exp(seed % 7 - 3))
    weights[0] += 1
    metric = metrics.ErrorBound(alpha, from_logits=True)
    metric.update_state(labels, logits, weights)
    errors = np.average(logits.argmax(axis=1) != labels, weights=weights)
    assert errors <= float(metric.result()) + 1e-6


def test_the_bound_at_its_ends():
    assert float(error_bounds.upper_bound(0.0, 0.3, 1.6)) == 0.0
    assert float(error_bounds.upper_bound(2.0, 50.0, 1.6)) == 1.0
    assert float(error_bounds.upper_bound(0.5, 0.2, 2.0)) == pytest.approx(
        ((1 - np.exp(-0.5)) * np.exp(0.2)) ** 0.5, rel=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_configs_hold_every_argument(kind):
    metric = kind(from_logits=True, name="mine", dtype="float64")
    again = kind.from_config(metric.get_config())
    assert again.get_config() == metric.get_config()
    assert again.from_logits
    if kind is not metrics.ConditionalEntropy:
        assert kind.from_config(kind(alpha=3.0).get_config()).alpha == 3.0
        with pytest.raises(ValueError, match="alpha=1"):
            kind(alpha=1)


def test_saved_models_load_where_their_losses_and_metrics_are_imported(tmp_path):
    """As with every package of custom Keras objects: in a new process, without custom_objects."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    for name, used in (("loss", []), ("metrics", [kind() for kind in KINDS])):
        model.compile("sgd", HRLoss(alpha=2.5), metrics=used)
        model.save(tmp_path / f"{name}.keras")
    code = (
        "import sys, keras; from hr_keras import HRLoss\n"
        "print(type(keras.models.load_model(sys.argv[1]).loss).__module__)\n"
        "import hr_keras.metrics\n"
        "print(keras.models.load_model(sys.argv[2]).loss.alpha)"
    )
    printed = output_of(code, tmp_path / "loss.keras", tmp_path / "metrics.keras")
    assert printed.split() == ["hr_keras.losses", "2.5"]
