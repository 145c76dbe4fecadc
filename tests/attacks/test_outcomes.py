"""What calls and `attempt` make of an attack: numbered examples, verified results."""

import dataclasses
from dataclasses import dataclass

import keras
import numpy as np
import pytest
import tensorflow as tf
from attack_cases import ATTACKS, MODEL, right

from hr_keras import evaluation
from hr_keras.attacks import FGSM, PGD, Attack, Outcome, Square, Task, WorstCase


@pytest.mark.parametrize("name", ["pgd", "square"])
def test_examples_are_numbered_through_a_stream(name):
    """Batches one after another get what the whole gets; not numbered, all get the same noise."""
    images, labels = right(12)
    attack = ATTACKS[name](0.05)
    together = attack(MODEL, images, labels)
    halves = [attack(MODEL, images[k:][:6], labels[k:][:6], first_index=k) for k in (0, 6)]
    np.testing.assert_array_equal(np.concatenate(halves), together)
    same = [attack(MODEL, images[:6], labels[:6], first_index=k) for k in (0, 6)]
    assert (same[0] != same[1]).any()
    (swept,) = attack.sweep(MODEL, images[6:], labels[6:], [0.05], first_index=6)
    np.testing.assert_array_equal(swept, together[6:])
    with pytest.raises(ValueError, match="first_index"):
        attack(MODEL, images, labels, first_index=-1)


@dataclass(frozen=True)
class Claims(Attack):
    """Returns images of its own and says that they do what they should."""

    make: object
    epsilon: float = 0.1
    norm: str = "linf"

    def perturb(self, task):
        return Outcome(self.make(task.images), np.full(len(task.images), self.epsilon > 0))


@pytest.mark.parametrize(
    ("make", "norm", "message"),
    [
        (lambda x: np.full_like(x, 7.0), "linf", "inside bounds.*7.0"),
        (lambda x: x * np.nan, "linf", "without NaN"),
        (lambda x: x + 0.11, "linf", "at most 0.1 in linf.*0.11"),
        (lambda x: x + 0.1, "l2", "at most 0.1 in l2.*0.34"),
        (lambda x: x[:-1], "linf", "shape"),
    ],
)
def test_images_that_an_attack_must_not_return_are_refused(make, norm, message):
    images, labels = right(12)
    attack = Claims(make, norm=norm)
    for act in (
        lambda: attack(MODEL, images, labels),
        lambda: attack.sweep(MODEL, images, labels, [0.1]),
        lambda: evaluation.robust_accuracy(MODEL, images, labels, attack),
        lambda: evaluation.robust_accuracy(MODEL, images, labels, WorstCase(attack)),
    ):
        with pytest.raises(ValueError, match=f"(?s)'claims' must return.*{message}"):
            act()


def test_claims_of_success_or_failure_are_not_believed():
    images, labels = right(12)
    nothing = Claims(lambda x: x, name="nothing")
    modest = Claims(lambda _: FGSM(0.1)(MODEL, images, labels), epsilon=0.0, name="modest")
    object.__setattr__(modest, "epsilon", 0.1)
    result = evaluation.robust_accuracy(MODEL, images, labels, [nothing, modest, FGSM(0.1)])
    assert result.per_attack["nothing"] == 1
    assert result.per_attack["modest"] == result.per_attack["fgsm_ce_0.1"] < 1


class Noisy(keras.layers.Layer):
    def call(self, x):
        return x + 3.0 * tf.random.normal(tf.shape(x))


def test_one_lucky_pass_through_a_random_model_is_no_success():
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2), Noisy()])
    model.set_weights([np.array([[4.0, -4.0]]), np.array([-1.0, 1.0])])
    images, labels = np.full((60, 1), 0.9, "float32"), np.zeros(60, int)
    assert (model.predict(images, verbose=0).argmax(axis=-1) == 0).mean() < 1  # one pass errs
    result = evaluation.robust_accuracy(model, images, labels, PGD(1e-3, n_iter=20))
    assert result.clean > 0.9
    assert result.worst_case > 0.9


class BatchMean(keras.layers.Layer):
    """Adds what depends on the other images of the batch, as BatchNorm does while it trains."""

    def call(self, x):
        return x - 0.5 * tf.reduce_mean(x, axis=0)


def test_success_that_depends_on_the_other_images_is_verified_in_other_batches():
    """The images returned are counted as the model sees them now, not as the attack saw them."""
    model = keras.Sequential([MODEL.layers[0], MODEL.layers[1], BatchMean()])
    images, _ = right(40)
    labels = np.asarray(model(images)).argmax(axis=-1)
    attack = PGD(0.1, n_iter=3)
    result = evaluation.robust_accuracy(model, images, labels, attack)
    assert result.clean == 1
    adversarial = attack(model, images, labels)
    predicted = model.predict(adversarial, batch_size=256, verbose=0).argmax(axis=-1)
    assert 0 < (predicted == labels).sum() < 40
    np.testing.assert_array_equal(result.withstood[attack.name], predicted == labels)


@pytest.mark.parametrize(
    "attack",
    [FGSM(0.1, "hr"), PGD(0.1, "margin", n_iter=3), Square(0.1, n_queries=4)],
    ids=lambda attack: attack.name,
)
def test_xla_gives_the_same_images(attack):
    images, labels = right(6)
    compiled = dataclasses.replace(attack, jit_compile=True)
    np.testing.assert_allclose(
        compiled(MODEL, images, labels), attack(MODEL, images, labels), atol=1e-6
    )


def test_restarts_have_other_random_numbers():
    """As many points as restarts: none is drawn twice."""
    images, labels = right(3)
    task = Task.of(MODEL, images, labels, (0.0, 1.0), 256).predict()
    attack = PGD(0.1, n_restarts=4)
    points = [attack.start_state(task, np.zeros((3, 1), "int32"), k).point for k in range(4)]
    assert len({point.numpy()[0].tobytes() for point in points}) == 4
