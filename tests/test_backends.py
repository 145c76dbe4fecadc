"""The same numbers on TensorFlow, JAX and torch: each in a process, all against NumPy."""

import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import on_backend
import pytest
import reference
from test_metrics import expected

ROOT = pathlib.Path(__file__).parent.parent
BACKENDS = ("tensorflow", "jax", "torch")
OTHERS = BACKENDS[1:]

assert_same = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)


@functools.cache
def computed(backend, *arguments, devices=1):
    """What `on_backend` prints; each process once for all tests."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed: pip install 'hr_keras[backends]'")
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "tests.on_backend", *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def distributions(labels, classes=4):
    if labels.shape[-1] != classes:
        return reference.one_hot(labels.ravel(), classes)
    labels = labels.astype("float64")
    # The reference divides by α − 1 what float32 labels lack to a sum of 1.
    return labels / labels.sum(axis=1, keepdims=True)


@functools.cache
def expected_value_and_gradient(name):
    """The value, and the gradient with respect to the logits, or to the logs of probabilities."""
    alpha, from_logits, labels, outputs, weights = on_backend.cases()[name]
    p = distributions(labels)
    logits = np.asarray(outputs, "float64")
    logits = logits if from_logits else np.log(logits)
    value = reference.hr(p, reference.log_softmax(logits), alpha, weights)
    return value, reference.hr_gradient(logits, p, alpha, weights)


def flat(features, labels, weights):
    """A row for each position that is not masked."""
    rows = features.reshape(-1, features.shape[-1]).astype("float64")
    weights = np.ones(len(rows)) if weights is None else weights.astype("float64")
    return rows, labels.ravel(), weights.ravel() * (rows != 0).any(axis=1)


@functools.cache
def expected_training(name):
    """Gradient descent in NumPy: kernel, bias and the loss of the epoch."""
    _, features, labels, weights, batch_size = on_backend.trainings()[name]
    kernel, bias = on_backend.initial_kernel().astype("float64"), np.zeros(4)
    losses, sizes = [], []
    for start in range(0, len(features), batch_size):
        batch = slice(start, start + batch_size)
        w = None if weights is None else weights[batch]
        x, y, w = flat(features[batch], labels[batch], w)
        logits, p = x @ kernel + bias, reference.one_hot(y, 4)
        losses.append(reference.hr(p, reference.log_softmax(logits), on_backend.ALPHA, w))
        sizes.append(len(features[batch]))
        gradient = reference.hr_gradient(logits, p, on_backend.ALPHA, w)
        kernel, bias = kernel - 0.5 * x.T @ gradient, bias - 0.5 * gradient.sum(axis=0)
    return kernel, bias, np.average(losses, weights=sizes)


@pytest.mark.parametrize("name", on_backend.cases())
@pytest.mark.parametrize("backend", BACKENDS)
def test_value_and_gradient_equal_the_reference(backend, name):
    value, gradient = computed(backend)["differentiated"][name]
    expected_value, expected_gradient = expected_value_and_gradient(name)
    assert_same(value, expected_value)
    _, from_logits, _, outputs, _ = on_backend.cases()[name]
    # with respect to log q, ∂L/∂log q = q·∂L/∂q: of the same size whatever q
    assert_same(gradient if from_logits else gradient * outputs, expected_gradient)


@pytest.mark.parametrize("backend", OTHERS)
def test_the_losses_that_hr_is_compared_with_equal_those_on_tensorflow(backend):
    found, tensorflow = (computed(name)["comparators"] for name in (backend, "tensorflow"))
    assert len(tensorflow) == 6
    for name in tensorflow:
        for ours, theirs in zip(found[name], tensorflow[name], strict=True):
            assert_same(ours, theirs)


@pytest.mark.parametrize("name", on_backend.trainings())
@pytest.mark.parametrize("backend", BACKENDS)
def test_training_with_weights_and_masks_equals_the_reference(backend, name):
    found = computed(backend)["trained"][name]
    kernel, bias, loss = expected_training(name)
    assert_same(found["weights"][0], kernel)
    assert_same(found["weights"][1], bias)
    assert_same(found["loss"], loss)


@pytest.mark.parametrize("name", on_backend.trainings())
@pytest.mark.parametrize("backend", BACKENDS)
def test_metrics_equal_the_reference(backend, name):
    found = computed(backend)["trained"][name]
    _, features, labels, weights, _ = on_backend.trainings()[name]
    rows, labels, weights = flat(features, labels, weights)
    logits = rows @ np.array(found["weights"][0]) + found["weights"][1]
    for kind in on_backend.KINDS:
        value = expected(kind, logits, labels, weights, on_backend.ALPHA)
        assert_same(found["evaluated"][kind().name], value)


@pytest.mark.parametrize("backend", OTHERS)
def test_backends_equal_tensorflow(backend):
    found, tensorflow = computed(backend), computed("tensorflow")
    for name, (value, _) in tensorflow["differentiated"].items():
        assert_same(found["differentiated"][name][0], value)
    for name, trained in tensorflow["trained"].items():
        assert_same(
            np.concatenate(found["trained"][name]["weights"], axis=None),
            np.concatenate(trained["weights"], axis=None),
        )
        for key, value in trained["evaluated"].items():
            assert_same(found["trained"][name]["evaluated"][key], value)


@pytest.mark.parametrize("name", on_backend.trainings())
def test_devices_of_jax_train_the_model_that_one_trains(name):
    one, two = computed("jax"), computed("jax", "distributed", devices=2)
    assert two["devices"] == 2
    one, two = one["trained"][name], two["trained"][name]
    for a, b in zip(one["weights"], two["weights"], strict=True):
        assert_same(b, a)
    assert_same(two["loss"], one["loss"])
    for key, value in one["evaluated"].items():
        assert_same(two["evaluated"][key], value)


@pytest.mark.parametrize("backend", OTHERS)
def test_other_backends_do_without_tensorflow(backend):
    assert computed(backend)["backend"] == backend
    assert computed(backend)["imports_tensorflow"] is False


@pytest.mark.parametrize("part", ["attack", "sweep", "callback", "logits_model"])
@pytest.mark.parametrize("backend", OTHERS)
def test_attacks_say_that_they_need_tensorflow(backend, part):
    refusal = computed(backend)["refusals"][part]
    assert "KERAS_BACKEND=tensorflow" in refusal
    assert repr(backend) in refusal
