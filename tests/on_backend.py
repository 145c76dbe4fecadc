"""What one backend computes, as JSON on stdout: `KERAS_BACKEND=jax python -m tests.on_backend`.

`test_backends.py` runs this in a process for each backend, and takes its data from here.
"""

import itertools
import json
import sys

import keras
import numpy as np
from keras import layers

from hr_keras import HRLoss, losses, metrics

ALPHA = 3.0
KINDS = (
    metrics.ConditionalEntropy,
    metrics.RenyiDivergence,
    metrics.HRRisk,
    metrics.ErrorBound,
)


def cases():
    """Arguments of `value_and_gradient` by name: kinds of labels × weights × outputs."""
    generator = np.random.default_rng(0)
    n, classes = 23, 4
    logits = (1.5 * generator.normal(size=(n, classes))).astype("float32")
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    integers = generator.integers(classes, size=n)
    labels = {
        "integer": integers,
        "column": integers.astype("uint8")[:, None],
        "one-hot": np.eye(classes, dtype="float32")[integers],
        "soft": generator.dirichlet(np.ones(classes), size=n).astype("float32"),
    }
    weights = {"equal": None, "weighted": generator.exponential(size=n).astype("float32")}
    weights["weighted"][::5] = 0.0
    combinations = itertools.product(
        labels.items(),
        weights.items(),
        (("logits", logits), ("probabilities", probabilities)),
        (1.05, ALPHA),
    )
    return {
        f"{kind}, {how}, {what}, {alpha}": (alpha, what == "logits", y_true, outputs, weight)
        for (kind, y_true), (how, weight), (what, outputs), alpha in combinations
    }


def comparators():
    """Value and gradient of the other losses on one case, by the name of their class."""
    _, from_logits, *arguments = cases()["integer, weighted, logits, 3.0"]
    names = [name for name in losses.__all__ if name != "HRLoss"]
    return {
        name: _value_and_gradient(getattr(losses, name)(from_logits=from_logits), *arguments)
        for name in names
    }


def value_and_gradient(alpha, from_logits, labels, outputs, weights):
    return _value_and_gradient(HRLoss(alpha, from_logits=from_logits), labels, outputs, weights)


def _value_and_gradient(loss, labels, outputs, weights):
    value, gradient = _differentiated(lambda outputs: loss(labels, outputs, weights), outputs)
    return float(keras.ops.convert_to_numpy(value)), np.asarray(gradient).tolist()


def _differentiated(function, argument):
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.value_and_grad(function)(argument)
    argument = keras.ops.convert_to_tensor(argument)
    if backend == "torch":
        value = function(argument.requires_grad_())
        value.backward()
        return value, argument.grad
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(argument)
        value = function(argument)
    return value, tape.gradient(value, argument)


def trainings():
    """Training problems by name: activation, features, labels, weights, batch size.

    The last batch is shorter than the others. Of the sequences, steps of zeros are masked.
    """
    generator = np.random.default_rng(1)
    features = generator.normal(size=(50, 6)).astype("float32")
    labels = generator.integers(4, size=50)
    weights = generator.integers(0, 3, size=(10, 5)).astype("float32")
    sequences = features.reshape(10, 5, 6).copy()
    sequences[:4, 3:] = 0.0
    return {
        "logits": (None, features, labels, None, 12),
        "masked": ("softmax", sequences, labels.reshape(10, 5), weights, 4),
    }


def initial_kernel():
    return 0.5 * np.random.default_rng(2).normal(size=(6, 4)).astype("float32")


def trained(activation, features, labels, weights, batch_size):
    """Weights, loss and metrics after an epoch of SGD."""
    model = keras.Sequential(
        [
            keras.Input(features.shape[1:]),
            layers.Masking() if features.ndim == 3 else layers.Identity(),
            layers.Dense(4, activation=activation),
        ]
    )
    model.set_weights([initial_kernel(), np.zeros(4, "float32")])
    from_logits = activation is None
    model.compile(
        keras.optimizers.SGD(0.5),
        loss=HRLoss(ALPHA, from_logits=from_logits),
        weighted_metrics=[_metric(kind, from_logits) for kind in KINDS],
    )
    data = {"x": features, "y": labels, "sample_weight": weights, "batch_size": batch_size}
    history = model.fit(**data, shuffle=False, verbose=0).history
    return {
        "weights": [weight.tolist() for weight in model.get_weights()],
        "loss": history["loss"][0],
        "evaluated": model.evaluate(**data, verbose=0, return_dict=True),
    }


def _metric(kind, from_logits):
    order = {} if kind is metrics.ConditionalEntropy else {"alpha": ALPHA}
    return kind(from_logits=from_logits, **order)


def refusals():
    """What the parts that need TensorFlow say."""
    from hr_keras import attacks, callbacks, evaluation, models

    images, labels = np.zeros((4, 10, 10, 1), "float32"), np.zeros(4, "int32")
    model = models.mnist_cnn((10, 10, 1))
    calls = {
        "attack": lambda: attacks.FGSM(0.1),
        "sweep": lambda: evaluation.sweep(model, images, labels),
        "callback": lambda: callbacks.FGSMCallback((images, labels)),
        "logits_model": lambda: models.logits_model(model),
    }
    return {name: _refusal(call) for name, call in calls.items()}


def _refusal(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return "no error"


def distributed():
    """The trainings with every batch split over all devices, and the number of those."""
    keras.distribution.set_distribution(keras.distribution.DataParallel())
    devices = keras.Variable(np.zeros(1)).value.sharding.device_set
    found = {name: trained(*problem) for name, problem in trainings().items()}
    return {"devices": len(devices), "trained": found}


def everything():
    found = {
        "backend": keras.backend.backend(),
        "differentiated": {name: value_and_gradient(*case) for name, case in cases().items()},
        "comparators": comparators(),
        "trained": {name: trained(*problem) for name, problem in trainings().items()},
    }
    if found["backend"] != "tensorflow":
        found["refusals"] = refusals()
        found["imports_tensorflow"] = "tensorflow" in sys.modules
    return found


if __name__ == "__main__":
    print(json.dumps(distributed() if sys.argv[1:] == ["distributed"] else everything()))
