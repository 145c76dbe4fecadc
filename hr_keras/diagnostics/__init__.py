"""Is a robustness number to be believed? Checks for masked gradients and for weak attacks."""

from hr_keras._core.logits import check_backend
from hr_keras.attacks import _perturbation
from hr_keras.attacks._attack import Task
from hr_keras.attacks._checks import check_batch_size, check_bounds, check_count, check_epsilon
from hr_keras.diagnostics.attack_checks import strength_findings
from hr_keras.diagnostics.finding import VERDICTS, Finding
from hr_keras.diagnostics.model_checks import model_findings

__all__ = ["VERDICTS", "Finding", "check"]


def check(
    model,
    images,
    labels,
    epsilon,
    norm="linf",
    bounds=(0.0, 1.0),
    batch_size=256,
    seed=0,
    others=(),
):
    """Whether the robustness of a classifier, as attacks measure it, is real.

    | name | a `"warning"` or `"fault"` where |
    |---|---|
    | `probabilities_output` | the model returns probabilities without known logits, or in 16 bits |
    | `collapsed` | it does no better than chance, or says one class |
    | `randomized_forward` | passes over the same images differ: 5 compiled, or 2 from Python |
    | `no_gradient` | no image has a gradient at all |
    | `zero_gradients` | gradients are exactly zero, through probabilities or logits |
    | `nonfinite_gradients` | gradients are infinite or no number |
    | `rough_loss` | the margin jumps under noise of size ε/10 |
    | `single_step_stronger` | a single step leaves less than PGD |
    | `not_monotone` | accuracy rises with ε |
    | `chance_not_reached` | PGD with half the pixel range leaves more than chance |
    | `gradient_free_stronger` | noise, Square or `others` fool what PGD does not |
    | `not_converged` | twice the steps or restarts change PGD's accuracy |
    | `loss_still_rising` | PGD's objective still rises in its last 10 steps |
    | `silent_success` | PGD passed an image that fools, and returned one that does not |

    Costs for each example at most 30 forward and 5 backward passes, and for one that is
    classified correctly and withstands every attack 360 forward + backward passes (PGD, 40
    steps, 9 times) and 600 forward (Square and Noise): as much as some 1,700 forward passes,
    a seventh of `attacks.standard`. A few hundred images are enough.

    Args:
        model: a Keras classifier.
        images: `(n, ...)` floating point, inside `bounds`; at least two.
        labels: class numbers `(n,)` or `(n, 1)`, or distributions `(n, classes)`.
        epsilon: size of the perturbation, in the units of the images; greater than 0.
        norm: what ε measures: `"linf"` or `"l2"`.
        bounds: `(lowest, highest)` pixel value.
        batch_size: examples in one compiled step.
        seed: integer ≥ 0, of everything that is drawn.
        others: Keras classifiers of the same images and classes, to carry adversarial
            examples over from; none by default.

    Returns:
        A list of `Finding`, one for each name above.

    Raises:
        ValueError: if an argument is not as described.

    Source: that of each check is in its finding.

    Example:
        >>> for finding in diagnostics.check(model, x_test[:500], y_test[:500], epsilon=0.1):
        ...     print(finding.verdict, finding.name, finding.meaning)
    """
    check_backend()
    epsilon, bounds = check_epsilon(epsilon), check_bounds(bounds)
    if epsilon == 0:
        raise ValueError(
            "`epsilon` must be greater than 0: there is no attack to check. Received: 0"
        )
    norm = _perturbation.get(norm).name
    seed = check_count("seed", seed, lowest=0)
    task = Task.of(model, images, labels, bounds, check_batch_size(batch_size))
    if len(task.images) < 2:
        raise ValueError(f"`images` must hold at least two. Received: {task.images.shape}")
    task = task.predict()
    # What of ε each pixel may have where all have the same.
    pixel = 1.0 if norm == "linf" else task.images[0].size ** -0.5
    return [
        *model_findings(task, epsilon * pixel, bounds, seed),
        *strength_findings(task, epsilon, bounds, seed, norm, pixel, tuple(others)),
    ]
