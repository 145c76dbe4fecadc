"""PGD and MI-FGSM: their passes, their algorithms, the trace."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from attack_cases import MODEL, NORMS, Wavy, distances, fooled, into_ball, right, steepest
from conftest import linear_model
from test_evaluation import counted, counting_model

from hr_keras import evaluation
from hr_keras.attacks import PGD, MomentumPGD, Task, objectives


def simulated_pgd(model, images, labels, epsilon, n_iter):
    """Looks that PGD from the image takes at each example of a linear model, in float64."""
    kernel, bias = (weight.astype("float64") for weight in model.get_weights())
    looks = []
    for image, label in zip(images.reshape(len(images), -1).astype("float64"), labels, strict=True):
        x, count = image, 0
        for _ in range(n_iter):
            count += 1
            logits = x @ kernel + bias
            if logits.argmax() != label:
                break
            others = np.where(np.arange(len(bias)) == label, -np.inf, logits)
            direction = np.sign(kernel[:, others.argmax()] - kernel[:, label])
            x = np.clip(x + 2.5 / n_iter * epsilon * direction, image - epsilon, image + epsilon)
            x = np.clip(x, 0, 1)
        looks.append(count)
    return np.array(looks)


def test_pgd_costs_exactly_the_passes_that_each_example_needs():
    """Forward + backward until fooled, one forward after the last step, one of the image."""
    model = counting_model()
    images, labels = right(15)
    epsilon = 1.02 * float(np.median(distances(MODEL, images, labels, "linf")))
    make = lambda n: PGD(epsilon, "margin", n_iter=20, random_start=False, batch_size=n)  # noqa: E731
    make(1)(model, images, labels)
    adversarial, cost = counted(lambda: make(1)(model, images, labels))
    looks = simulated_pgd(MODEL, images, labels, epsilon, 20)
    assert len(set(looks)) > 2
    spent = int((~fooled(MODEL, adversarial, labels)).sum())
    late = int((looks == 20).sum())  # fooled by the last step, or not at all
    assert spent <= late
    assert cost == {"forward": 15 + looks.sum() + late, "backward": looks.sum(), "traces": 0}
    # all at once: as many passes as the slowest needs
    _, cost = counted(lambda: make(256)(model, images, labels))
    assert cost["backward"] == looks.max()


def test_batches_shrink_as_examples_are_fooled():
    """Rows in backward passes against those that the examples need, fooled at any step."""
    rows = []

    @tf.custom_gradient
    def count(x):
        def backward(g):
            (g,) = tf.py_function(lambda g: rows.append(len(g)) or [g], [g], [g.dtype])
            return tf.ensure_shape(g, x.shape)

        return x, backward

    inputs = keras.Input((2, 2, 3))
    x = keras.layers.Flatten()(keras.layers.Lambda(count)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    model.set_weights(MODEL.get_weights())
    images, labels = right(600)
    epsilon = float(np.median(distances(MODEL, images, labels, "linf")))
    needed = simulated_pgd(MODEL, images, labels, epsilon, 40).sum()
    PGD(epsilon, "margin", n_iter=40, random_start=False, batch_size=64)(model, images, labels)
    assert max(rows) == 60
    assert needed <= sum(rows) < 1.3 * needed


def test_saturation_changes_nothing():
    """The closed forms: direction and comparison of iterates whatever the scale of the logits."""
    images, labels = right(40)
    kernel, bias = MODEL.get_weights()
    saturated = linear_model(1.0)
    saturated.set_weights([1000 * kernel, 1000 * bias])
    for objective in ("margin", "dlr"):
        expected = PGD(0.1, objective)(MODEL, images, labels)
        found = PGD(0.1, objective)(saturated, images, labels)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    for objective in ("ce", "hr"):
        left = evaluation.robust_accuracy(
            saturated,
            images,
            labels,
            [
                PGD(0.1, "margin"),
                PGD(0.1, objective, name="exact"),
                PGD(0.1, objective, through="probabilities", name="published"),
            ],
        ).per_attack
        assert left["exact"] == left["pgd_margin_0.1"] < left["published"] - 0.1


def test_an_attack_that_goes_on_goes_further():
    images, labels = right(40)
    epsilon = 0.3
    margins = []
    for stop in (True, False):
        adversarial = PGD(epsilon, "margin", stop_early=stop)(MODEL, images, labels)
        logits = np.log(MODEL(adversarial).numpy())
        margins.append(objectives.margin(tf.constant(labels), tf.constant(logits)).numpy())
    assert (margins[1] > 0).mean() >= (margins[0] > 0).mean() > 0.5
    assert np.median(margins[1]) > np.median(margins[0]) + 0.1


def test_a_trace_sees_what_the_attack_saw(cnn, digits):
    """A point of the trace fools where the attack does, whatever the batch."""
    images, labels = digits.test.images[:40], digits.test.labels[:40]
    attack = PGD(0.1, n_iter=6)
    task = Task.of(cnn, images, labels, (0.0, 1.0), 40).predict()
    task = task.select(~attack.is_fooled(task.logits, task.labels))
    scores, fooled = attack.trace(task)
    assert scores.shape == fooled.shape == (len(task.images), 7)
    assert np.array_equal(fooled.any(axis=1), attack.attempt(task).fooled)
    assert 0 < fooled.any(axis=1).mean() < 1
    assert (scores[:, -1] > scores[:, 0]).all()
    in_parts, _ = attack.trace(task.replace(batch_size=11))
    np.testing.assert_allclose(in_parts, scores, rtol=1e-3, atol=1e-3)


def published_mifgsm(problem, image, label, epsilon, norm, n_iter, step_size, decay):
    """Algorithm 1 of Dong et al. 2018 for one example; its point of the highest objective."""
    x, velocity, points = image, np.zeros_like(image), [image]
    for _ in range(n_iter):
        _, gradient = problem.log_odds(x, label)
        velocity = decay * velocity + gradient / np.abs(gradient).sum()
        x = into_ball(x + step_size * epsilon * steepest(velocity, norm), image, epsilon, norm)
        points.append(x)
    return max(points, key=lambda point: problem.log_odds(point, label)[0])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    ("options", "step_size", "decay"),
    [({}, 0.1, 1.0), ({"step_size": 0.3, "decay": 0.6}, 0.3, 0.6)],
    ids=["published", "long steps"],
)
def test_mifgsm_equals_the_published_algorithm(options, step_size, decay, norm):
    """Long steps leave the ball and are brought back."""
    problem, epsilon = Wavy(), 0.4
    images = np.random.default_rng(0).uniform(0.1, 0.9, (24, 3))
    labels = np.arange(24) % 4
    attacker = MomentumPGD(epsilon, norm=norm, stop_early=False, **options)
    found = attacker(problem.keras_model(), images, labels)
    changed = 0
    for image, label, ours in zip(images, labels, found, strict=True):
        run = problem, image, label, epsilon, norm, 10, step_size
        np.testing.assert_allclose(ours, published_mifgsm(*run, decay), atol=1e-6)
        changed += np.abs(ours - published_mifgsm(*run, 0.0)).max() > 1e-3
    assert changed > 5  # where momentum leads elsewhere
