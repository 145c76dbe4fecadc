"""Adversarial training: each step against an independent reference, and what must not change it."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import mirrored
from processes import environment

from hr_keras import HRLoss, attacks, diagnostics, evaluation, training
from hr_keras.attacks import FGSM, PGD, MomentumPGD, _in_graph
from hr_keras.callbacks import AttackCallback, FGSMCallback

CE = keras.losses.SparseCategoricalCrossentropy
SHAPE = (4, 4, 1)
CLASSES = 3


def examples(n=24, classes=CLASSES, seed=0):
    generator = np.random.default_rng(seed)
    images = generator.uniform(0.1, 0.9, (n, *SHAPE)).astype("float32")
    return images, generator.integers(classes, size=n)


def perceptron(classes=CLASSES, activation="softmax", scale=2.0, units=8):
    """Small and smooth, of weights that make its decisions matter."""
    generator = np.random.default_rng(1)
    layers = [keras.layers.Dense(units, activation="tanh")] if units else []
    model = keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Flatten(),
            *layers,
            keras.layers.Dense(classes, activation=activation),
        ]
    )
    model.set_weights([scale * generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def normalised(synchronized=False, dropout=0.3):
    """With everything that works differently in training."""
    keras.utils.set_random_seed(5)
    return keras.Sequential(
        [
            keras.Input(SHAPE),
            keras.layers.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L2(0.01)),
            keras.layers.BatchNormalization(synchronized=synchronized),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            *([keras.layers.Dropout(dropout)] if dropout else []),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def fit(robust, loss=None, data=None, weights=None, optimizer=None, epochs=1, **arguments):
    loss = CE() if loss is None else loss
    with robust.distribute_strategy.scope():
        optimizer = keras.optimizers.SGD(0.5) if optimizer is None else optimizer
        robust.compile(optimizer, loss=loss, metrics=["accuracy"], **arguments)
    images, labels = examples() if data is None else data
    return robust.fit(
        images, labels, sample_weight=weights, batch_size=8, shuffle=False, epochs=epochs, verbose=0
    ).history


def assert_same(ours, expected, **tolerances):
    for a, b in zip(ours.get_weights(), expected.get_weights(), strict=True):
        if tolerances:
            np.testing.assert_allclose(a, b, **tolerances)
        else:
            np.testing.assert_array_equal(a, b)


# Ordinary training


@pytest.mark.parametrize(
    ("attack", "clean_weight", "loss"),
    [
        (PGD(0.0, n_iter=2), 0.0, HRLoss(alpha=3.0)),
        (FGSM(0.0), 0.0, CE()),
        (PGD(0.2, n_iter=2), 1.0, HRLoss(alpha=3.0)),
    ],
)
def test_without_an_attack_it_is_ordinary_training_bit_for_bit(attack, clean_weight, loss):
    """Weights, moving statistics, dropout and logs: the attack leaves no trace."""
    ordinary = normalised()
    expected = fit(ordinary, loss)
    robust = training.AdversarialTraining(normalised(), attack, clean_weight)
    found = fit(robust, loss)
    assert {key: found[key] for key in expected} == expected
    assert_same(robust, ordinary)


def test_trades_without_an_attack_is_ordinary_training():
    ordinary, wrapped = normalised(dropout=0), normalised(dropout=0)
    fit(ordinary, run_eagerly=True)
    fit(training.TRADES(wrapped, PGD(0.0, n_iter=1)))
    assert_same(wrapped, ordinary, atol=1e-5)


# One step against a reference


@pytest.mark.parametrize("attack", [FGSM(0.2), PGD(0.2, n_iter=4), MomentumPGD(0.2, n_iter=3)])
def test_a_step_on_a_linear_model_is_the_closed_form(attack):
    """x' = clip(x + ε·sign(w_other − w_label)) and the gradient of softmax regression, in NumPy."""
    model = perceptron(classes=2, units=0)
    kernel, bias = (w.astype("float64") for w in model.get_weights())
    images, labels = examples(8, classes=2)
    fit(training.AdversarialTraining(model, attack), data=(images, labels))
    towards = np.sign(kernel[:, 1 - labels] - kernel[:, labels]).T
    moved = np.clip(images.reshape(8, -1) + 0.2 * towards, 0, 1)
    logits = moved @ kernel + bias
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    upstream = (softmax - np.eye(2)[labels]) / 8
    expected = [kernel - 0.5 * moved.T @ upstream, bias - 0.5 * upstream.sum(axis=0)]
    for a, b in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def published(method, clean, adversarial, labels, loss, beta):
    """The loss as the authors write it, in plain TensorFlow and float64."""
    p, q = tf.nn.softmax(clean), tf.nn.softmax(adversarial)
    kl = tf.reduce_sum(p * (tf.math.log(p) - tf.math.log(q)), axis=1)
    if method is training.TRADES:
        return loss(labels, clean) + beta * tf.reduce_mean(kl)
    rows = tf.range(len(labels))
    of_label = tf.gather_nd(p, tf.stack([rows, labels], axis=1))
    others = tf.where(tf.one_hot(labels, CLASSES) > 0, tf.zeros_like(q), q)
    wrong = tf.reduce_max(others, axis=1)
    return loss(labels, adversarial) + tf.reduce_mean(
        -tf.math.log(1 - wrong) + beta * kl * (1 - of_label)
    )


@pytest.mark.parametrize("method", [training.TRADES, training.MART])
@pytest.mark.parametrize(
    ("activation", "make_loss"),
    [
        (None, lambda from_logits, dtype=None: CE(from_logits=from_logits, dtype=dtype)),
        ("softmax", lambda logits, dtype=None: HRLoss(3.0, from_logits=logits, dtype=dtype)),
    ],
)
def test_a_step_descends_the_published_loss(method, activation, make_loss):
    images, labels = examples(8)
    labels = labels.astype("int32")
    model = perceptron(activation=activation)
    weights = [tf.constant(w, "float64") for w in model.get_weights()]
    robust = method(model, PGD(0.2, n_iter=3), beta=2.0)
    robust.compile(keras.optimizers.SGD(0.5))
    keys = _in_graph.keys_of_rows(0, 0, tf.range(8))
    _, adversarial = robust.find_inputs(tf.constant(images), labels, keys)
    assert np.abs(adversarial - images).max() <= 0.2 + 1e-6
    with tf.GradientTape() as tape:
        tape.watch(weights)
        kernel, bias, last_kernel, last_bias = weights
        clean, moved = (
            tf.tanh(tf.reshape(tf.cast(part, "float64"), (8, -1)) @ kernel + bias) @ last_kernel
            + last_bias
            for part in (images, adversarial)
        )
        loss = published(method, clean, moved, labels, make_loss(True, "float64"), 2.0)
    gradients = tape.gradient(loss, weights)
    history = fit(robust, make_loss(activation is None), data=(images, labels))
    assert history["loss"][0] == pytest.approx(float(loss), rel=1e-5)
    for found, weight, gradient in zip(model.get_weights(), weights, gradients, strict=True):
        np.testing.assert_allclose(found, weight - 0.5 * gradient, atol=1e-5)


def test_a_mixed_step_weighs_the_clean_and_the_adversarial_loss():
    """HR is one number for each of the two batches."""
    images, labels = examples(8)
    robust = training.AdversarialTraining(perceptron(), PGD(0.2, n_iter=2), clean_weight=0.25)
    robust.compile()
    keys = _in_graph.keys_of_rows(0, 0, tf.range(8))
    losses = [
        float(HRLoss(3.0)(labels, robust.model(part)))
        for part in robust.find_inputs(tf.constant(images), labels, keys)
    ]
    history = fit(robust, HRLoss(3.0), data=(images, labels))
    assert history["loss"][0] == pytest.approx(0.25 * losses[0] + 0.75 * losses[1], rel=1e-5)


def step_of(model, images, labels, start, share, training_mode):
    """One signed step up the objective with labels `(n, classes)`, from `start`.

    That is the cross-entropy. Where the examples share statistics, the log-odds against the label
    matter, of which it has the direction only example by example.
    """
    with tf.GradientTape() as tape:
        tape.watch(start)
        q = model(start, training=training_mode)
        value = keras.losses.categorical_crossentropy(labels, q)
        if training_mode:
            own = tf.reduce_sum(labels * q, axis=1)
            value = tf.math.log(1 - own) - tf.math.log(own)
        value = tf.reduce_sum(value)
    gradient = tape.gradient(value, start)
    moved = start + share * 0.2 * tf.sign(gradient)
    moved = images + tf.clip_by_value(moved - images, -0.2, 0.2)
    return np.clip(moved, 0, 1), np.abs(gradient) > 1e-6


@pytest.mark.parametrize(
    ("method", "training_mode"),
    [(training.AdversarialTraining, True), (training.MART, False), (training.TRADES, False)],
)
def test_the_attack_sees_layers_in_the_mode_of_its_paper(method, training_mode):
    """And TRADES ascends the KL from the clean prediction: CE with it in place of the label."""
    images, labels = (tf.constant(part) for part in examples(16))
    model = normalised(dropout=0)
    model.layers[1].moving_mean.assign([0.3, -0.2, 0.5, 0.1])
    robust = method(model, PGD(0.2, n_iter=1, step_size=0.5))
    robust.compile()
    before = model.get_weights()
    keys = _in_graph.keys_of_rows(0, 0, tf.range(16))
    found = robust.find_inputs(images, labels, keys)
    found = found[1] if isinstance(found, tuple) else found
    none = PGD(0.2, n_iter=1, step_size=1e-9)
    start = _in_graph.perturb(none, model, images, tf.cast(labels, "int32"), keys)
    targets = model(images) if method is training.TRADES else tf.one_hot(labels, CLASSES)
    for a, b in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)  # the attack does not move the statistics
    expected, clear = step_of(model, images, targets, start, 0.5, training_mode)
    assert clear.mean() > 0.9
    np.testing.assert_allclose(found[clear], expected[clear], atol=1e-6)


def test_random_starts_differ_between_rows_steps_and_seeds_only():
    keys = [np.array(_in_graph.keys_of_rows(s, t, tf.range(500))) for s in (0, 1) for t in (0, 1)]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 2000
    last = _in_graph.keys_of_rows(0, 1, tf.range(400, 500))
    np.testing.assert_array_equal(last, keys[1][400:])


def test_epsilon_rises_linearly_in_the_warm_up():
    """In the k-th of 4 steps to k / 4 of the attack's; on a linear model PGD reaches all of it."""
    images, labels = examples(8, classes=2)
    robust = training.AdversarialTraining(
        perceptron(classes=2, units=0), PGD(0.08, n_iter=3), warmup_steps=4
    )
    robust.compile(keras.optimizers.SGD(0.0))
    keys = _in_graph.keys_of_rows(0, 0, tf.range(8))
    for done, expected in ((0, 0.02), (1, 0.04), (3, 0.08), (9, 0.08)):
        robust.optimizer.iterations.assign(done)
        moved = robust.find_inputs(tf.constant(images), labels.astype("int32"), keys) - images
        np.testing.assert_allclose(np.abs(moved), expected, atol=1e-6)


# What must not change the result


@pytest.mark.parametrize("method", [training.AdversarialTraining, training.MART])
def test_labels_may_be_columns_or_distributions(method):
    images, labels = examples()
    one_hot = keras.utils.to_categorical(labels, CLASSES)
    models = []
    for y, loss in (
        (labels, CE()), (labels[:, None], CE()), (one_hot, keras.losses.CategoricalCrossentropy())
    ):  # fmt: skip
        models.append(perceptron())
        eager = y is labels  # only what is compared with the others
        fit(method(models[-1], PGD(0.1, n_iter=2)), loss, data=(images, y), run_eagerly=eager)
    for model in models[1:]:
        assert_same(model, models[0], atol=1e-5)


def make_method(name, model, n_iter=2):
    attack = PGD(0.1, n_iter=n_iter)
    if name == "mixed":
        return training.AdversarialTraining(model, attack, clean_weight=0.5, warmup_steps=5)
    return getattr(training, name)(model, attack)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mixed", "TRADES", "MART"])
def test_weights_count_as_copies_with_the_hr_loss(method):
    """The attack starts at other points for copies; ε is so small that it does not matter."""
    images, labels = examples(4)
    weights = np.array([2.0, 1.0, 0.0, 3.0])
    rows = np.repeat(np.arange(4), weights.astype(int))
    models = perceptron(), perceptron()
    for model, data, sample_weight in (
        (models[0], (images, labels), weights),
        (models[1], (images[rows], labels[rows]), None),
    ):
        attack = PGD(1e-6, n_iter=1)
        robust = (
            training.AdversarialTraining(model, attack, 0.5)
            if method == "mixed"
            else getattr(training, method)(model, attack)
        )
        fit(robust, HRLoss(3.0), data=data, weights=sample_weight)
    assert_same(models[0], models[1], atol=1e-5)


@pytest.mark.parametrize(("method", "loss"), [("TRADES", HRLoss), ("MART", CE)])
def test_examples_of_an_ignored_class_do_not_count(method, loss):
    """A step on a batch with void labels is the step on the rest, attacked from the same points."""
    images, labels = examples(8)
    void = np.arange(8) >= 5
    models = perceptron(activation=None), perceptron(activation=None)  # Keras' CE clips others
    for model, data, ignored in (
        (models[0], (images, np.where(void, 255, labels)), 255),
        (models[1], (images[~void], labels[~void]), None),
    ):
        robust = getattr(training, method)(model, PGD(0.2, n_iter=2))
        fit(robust, loss(from_logits=True, ignore_class=ignored), data=data)
    assert_same(models[0], models[1], atol=1e-5)


@pytest.mark.parametrize(
    ("replicas", "method"),
    [
        (2, "AdversarialTraining"),
        pytest.param(4, "TRADES", marks=pytest.mark.slow),
        pytest.param(2, "MART", marks=pytest.mark.slow),
    ],
)
def test_replicas_train_the_model_that_one_device_trains(replicas, method):
    """Batches of 8, 8 and 7, with weights, and a synchronised batch normalisation."""
    images, labels = examples(23)
    weights = np.random.default_rng(2).integers(0, 3, 23).astype("float32")
    trained = []
    for strategy in (mirrored(1), mirrored(replicas)):
        with strategy.scope():
            model = normalised(synchronized=True, dropout=0)
            robust = make_method(method, model)
        history = fit(robust, HRLoss(3.0), data=(images, labels), weights=weights)
        trained.append((model, history["loss"][0]))
    (one, loss), (many, same_loss) = trained
    assert_same(many, one, atol=2e-5)
    assert same_loss == pytest.approx(loss, rel=1e-4)


@pytest.mark.slow
def test_replicas_run_eagerly():
    """There is no graph in which the first convolution could be looked up."""
    models = []
    for eager in (False, True):
        with mirrored(2).scope():
            models.append(normalised(synchronized=True, dropout=0))
            robust = make_method("AdversarialTraining", models[-1])
        fit(robust, data=examples(8), run_eagerly=eager)
    assert_same(*models, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["AdversarialTraining", "TRADES"])
def test_the_loop_for_several_workers_trains_the_same_model(method):
    """Here with two replicas in one process; the gap of a single step is in its logs too."""
    images, labels = examples()
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    one = perceptron()
    expected = fit(make_method(method, one, n_iter=1), HRLoss(3.0))
    strategy = mirrored(2)
    with strategy.scope():
        many = perceptron()
        robust = make_method(method, many, n_iter=1)
        robust.compile(keras.optimizers.SGD(0.5), loss=HRLoss(3.0), metrics=["accuracy"])
    found = training.fit(robust, data, validation_data=data).history
    assert_same(many, one, atol=1e-5)
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-4)
    assert set(found) == {*expected, *(f"val_{key}" for key in expected)}


@pytest.mark.slow
def test_eager_steps_and_several_steps_in_one_call_change_nothing():
    models = [perceptron() for _ in range(3)]
    histories = [
        fit(make_method("MART", model), **arguments)
        for model, arguments in zip(
            models, ({}, {"steps_per_execution": 3}, {"run_eagerly": True}), strict=True
        )
    ]
    assert histories[1] == histories[0]
    assert_same(models[1], models[0])
    assert_same(models[2], models[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "n_iter"), [("AdversarialTraining", 1), ("mixed", 2), ("TRADES", 2), ("MART", 2)]
)
def test_code_compiled_with_xla_trains_the_same_model(method, n_iter):
    """As Keras does by itself on a GPU; with the measurement of a single step's gap."""
    models, histories = [normalised(dropout=0) for _ in range(2)], []
    for model, jit_compile in zip(models, (False, True), strict=True):
        robust = make_method(method, model, n_iter)
        histories.append(fit(robust, HRLoss(3.0), jit_compile=jit_compile))
    assert_same(models[1], models[0], atol=1e-5)
    for key, value in histories[0].items():
        assert histories[1][key] == pytest.approx(value, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "method"),
    [
        ("mixed_float16", "TRADES"),
        ("mixed_float16", "AdversarialTraining"),
        ("mixed_bfloat16", "mixed"),
    ],
)
def test_half_precision_stays_near_full_precision(policy, method):
    full = perceptron(scale=0.5)
    expected = fit(make_method(method, full), HRLoss(3.0))
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        half = perceptron(scale=0.5)
        robust = make_method(method, half)
    finally:
        keras.config.set_dtype_policy(before)
    found = fit(robust, HRLoss(3.0))
    scaled = isinstance(robust.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    assert found["loss"][0] == pytest.approx(expected["loss"][0], rel=0.02)
    assert_same(half, full, atol=0.05)


# Files


@pytest.mark.parametrize(
    "method",
    ["mixed", *(pytest.param(name, marks=pytest.mark.slow) for name in ("TRADES", "MART"))],
)
def test_a_saved_wrapper_resumes_with_the_same_bits(method, tmp_path):
    """Without dropout, the state of whose random numbers Keras does not save."""
    optimizer = keras.optimizers.Adam(0.01)
    robust = make_method(method, normalised(dropout=0))
    fit(robust, HRLoss(3.0), optimizer=optimizer, run_eagerly=method == "mixed")
    robust.save(tmp_path / "robust.keras")
    loaded = keras.models.load_model(tmp_path / "robust.keras")
    configs = [model.get_config() | {"model": None} for model in (loaded, robust)]
    assert configs[0] == configs[1]
    assert type(loaded) is type(robust)
    images, labels = examples(seed=3)
    for model in (robust, loaded):
        model.fit(images, labels, batch_size=8, shuffle=False, verbose=0)
    assert_same(loaded, robust)


def test_the_wrapped_model_needs_nothing_of_ours(tmp_path):
    model = normalised()
    fit(training.TRADES(model, PGD(0.1, n_iter=1)), HRLoss(3.0), run_eagerly=True)
    model.save(tmp_path / "model.keras")
    images, _ = examples()
    np.save(tmp_path / "images.npy", images)
    code = (
        "import json, sys, keras, numpy as np\n"
        "model = keras.models.load_model('model.keras')\n"
        "outputs = model.predict(np.load('images.npy'), verbose=0)\n"
        "assert not any(name.startswith('hr_keras') for name in sys.modules)\n"
        "print(json.dumps(outputs.tolist()))"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    np.testing.assert_array_equal(
        np.array(json.loads(result.stdout), "float32"), model.predict(images, verbose=0)
    )


def test_what_cannot_be_made_again_is_not_saved(tmp_path):
    robust = training.AdversarialTraining(perceptron(), PGD(0.1, CE()))
    with pytest.raises(ValueError, match="objective given by its name"):
        robust.save(tmp_path / "robust.keras")
    config = training.AdversarialTraining(perceptron(), PGD(0.1)).get_config()
    for attack in ({**config["attack"], "attack": "Path"}, {**config["attack"], "path": "/"}):
        with pytest.raises(ValueError, match="must be the configuration of one of"):
            training.AdversarialTraining.from_config({**config, "attack": attack})


# Callbacks


def test_callbacks_attack_the_wrapper_as_the_classifier(tmp_path):
    """Robust keys reach EarlyStopping and ModelCheckpoint, and training is not touched."""
    data, plain = examples(), perceptron()
    robust, alone = (
        training.AdversarialTraining(model, PGD(0.1, n_iter=2)) for model in (perceptron(), plain)
    )
    for one in (robust, alone):
        one.compile(keras.optimizers.SGD(0.1), loss=HRLoss(1.6), metrics=["accuracy"])
    key = "val_fgsm_ce_0.1_accuracy"
    history = robust.fit(
        *data, batch_size=8, epochs=5, shuffle=False, verbose=0, callbacks=[
            FGSMCallback(data, epsilons=(0.1,), every=1),
            AttackCallback(data, PGD(0.1, n_iter=3), every=1),
            keras.callbacks.EarlyStopping(key, mode="max", patience=0, min_delta=2.0),
            keras.callbacks.ModelCheckpoint(
                tmp_path / "best.keras", key, mode="max", save_best_only=True
            ),
        ],
    ).history  # fmt: skip
    assert len(history[key]) == 2  # never 2 better than the first
    alone.fit(*data, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert_same(robust.model, plain)
    swept = evaluation.sweep(robust.model, *data, objectives=("ce",), epsilons=(0.1,))
    assert history[key][-1] == swept.accuracy["ce", 0.1]
    best = keras.models.load_model(tmp_path / "best.keras")
    swept = evaluation.sweep(best, *data, objectives=("ce",), epsilons=(0.1,))
    assert max(history[key]) == swept.accuracy["ce", 0.1]


# What a step costs


def counting(model):
    """The model behind a layer that counts how often it runs forward and backward."""
    counts = {"forward": 0, "backward": 0}

    def count(name, x):
        def add(value):
            counts[name] += 1
            return value

        result = tf.numpy_function(add, [x], x.dtype)
        result.set_shape(x.shape)
        return result

    @tf.custom_gradient
    def through(x):
        return count("forward", x), lambda upstream: count("backward", upstream)

    class Counter(keras.layers.Layer):
        def call(self, x):
            return through(tf.convert_to_tensor(x))

    inputs = keras.Input(SHAPE)
    x = keras.layers.Conv2D(4, 3)(inputs)
    return keras.Model(inputs, model(Counter()(keras.layers.Reshape((16,))(x[..., :4])))), counts


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        (lambda model: training.AdversarialTraining(model, FGSM(0.1)), (2, 2)),
        (lambda model: training.AdversarialTraining(model, PGD(0.1, n_iter=7)), (8, 8)),
        (lambda model: training.TRADES(model, PGD(0.1, n_iter=7)), (9, 8)),
        (lambda model: training.MART(model, PGD(0.1, n_iter=7)), (8, 8)),
    ],
)
def test_a_step_makes_one_pass_for_each_step_of_the_attack_and_one_to_train(method, passes):
    head = keras.Sequential([keras.Input((16,)), keras.layers.Dense(CLASSES, "softmax")])
    model, counts = counting(head)
    robust = method(model)
    if hasattr(robust, "_gap"):
        robust._gap.count.assign(1)  # not the first batch of an epoch, which is measured too
        robust.reset_metrics = lambda: None
    robust.compile(keras.optimizers.SGD(0.1, weight_decay=None), loss=CE())
    robust.optimizer.build(robust.trainable_variables)
    robust.optimizer.iterations.assign(1)
    counts.update(forward=0, backward=0)
    images, labels = examples(8)
    robust.fit(images, labels, batch_size=8, verbose=0)
    assert (counts["forward"], counts["backward"]) == passes


# Robustness, and overfitting to a single step


@pytest.mark.slow
def test_robust_accuracy_rises_on_digits(digits):
    def train(wrap):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(10, activation="softmax"),
            ]
        )
        trained = wrap(model)
        trained.compile("adam", loss=HRLoss(1.6))
        trained.fit(digits.train.images[:4000], digits.train.labels[:4000], epochs=4, verbose=0)
        return evaluation.robust_accuracy(
            model, digits.test.images[:300], digits.test.labels[:300], [PGD(0.1, "margin")]
        )

    ordinary = train(lambda model: model)
    robust = train(lambda model: training.AdversarialTraining(model, PGD(0.1, n_iter=5)))
    assert robust.worst_case > ordinary.worst_case + 0.2
    assert robust.clean > 0.8


class Waves(keras.layers.Layer):
    """Decides class 0 but at half of ε = 0.2 from the pixel 0.52, where it decides class 1."""

    def call(self, x):
        phase = 2 * np.pi * (keras.ops.reshape(x, (-1, 16))[:, :1] - 0.5) / 0.2
        return keras.ops.concatenate([keras.ops.cos(phase) + 0.3, 0 * phase], axis=-1)


def waves():
    model = keras.Sequential([keras.Input(SHAPE), Waves(), keras.layers.Dense(2)])
    model.set_weights([np.eye(2), np.zeros(2)])
    return model


def test_overfitting_to_a_single_step_is_in_the_logs_and_is_found():
    """A full step jumps over the place that fools the model, smaller ones do not."""
    images, labels = np.full((8, *SHAPE), 0.52, "float32"), np.zeros(8, "int32")
    history = {}
    for attack, eager in ((FGSM(0.2), False), (PGD(0.2, n_iter=10), True)):
        robust = training.AdversarialTraining(waves(), attack)
        loss = CE(from_logits=True)
        robust.compile(keras.optimizers.SGD(0.0), loss, metrics=["accuracy"], run_eagerly=eager)
        history |= robust.fit(
            images, labels, validation_data=(images, labels), batch_size=4, verbose=0
        ).history
    assert history["single_step_gap"] == [1.0]
    assert history["val_single_step_gap"] == [1.0]
    assert history["accuracy"][0] < 0.5  # of the last points of PGD
    findings = {
        finding.name: finding for finding in diagnostics.check(waves(), images, labels, 0.2)
    }
    found = findings["catastrophic_overfitting"]
    assert (found.verdict, found.measured) == ("warning", 1.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda m: training.AdversarialTraining(m, PGD(0.1, targeted=True)), "not be targeted"),
        (lambda m: training.AdversarialTraining(m, attacks.Square(0.1)), "Received: Square"),
        (lambda m: training.AdversarialTraining(m, attacks.FAB(0.1)), "Received: FAB"),
        (lambda m: training.AdversarialTraining(m, attacks.APGD(0.1)), "Received: APGD"),
        (lambda m: training.MART(m, attacks.fast(0.1)), "Received: WorstCase"),
        (lambda m: training.AdversarialTraining(m, "pgd"), "Received: 'pgd'"),
        (lambda m: training.AdversarialTraining(m, PGD(0.1), 1.5), "Received: 1.5"),
        (lambda m: training.TRADES(m, PGD(0.1), beta=0), "`beta`.*Received: 0"),
        (lambda m: training.MART(m, PGD(0.1), beta=-1.0), "`beta`.*Received: -1.0"),
        (lambda m: training.MART(m, PGD(0.1), warmup_steps=-1), "`warmup_steps`.*Received: -1"),
        (lambda m: training.TRADES(m, FGSM(0.1)), "random_start=True"),
        (lambda m: training.TRADES(m, PGD(0.1, "margin")), "objective='ce'"),
        (lambda m: training.AdversarialTraining(lambda x: x, PGD(0.1)), "a keras.Model"),
        (
            lambda m: training.AdversarialTraining(
                keras.Sequential([keras.layers.Dense(3)]), PGD(0.1)
            ),
            "that is built",
        ),
    ],
)
def test_bad_arguments_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make(perceptron())


@pytest.mark.parametrize(
    ("classes", "activation"), [(CLASSES, "sigmoid"), (1, "sigmoid"), (1, None)]
)
@pytest.mark.parametrize("method", [training.TRADES, training.MART])
def test_a_divergence_needs_distributions(method, classes, activation):
    with pytest.raises(ValueError, match="between distributions"):
        method(perceptron(classes, activation), PGD(0.1))


def test_bad_images_are_refused():
    images, labels = examples()
    robust = training.AdversarialTraining(perceptron(), PGD(0.1, n_iter=1))
    robust.compile("sgd", loss=CE())
    with pytest.raises(ValueError, match="inside bounds"):
        robust.fit(255 * images, labels, verbose=0)
    with pytest.raises(ValueError, match="floating point"):
        robust.fit((255 * images).astype("uint8"), labels, verbose=0)
    batches = tf.data.Dataset.from_tensor_slices((255 * images, labels)).batch(8)
    with pytest.raises(tf.errors.InvalidArgumentError, match="inside bounds"):
        robust.fit(batches, verbose=0)
    with mirrored(2).scope(), pytest.raises(ValueError, match="scope of the strategy"):
        training.AdversarialTraining(robust.model, PGD(0.1))
