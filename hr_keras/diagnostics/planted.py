"""The binarization test: does an attack find an adversarial example that was planted?"""

import weakref
from typing import Any

import keras
import numpy as np
from keras import ops

from hr_keras._core.attack_view import join_inputs
from hr_keras._core.compiled import compiled, in_batches, structure
from hr_keras._core.finding import Finding
from hr_keras._core.logits import classifier_output, features_of, input_spec
from hr_keras._core.passes import MeanOfPasses, single_pass
from hr_keras._core.pixel_bounds import for_pixels
from hr_keras.attacks import PGD, Task
from hr_keras.diagnostics.finding import (
    find_tolerance,
    format_percent,
    judge,
    not_applicable,
)

ZIMMERMANN = (
    "Zimmermann et al. 2022, 'Increasing Confidence in Adversarial Robustness Evaluations'; the "
    "threshold is ours"
)
NAME = "attack_finds_planted"
MOST_EXAMPLES = 200
FEWEST_EXAMPLES = 10
# Share of the planted examples that an attack may miss.
MISSED = 0.05
# Where a random search finds more than this share, finding them proves nothing.
EASY = 0.5
INNER_POINTS = 100
RANDOM_POINTS = 100
# Inner points are drawn from the ball of size 0.95·ε, as in the authors' code.
INNER_SIZE = 0.95
# Place of the decision between the outermost inner point (0) and the planted example (1).
DECISION = 0.9
# Of the mean variance. A small one leads along features that are constant at all inner points.
RIDGE = 0.1
# Mean features of a model that draws random numbers.
RANDOM_PASSES = 10

_PLANTED: weakref.WeakKeyDictionary[keras.Model, Any] = weakref.WeakKeyDictionary()


def attack_finds_planted(attack: PGD, task: Task) -> Finding:
    """Checks whether an attack finds examples that are adversarial for a new last layer.

    For each example a linear layer on the features of the model tells one point on the border of
    the ball, class 1, from points inside it, class 0. The model with this layer has an adversarial
    example in the ball; an attack that works finds one.

    Args:
        attack: The attack to test; its ball and its seed are those of the points.
        task: A `Task`; the first `MOST_EXAMPLES` examples are used.
    """
    task = task.select(slice(MOST_EXAMPLES))
    if classifier_output(task.model).fixed_batch is not None:
        meaning = "The model takes batches of one size only."
        return not_applicable(NAME, meaning, ZIMMERMANN)
    planted, adversarial, at_random = _plant(attack, task)
    exists = _is_found(planted.replace(images=adversarial)) & ~_is_found(planted)
    if exists.sum() < min(FEWEST_EXAMPLES, len(exists)):
        meaning = (
            "A linear layer on the features tells the planted example from the points around it "
            f"for {exists.sum()} of {len(exists)} examples only."
        )
        return not_applicable(NAME, meaning, ZIMMERMANN)
    missed = 1 - np.asarray(attack.attempt(planted.select(exists)).fooled).mean()
    random = at_random[exists].mean()
    meaning = (
        f"In {exists.sum()} models with a new last layer, each with an adversarial example planted "
        f"within ε, PGD finds {format_percent(1 - missed)} and a random search "
        f"{format_percent(random)}"
    )
    threshold = find_tolerance(MISSED, int(exists.sum()))
    if missed > threshold:
        meaning += ": it misses adversarial examples that exist"
    elif random > EASY:
        return not_applicable(NAME, f"{meaning}: too easy to prove anything.", ZIMMERMANN)
    return judge(NAME, missed, threshold, f"{meaning}.", ZIMMERMANN)


def _is_found(planted: Task) -> np.ndarray:
    return np.asarray(planted.find_mean_logits()).argmax(axis=-1) == 1


def _plant(attack: PGD, task: Task) -> tuple[Task, np.ndarray, np.ndarray]:
    """Plants an example for each of a task.

    Returns:
        The task of finding them, in the model with new last layers; the planted examples; and
        whether a random search finds one, bool `(n,)`.
    """
    model, _ = single_pass(task.model)
    step = compiled(model, "features", _build_features)
    passes = RANDOM_PASSES if classifier_output(model).is_random else 1
    found = []
    for k, image in enumerate(task.images):
        generator = np.random.default_rng([attack.seed, int(task.indices[k])])
        points = _draw_points(attack, image, generator)
        others = tuple(np.repeat(other[k : k + 1], len(points), axis=0) for other in task.others)
        data = (points, np.zeros(len(points), "int32"), task.batch_size)
        features = np.mean(
            [in_batches(step, *data, per_example=others)[0] for _ in range(passes)], axis=0
        )
        with np.errstate(all="ignore"):  # features that are NaN or all the same
            readout, is_easy = _train_readout(features)
        found.append((readout, points[1 + INNER_POINTS], is_easy))
    readouts, adversarial, at_random = map(np.array, zip(*found, strict=True))
    planted = task.replace(
        model=_planted_model(task.model, readouts.shape[1] - 1),
        labels=np.zeros(len(readouts), "int32"),
        others=(*task.others, np.nan_to_num(readouts)),
        logits=None,
    )
    return planted, adversarial, at_random


def _draw_points(attack: PGD, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The image, inner points, the planted example, and points of the ball at random."""
    size = (INNER_POINTS, 1, RANDOM_POINTS // 2, RANDOM_POINTS // 2)
    drawn = generator.uniform(-1, 1, (sum(size), *image.shape))
    inner, planted, inside, border = np.split(drawn, np.cumsum(size)[:-1])
    if attack.norm == "linf":
        planted, border = np.sign(planted), np.sign(border)
    else:
        inner, planted, inside, border = (
            _on_sphere(generator.normal(size=part.shape))
            for part in (inner, planted, inside, border)
        )
        for part in (inner, inside):
            radius = generator.uniform(size=len(part)) ** (1 / image.size)
            part *= radius.reshape(-1, *(1,) * image.ndim)
    moves = np.concatenate([0 * inner[:1], INNER_SIZE * inner, planted, inside, border])
    low, high = for_pixels(attack.bounds, image.shape)
    return np.clip(image + attack.epsilon * moves, low, high).astype(image.dtype)


def _on_sphere(points: np.ndarray) -> np.ndarray:
    size = np.sqrt((points**2).sum(axis=tuple(range(1, points.ndim)), keepdims=True))
    return points / size


def _train_readout(features: np.ndarray) -> tuple[np.ndarray, bool]:
    """Trains a linear discriminant (Fisher's, with a ridge) of the points of `_draw_points`.

    w = (S + λI)⁻¹ (φ(planted) − μ), with mean μ and covariance S of the inner points.

    Returns:
        Weights of the features and a bias, float32 `(features + 1,)`, and whether one of the
        random points is on the side of the planted example.
    """
    n = 1 + INNER_POINTS
    mean = features[:n].mean(axis=0, dtype="float64")
    centred = features - mean
    inner, planted, random = centred[:n], centred[n], centred[n + 1 :]
    # By Woodbury's identity a matrix of the points, not of the features.
    ridge = max(RIDGE * float((inner**2).mean()), 1e-300) * n
    gram = inner @ inner.T + ridge * np.eye(n)
    weights = planted - inner.T @ np.linalg.solve(gram, inner @ planted)
    weights = weights / (weights @ planted)
    outermost = (inner @ weights).max()
    decision = outermost + DECISION * (1 - outermost)
    readout = np.append(weights, -decision - mean @ weights).astype("float32")
    return readout, bool((random @ weights > decision).any())


def _build_features(model_ref: Any) -> Any:
    def features(images: Any, labels: Any, *others: Any) -> tuple[Any]:
        model = model_ref()
        return (features_of(model, join_inputs(model, images, others)),)

    return features


def _planted_model(model: keras.Model, size: int) -> keras.Model:
    """Returns the model whose last layer is an input; the same one each time."""
    layers_now = structure(model)
    if _PLANTED.get(model, (None, None))[0] != layers_now:
        single, eot = single_pass(model)
        planted = PlantedModel(single, size)
        _PLANTED[model] = layers_now, planted if eot == 1 else MeanOfPasses(planted, eot)
    found: keras.Model = _PLANTED[model][1]
    return found


class PlantedModel(keras.Model):
    """A model of two classes whose last layer comes with the example, as another input."""

    def __init__(self, model: keras.Model, size: int) -> None:
        super().__init__(name=f"{model.name}_planted")
        # A strong reference would keep the model alive, see `_PLANTED`.
        self.model_ref = weakref.ref(model)
        self.size = size
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        inputs, readout = inputs
        features = features_of(self.model_ref(), inputs)
        margin = ops.sum(features * readout[:, :-1], axis=-1) + readout[:, -1]
        return ops.stack([-margin, margin], axis=-1)

    def attacked_spec(self) -> Any:
        """Returns `input_spec` of the model."""
        return input_spec(self.model_ref())

    def fill(self, images: Any) -> Any:
        """Returns inputs for a tensor of images, and zeros."""
        model: Any = self.model_ref()
        inputs = model.fill(images) if hasattr(model, "fill") else images
        return inputs, ops.zeros((ops.shape(images)[0], self.size + 1))

    def join(self, images: Any, others: Any) -> Any:
        """Returns the inputs of `call`."""
        *others, readout = others
        return join_inputs(self.model_ref(), images, others), readout
