"""Can a robustness number be believed? Checks for masked gradients and for weak attacks."""

from collections.abc import Iterable
from typing import Any

import keras

from hr_keras._core.attack_view import gather_inputs
from hr_keras._core.checks import (
    Bounds,
    Norm,
    check_batch_size,
    check_bounds,
    check_count,
    check_epsilon,
    check_norm,
)
from hr_keras._core.examples import KEYS, Examples, Keys, Preprocess
from hr_keras._core.finding import VERDICTS, Finding, Verdict
from hr_keras._core.logits import check_backend
from hr_keras.attacks import Task
from hr_keras.diagnostics.attack_checks import AttackChecks
from hr_keras.diagnostics.data_checks import find_in_data
from hr_keras.diagnostics.forward_pass import find_inner_models, forward_pass
from hr_keras.diagnostics.model_checks import find_in_model

__all__ = ["VERDICTS", "Finding", "Verdict", "check"]


def check(
    model: keras.Model,
    images: Any,
    labels: Any = None,
    epsilon: float | None = None,
    norm: Norm = "linf",
    bounds: Bounds = (0.0, 1.0),
    batch_size: int = 256,
    seed: int = 0,
    others: Iterable[keras.Model] = (),
    *,
    preprocess: Preprocess = None,
    keys: Keys = KEYS,
) -> list[Finding]:
    """Checks whether the robustness that attacks measure on a classifier is real.

    | name | is a `"warning"` or a `"fault"` if |
    |---|---|
    | `nonfinite_outputs` | the model returns infinite values or NaN |
    | `pixel_range` | the model is much better on pixels of another range, such as 0 … 255 |
    | `epsilon_size` | ε is more than half the pixel range |
    | `batch_dependent` | decisions change with the other images of the batch |
    | `labels_from_model` | no label is wrong although the model is not certain |
    | `forward_pass` | the model computes gradients, branches or iterates when it classifies |
    | `probabilities_output` | the model hides its logits, or rounds probabilities to 16 bits |
    | `collapsed` | the model is no better than chance, or predicts one class |
    | `randomized_forward` | passes over the same images differ (5 compiled once, 2 anew) |
    | `no_gradient` | no image has a gradient |
    | `zero_gradients` | gradients are exactly zero, through probabilities or logits |
    | `nonfinite_gradients` | gradients are infinite or NaN |
    | `rough_loss` | noise of size ε/10 changes the margin a lot |
    | `single_step_stronger` | accuracy under a single step is lower than under PGD |
    | `catastrophic_overfitting` | many examples withstand a single step and not PGD |
    | `not_monotone` | accuracy rises with ε |
    | `chance_not_reached` | PGD with half the pixel range does not reach chance |
    | `silent_success` | PGD saw an image that fools the model and returned another |
    | `loss_still_rising` | PGD's objective still rises in the last 10 steps |
    | `not_converged` | twice the steps or restarts change PGD's accuracy |
    | `pgd_too_weak` | APGD, on CE or the targeted DLR, fools the model where PGD fails |
    | `gradient_free_stronger` | noise, Square or transfer fool it where PGD and APGD fail |
    | `attack_finds_planted` | PGD misses adversarial examples planted by a new last layer |

    Transfer is from `others`, and from models inside the model that take the same images.

    The cost is at most 36 forward and 5 backward passes for each example. An example that no
    attack fools takes another 560 forward + backward passes (PGD with 40 steps, 9 times; APGD
    with 50 steps, 4 times) and 600 forward passes (Square and noise): about 2,300 forward
    passes in all, a fifth of `attacks.standard`. A few hundred images are enough. For planted
    examples each of the first 200 images takes 204 forward passes (ten times as many if the model
    draws random numbers) and up to 42 forward + backward passes more.

    Args:
        model: A Keras classifier.
        images: Images inside `bounds`, floating point, shape `(n, ...)`, n ≥ 2; or a batched
            `tf.data.Dataset` or `keras.utils.PyDataset` of (images, labels). Of a dataset the
            first 4·`batch_size` examples are read and checked, no others: shuffle it if it is
            sorted by class. What is wrong with later ones an evaluation says.
        labels: Class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`. `None` for a
            dataset.
        epsilon: Size of the perturbation, in the units of the images; greater than 0. Must be
            given.
        norm: Norm of the perturbation, `"linf"` (default) or `"l2"`.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        batch_size: Examples in one compiled step. Default 256.
        seed: Seed of everything that is random, an integer ≥ 0. Default 0.
        others: Keras classifiers of the same images and classes, whose adversarial examples
            are tried on `model`. Default: none.
        preprocess: Function from a batch of images to a batch of images inside `bounds`.
            Default `None`.
        keys: Names of images and labels if the elements of a dataset are dicts. Default
            `("image", "label")`.

    Returns:
        A list of `Finding`, one for each row of the table.

    Raises:
        ValueError: If an argument is not as described.

    References:
        Each finding names its source.

    Example:
        ```python
        from hr_keras import diagnostics

        for finding in diagnostics.check(model, images, labels, epsilon=0.1):
            print(finding.verdict, finding.name, finding.meaning)
        ```
    """
    check_backend()
    epsilon, bounds = check_epsilon(epsilon), check_bounds(bounds)
    if epsilon == 0:
        raise ValueError(
            "`epsilon` must be greater than 0: there is no attack to check. Received: 0"
        )
    norm = check_norm(norm)
    seed = check_count("seed", seed, lowest=0)
    batch_size = check_batch_size(batch_size)
    examples = Examples.of(gather_inputs(model, images), labels, preprocess, keys)
    first = examples.read_first(batch_size)
    task = Task.of(model, *first, bounds, batch_size)
    if len(task.images) < 2:
        raise ValueError(
            f"`images` must hold at least two images. Received: shape {task.images.shape}"
        )
    others = (*others, *find_inner_models(model, task.images))
    checks = AttackChecks(task.predict(), epsilon, norm, bounds, seed, others)
    radius = epsilon * checks.pixel_size
    return [
        *find_in_data(checks.task, radius, bounds, seed),
        forward_pass(checks.task),
        *find_in_model(checks.task, radius, bounds, seed),
        *checks.find(),
    ]
