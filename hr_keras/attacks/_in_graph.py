"""An attack on tensors, inside compiled code: what adversarial training needs of it."""

from typing import Any

from hr_keras._core import replicas
from hr_keras.attacks import _perturbation
from hr_keras.attacks._task import State
from hr_keras.attacks.fgsm import FGSM
from hr_keras.attacks.pgd import PGD


def as_pgd(attack: Any) -> PGD:
    """Returns a PGD that makes the steps of an attack: itself, or for FGSM its only step.

    Raises:
        ValueError: For any attack but FGSM, PGD and MomentumPGD.
    """
    if isinstance(attack, PGD):
        return attack
    if isinstance(attack, FGSM):
        names = ("epsilon", "objective", "through", "bounds", "targeted", "name")
        same = {name: getattr(attack, name) for name in names}
        return PGD(**same, n_iter=1, step_size=1.0, random_start=False)
    raise ValueError(
        "`attack` must be FGSM, PGD or MomentumPGD, or a subclass of PGD: compiled training needs "
        "an attack that makes the same number of gradient steps on every example. "
        f"Received: {attack!r}"
    )


def perturb(
    attack: PGD, model: Any, images: Any, labels: Any, keys: Any, epsilon: Any = None
) -> Any:
    """Makes all `n_iter` steps of an attack, in a TensorFlow graph, and returns the last points.

    No example ends early, and the labels are not compared with decisions: the cost is n_iter
    forward + backward passes, whatever the examples.

    Args:
        attack: A PGD.
        model: A Keras classifier that `classifier_output` knows already.
        images: `(n, ...)`.
        labels: `(n,)` or `(n, classes)`.
        keys: uint32 `(n, 2)`, see `keys_of_rows`.
        epsilon: A float64 scalar, by default that of the attack.

    Returns:
        `(n, ...)`.
    """
    import tensorflow as tf

    none = tf.zeros_like(keys[:, 0], tf.int32)
    sizes = tf.zeros_like(none, tf.float64) + (attack.epsilon if epsilon is None else epsilon)
    worst = tf.zeros_like(sizes) - float("inf")

    def at(point: Any, memory: Any, steps: Any) -> State:
        fixed = (images, labels, none, none, keys, sizes)
        # `best` is never used, so that the graph's optimizer removes what computes it.
        return State(*fixed, point, images, worst, none + steps, none > 0, memory)

    def step(steps: Any, point: Any, memory: Any) -> tuple[Any, ...]:
        after = attack.step(model, at(point, memory, steps))
        return steps + 1, tf.ensure_shape(after.point, images.shape), after.memory

    state = attack.start(at(images, (), 0))
    loop = (tf.constant(0), tf.ensure_shape(state.point, images.shape), state.memory)
    if attack.n_iter == 1 or replicas.in_replica():
        # Replicas cannot exchange the sums of a synchronised layer inside a loop.
        for _ in range(attack.n_iter):
            loop = step(*loop)
    else:
        loop = tf.while_loop(lambda steps, *_: steps < attack.n_iter, step, loop)
    return tf.stop_gradient(loop[1])


def keys_of_rows(seed: int, step: Any, rows: Any) -> Any:
    """Makes keys of random numbers `(n, 2)`, uint32, in compiled code.

    Args:
        seed: Of the attack.
        step: Number of the training step, an integer tensor.
        rows: Which rows of the global batch these are, int32 `(n,)`.
    """
    import tensorflow as tf

    constant, mixed = _perturbation._constant, _perturbation._mixed
    start = mixed(constant(seed % 2**32) + tf.cast(step, tf.uint32) * constant(0x9E3779B9))
    first = mixed(start + tf.cast(rows, tf.uint32) * constant(0x85EBCA6B))
    return tf.stack([first, mixed(first + constant(0xC2B2AE35))], axis=-1)
