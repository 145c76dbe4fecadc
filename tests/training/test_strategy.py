"""Strategies: the HR loss under them is that of one device; what is no strategy is refused."""

import concurrent.futures
import contextlib
import json
import socket
import time
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored

from hr_keras import HRLoss, evaluation, training
from hr_keras._core import replicas
from hr_keras.models import resnet8
from hr_keras.training import _cluster


def train(strategy, weights=False, n=53, regularizer=None, fit=(), **arguments):
    generator = np.random.default_rng(0)
    images = generator.normal(size=(n, 6)).astype("float32")
    labels = generator.integers(4, size=n)
    weights = generator.integers(0, 3, size=n) if weights else None
    with strategy.scope():
        dense = keras.layers.Dense(4, activation="softmax", kernel_regularizer=regularizer)
        model = keras.Sequential([keras.Input((6,)), dense])
        model.set_weights([0.5 * generator.normal(size=(6, 4)), np.zeros(4)])
        model.compile(keras.optimizers.SGD(0.5), loss=HRLoss(alpha=3.0), **arguments)
    options = {"sample_weight": weights, "batch_size": 12, "shuffle": False, "verbose": 0}
    history = model.fit(images, labels, **options, **dict(fit))
    return np.concatenate([w.ravel() for w in model.get_weights()]), history.history["loss"][0]


@pytest.mark.parametrize(
    ("replicas", "data", "compiled"),
    [
        # the last batch is of one example, three replicas have none
        (4, {"n": 49, "regularizer": keras.regularizers.L2(0.05)}, {"steps_per_execution": 2}),
        (3, {"weights": True}, {}),  # of which some are zero
        (2, {"fit": {"class_weight": {0: 1.0, 1: 0.0, 2: 5.0, 3: 0.5}}}, {"run_eagerly": True}),
    ],
    ids=["last batch of one, L2, several steps a call", "weights", "class weights, eager"],
)
def test_replicas_train_the_model_that_one_device_trains(replicas, data, compiled):
    """Five steps at learning rate 0.5, the last batch uneven."""
    one, loss_one = train(training.get_strategy("none"), **data, run_eagerly=True)
    many, loss_many = train(mirrored(replicas), **data, **compiled)
    np.testing.assert_allclose(many, one, atol=1e-6)
    assert loss_many == pytest.approx(loss_one, rel=1e-5)


def test_a_step_has_one_collective_of_a_few_floats_for_the_loss():
    """Ten floats for two replicas, whatever the batch; and its gradient of the same size."""
    sizes = []
    for batch in (8, 512):
        strategy = mirrored(2)
        loss = HRLoss(from_logits=True)

        @tf.function
        def step(logits, strategy=strategy, loss=loss):
            return strategy.run(lambda z: loss(tf.zeros(tf.shape(z)[0]), z), (logits,))

        before = replicas.gather_rows
        rows = []

        def spy(row, before=before, rows=rows):
            rows.append(tuple(row.shape))
            return before(row)

        replicas.gather_rows = spy
        try:
            step(tf.zeros((batch, 3)))
        finally:
            replicas.gather_rows = before
        sizes.append(set(rows))
    assert sizes == [{(5,)}, {(5,)}]


@pytest.mark.slow
def test_resnet_in_scope_keeps_one_set_of_statistics_and_others_are_warned_of():
    images = np.random.default_rng(0).random((16, 8, 8, 1)).astype("float32")
    labels = np.arange(16) % 3
    with mirrored(2).scope():
        model = resnet8((8, 8, 1), 3, seed=0)
        own = resnet8((8, 8, 1), 3, seed=0, synchronized=False)
        model.compile("sgd", loss=HRLoss())
        own.compile("sgd", loss=HRLoss())
    model.fit(images, labels, batch_size=8, verbose=0)
    for variable in model.non_trainable_variables:
        first, second = (part.numpy() for part in variable.value.values)
        np.testing.assert_array_equal(first, second)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation.sweep(model, images, labels)
    with pytest.warns(UserWarning, match=r"stem_bn.*different moving statistics"):
        evaluation.sweep(own, images, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluation.sweep(own, images, labels)  # once is enough
    alone = resnet8((8, 8, 1), 3)
    assert not any(getattr(layer, "synchronized", False) for layer in alone.layers)


def test_strategies_by_name():
    assert training.get_strategy("none").num_replicas_in_sync == 1
    assert training.get_strategy("auto").num_replicas_in_sync == 1  # no GPU here
    assert training.get_strategy("mirrored").num_replicas_in_sync == 4
    with pytest.raises(ValueError, match="Did you mean 'mirrored'"):
        training.get_strategy("mirored")


@pytest.mark.parametrize(
    ("tf_config", "said"),
    [
        (None, "not set"),
        ("", "not set"),
        ("{", "Received: TF_CONFIG='{'"),
        ("[]", "Received"),
        ('{"cluster": {"worker": ["a:1"]}}', "KeyError"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "the chief"),
        ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "or the chief"),
    ],
)  # fmt: skip
def test_a_cluster_that_is_none_is_refused(monkeypatch, tf_config, said):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if tf_config is not None:
        monkeypatch.setenv("TF_CONFIG", tf_config)
    with pytest.raises(ValueError, match="`TF_CONFIG` must") as raised:
        training.get_strategy("multiworker")
    assert said in str(raised.value)


def test_a_worker_that_does_not_answer_is_named_and_the_wait_ends(monkeypatch, capsys):
    """Port 9 of this machine: nobody listens there."""
    config = {"cluster": {"worker": ["localhost:0", "localhost:9"]}}
    config["task"] = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    with pytest.raises(TimeoutError, match=r"localhost:9 of TF_CONFIG did not answer within 0.3"):
        training.get_strategy("multiworker", wait=0.3)
    assert "Waiting up to 0.3 seconds for localhost:9" in capsys.readouterr().err
    with pytest.raises(ValueError, match="`wait` must be"):
        training.get_strategy("multiworker", wait=-1)


def test_workers_that_come_one_after_another_all_meet():
    with contextlib.ExitStack() as stack:  # ports that were free a moment ago
        sockets = [stack.enter_context(socket.create_server(("", 0))) for _ in range(3)]
        workers = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        servers, waits = [], []

        def come(own):
            _cluster.wait_for_workers(workers, own, 60)
            # as TensorFlow, which listens from now on
            servers.append(socket.create_server(("", int(own.split(":")[1]))))

        for own in workers:
            waits.append(pool.submit(come, own))
            time.sleep(0.3)
        for wait in waits:
            wait.result(timeout=60)
        for server in servers:
            server.close()


def test_keras_distribution_is_refused_on_tensorflow():
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=["cpu:0"]))
    try:
        with pytest.raises(ValueError, match="does nothing on the TensorFlow backend"):
            HRLoss()(np.array([0]), np.array([[0.5, 0.5]]))
        with pytest.raises(ValueError, match="does nothing on the TensorFlow backend"):
            training.get_strategy("none")
    finally:
        keras.distribution.set_distribution(None)
