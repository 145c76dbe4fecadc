import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import linear_model

from hr_keras import evaluation
from hr_keras._core import compiled
from hr_keras.attacks import FGSM, PGD, Square, WorstCase, _input_gradient

COUNTS = {"forward": 0, "backward": 0, "traces": 0}


class Counting(keras.layers.Layer):
    """Passes its input on and counts, example by example batch, who comes by."""

    def call(self, images):
        COUNTS["traces"] += 1

        @tf.custom_gradient
        def count(x):
            def forward(x):
                COUNTS["forward"] += 1
                return x

            def backward(g):
                COUNTS["backward"] += 1
                return g

            y = tf.ensure_shape(tf.numpy_function(forward, [x], x.dtype), x.shape)
            return y, lambda g: tf.ensure_shape(tf.numpy_function(backward, [g], g.dtype), g.shape)

        return count(images)


def counting_model(before=(), shape=(2, 2, 3)):
    """A linear model that counts, behind other layers or none."""
    model = keras.Sequential(
        [
            keras.Input(shape),
            *before,
            Counting(),
            keras.layers.Flatten(),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    if not before:
        model.layers[-1].set_weights(linear_model(1.0).get_weights())
    return model


def data(n=40, shape=(2, 2, 3)):
    generator = np.random.default_rng(1)
    images = generator.uniform(0, 1, size=(n, *shape)).astype("float32")
    return images, generator.integers(3, size=n)


def counted(function):
    before = dict(COUNTS)
    result = function()
    return result, {key: COUNTS[key] - before[key] for key in COUNTS}


def test_a_sweep_costs_its_passes_and_compiles_once():
    """{ce, hr} × {0, 0.1, 0.25}: 1 forward + 2 backward + 4 forward, for each of 2 batches."""
    model, (images, labels) = counting_model(), data()
    evaluation.sweep(model, images, labels, batch_size=20)
    result, cost = counted(lambda: evaluation.sweep(model, images, labels, batch_size=20))
    assert cost == {"forward": 2 * (1 + 4), "backward": 2 * 2, "traces": 0}
    _, cost = counted(
        lambda: evaluation.sweep(model, images, labels, epsilons=(0.2, 0.3, 0.4), batch_size=20)
    )
    assert cost == {"forward": 2 * (1 + 6), "backward": 2 * 2, "traces": 0}
    _, cost = counted(
        lambda: evaluation.sweep(model, images, labels, epsilons=(0.0,), batch_size=20)
    )
    assert cost == {"forward": 2, "backward": 2 * 2, "traces": 0}
    plain = evaluation.sweep(linear_model(1.0), images, labels)
    np.testing.assert_array_equal(result.correct, plain.correct)


def test_our_own_gradient_of_a_convolution_costs_no_pass_more(monkeypatch):
    """Where `InputGradient` goes its own way, which it takes for one channel alone."""
    taken, ours = [], _input_gradient._transposed_convolution
    monkeypatch.setattr(
        _input_gradient, "_transposed_convolution", lambda *part: taken.append(1) or ours(*part)
    )
    model = counting_model([keras.layers.Conv2D(4, 3, activation="relu")], (6, 6, 1))
    images, labels = data(shape=(6, 6, 1))
    evaluation.sweep(model, images, labels, batch_size=20)
    assert len(taken) >= 2  # an objective each
    _, cost = counted(lambda: evaluation.sweep(model, images, labels, batch_size=20))
    assert cost == {"forward": 2 * (1 + 4), "backward": 2 * 2, "traces": 0}


def test_fgsm_costs_one_forward_and_one_backward_whatever_the_epsilons():
    model, (images, labels) = counting_model(), data()
    attack = FGSM(0.1)
    attack(model, images, labels)
    _, cost = counted(lambda: attack.sweep(model, images, labels, (0.1, 0.2, 0.3)))
    assert cost == {"forward": 1, "backward": 1, "traces": 0}
    _, cost = counted(lambda: FGSM(0.2)(model, images, labels))
    assert cost == {"forward": 1, "backward": 1, "traces": 0}


@pytest.mark.parametrize("through", ["logits", "probabilities"])
def test_a_sweep_equals_its_attacks_one_by_one(cnn, digits, through):
    images, labels = digits.test.images[:200], digits.test.labels[:200]
    result = evaluation.sweep(cnn, images, labels, through=through, epsilons=(0.25, 0.0, 0.1))
    assert list(result.accuracy) == [(o, e) for o in ("ce", "hr") for e in (0.25, 0.0, 0.1)]
    for (objective, epsilon), accuracy in result.accuracy.items():
        adversarial = FGSM(epsilon, objective, through)(cnn, images, labels)
        predicted = cnn.predict(adversarial, verbose=0).argmax(axis=-1)
        # another batch shape may round another way, for an example at the very boundary
        assert accuracy == pytest.approx((predicted == labels).mean(), abs=1 / 200 + 1e-9)
        position = result.objectives.index(objective), result.epsilons.index(epsilon)
        assert result.correct[position].mean() == pytest.approx(accuracy)


def test_labels_may_be_distributions():
    images, labels = data()
    soft = 0.9 * np.eye(3)[labels] + 0.1 / 3
    hard_result = evaluation.sweep(linear_model(1.0), images, labels, epsilons=(0.0,))
    soft_result = evaluation.sweep(linear_model(1.0), images, soft, epsilons=(0.0,))
    np.testing.assert_array_equal(hard_result.correct, soft_result.correct)


def test_predictions_that_are_no_numbers_are_not_correct():
    model = linear_model(1.0)
    model.set_weights([np.full((12, 3), np.nan), np.zeros(3)])
    images, _ = data()
    result = evaluation.sweep(model, images, np.zeros(40, int))
    assert set(result.accuracy.values()) == {0.0}


def test_a_model_without_a_path_to_its_input_has_zero_gradients():
    inputs = keras.Input((2, 2, 3))
    x = keras.layers.Flatten()(keras.ops.stop_gradient(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    assert evaluation.sweep(model, *data()).zero_gradient_share == {"ce": 1.0, "hr": 1.0}


def test_names_and_sizes_must_differ(linear):
    with pytest.raises(ValueError, match="epsilons"):
        evaluation.sweep(linear, *data(), epsilons=(0.1, 0.1))
    with pytest.raises(ValueError, match="epsilons"):
        evaluation.sweep(linear, *data(), epsilons=())
    with pytest.raises(ValueError, match="objectives"):
        evaluation.sweep(linear, *data(), objectives=("ce", "ce"))
    with pytest.raises(ValueError, match="bounds"):
        evaluation.sweep(linear, *data(), bounds=(0.0, 0.5))


def test_compiled_code_is_kept_with_its_model():
    model, (images, labels) = linear_model(1.0), data()
    for epsilons in ((0.0, 0.1), (0.2,)):
        evaluation.sweep(model, images, labels, epsilons=epsilons)
    assert len(compiled._COMPILED[model]) == 1


def test_log_probabilities_do_not_saturate():
    """A softmax of gaps of some thousands, against float64."""
    model = linear_model(scale=1e3)
    images = np.random.default_rng(0).random((20, 2, 2, 3), dtype="float32")
    weights, bias = (w.astype("float64") for w in model.get_weights())
    z = images.reshape(20, 12).astype("float64") @ weights + bias
    expected = z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
    found = evaluation.log_probabilities(model, images, batch_size=7)
    assert found.dtype == np.float64
    assert found.min() < -700
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_the_columns_of_a_confusion_matrix_are_mean_decisions(linear):
    images = np.random.default_rng(1).random((30, 2, 2, 3), dtype="float32")
    labels = np.arange(30) % 3
    matrix = evaluation.confusion_matrix(linear, images, labels)
    np.testing.assert_allclose(matrix.sum(axis=0), 1.0, rtol=1e-12)
    predicted = linear.predict(images, verbose=0)
    for label in range(3):
        np.testing.assert_allclose(
            matrix[:, label], predicted[labels == label].mean(axis=0), atol=1e-6
        )
    soft = evaluation.confusion_matrix(linear, images, np.eye(3)[labels])
    np.testing.assert_allclose(soft, matrix)
    mixed = np.full((30, 3), 1 / 3)
    np.testing.assert_allclose(
        evaluation.confusion_matrix(linear, images, mixed),
        np.repeat(predicted.mean(axis=0)[:, None], 3, axis=1),
        atol=1e-6,
    )


def test_a_class_without_images_has_no_column(linear):
    images = np.random.default_rng(1).random((4, 2, 2, 3), dtype="float32")
    matrix = evaluation.confusion_matrix(linear, images, np.array([0, 0, 2, 2]))
    assert np.isnan(matrix[:, 1]).all()
    np.testing.assert_allclose(matrix[:, [0, 2]].sum(axis=0), 1.0)
    with pytest.raises(ValueError, match="class numbers"):
        evaluation.confusion_matrix(linear, images, np.array([0, 0, 2, 3]))


def test_robust_accuracy_is_what_every_attack_leaves_example_by_example(cnn, digits):
    images, labels = digits.test.images[:80], digits.test.labels[:80]
    attacks = [FGSM(0.1), PGD(0.1, "margin", n_iter=5), PGD(0.05, n_iter=5)]
    result = evaluation.robust_accuracy(cnn, images, labels, attacks)
    clean = cnn.predict(images, verbose=0).argmax(axis=-1) == labels
    np.testing.assert_array_equal(result.correct, clean)
    assert result.clean == clean.mean()
    assert list(result.per_attack) == ["fgsm_ce_0.1", "pgd_margin_0.1", "pgd_ce_0.05"]
    expected = clean.copy()
    for attack in attacks:
        predicted = cnn.predict(attack(cnn, images, labels), verbose=0).argmax(axis=-1)
        still = clean & (predicted == labels)
        # another batch shape may round another way, for an example at the very boundary
        assert (result.withstood[attack.name] != still).sum() <= 1
        assert result.per_attack[attack.name] <= result.clean
        assert result.worst_case <= result.per_attack[attack.name]
        expected &= result.withstood[attack.name]
    np.testing.assert_array_equal(result.robust, expected)
    assert result.worst_case == expected.mean()
    one = evaluation.robust_accuracy(cnn, images, labels, attacks[0], batch_size=7)
    assert (one.robust != result.withstood["fgsm_ce_0.1"]).sum() <= 1


def test_robust_accuracy_pays_for_the_examples_that_are_correct_only():
    model, (images, labels) = counting_model(), data()
    correct = evaluation.robust_accuracy(model, images, labels, FGSM(0.0)).correct
    assert 0 < correct.sum() < 40
    attack = Square(1e-6, n_queries=3)
    evaluation.robust_accuracy(model, images, labels, attack, batch_size=1)
    run = lambda: evaluation.robust_accuracy(model, images, labels, attack, batch_size=1)  # noqa: E731
    _, cost = counted(run)
    # the clean pass serves the attack as well; one more verifies its images
    assert cost == {"forward": 40 + (3 + 1) * correct.sum(), "backward": 0, "traces": 0}
    wrong = evaluation.robust_accuracy(
        model, images[~correct], labels[~correct], [FGSM(0.1), WorstCase(PGD(0.1))]
    )
    assert wrong.per_attack == {"fgsm_ce_0.1": 0.0, "worst_case": 0.0}
    assert wrong.worst_case == wrong.clean == 0.0


def test_robust_accuracy_takes_soft_labels_and_refuses_what_it_cannot_compare(linear):
    images, labels = data()
    soft = 0.9 * np.eye(3)[labels] + 0.1 / 3
    hard, same = (
        evaluation.robust_accuracy(linear, images, kind, PGD(0.1, "margin"))
        for kind in (labels, soft)
    )
    np.testing.assert_array_equal(hard.robust, same.robust)
    for attacks, message in (
        ([], "at least one attack"),
        ([PGD(0.1), PGD(0.1, seed=1)], "none twice"),
        ([PGD(0.1, targeted=True)], "targeted"),
        ([PGD(0.1, bounds=(0, 2)), PGD(0.2)], "same bounds"),
        ("standard", "at least one attack"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluation.robust_accuracy(linear, images, labels, attacks)
    with pytest.raises(ValueError, match="from 0 to 2"):
        evaluation.robust_accuracy(linear, images, labels + 1, PGD(0.1))


def test_a_data_set_in_parts_is_evaluated_as_a_whole(linear):
    images, _ = data()
    labels = linear.predict(images, verbose=0).argmax(axis=-1)
    attack = Square(0.2, n_queries=5)
    whole = evaluation.robust_accuracy(linear, images, labels, attack).robust
    parts = [
        evaluation.robust_accuracy(
            linear, images[k:][:20], labels[k:][:20], attack, first_index=k
        ).robust
        for k in (0, 20)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert 0 < whole.mean() < 1
