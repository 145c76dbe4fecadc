"""The HR loss and its gradient in one compiled kernel, on TensorFlow and CPUs.

Composed of `keras.ops` the loss is some 150 small operations, forward and backward, where
TensorFlow's fused cross-entropy is 3: on a batch of 128 × 10 their overhead takes five times
as long as the fused cross-entropy does. XLA makes one kernel of them (`benchmarks/loss.py`),
at the price of a quarter of a second for each new batch size.
"""

import functools

import keras
from keras import ops

from hr_keras import distribution, information


def is_possible(labels, are_logits):
    """Whether `hr_risk` can stand for `information.hr_risk` here.

    Not in eager code, where each odd batch size would be compiled; not among replicas, whose
    gather cannot be; not where GPUs work: there Keras compiles the whole training step.

    Args:
        labels: of the batch. Distributions are left alone: they may want a gradient.
        are_logits: whether the outputs of the classifier are logits.
    """
    return (
        keras.backend.backend() == "tensorflow"
        and are_logits
        and len(labels.shape) == 1
        and distribution.replica_count() == 1
        and _in_a_graph()
        and _xla_compiles()
    )


def hr_risk(labels, logits, alpha, weights):
    """`information.hr_risk` of the softmax of logits, with the same derivatives of all orders.

    Args:
        labels: integers `(n,)`.
        logits: `(n, classes)`.
        alpha: order of the divergence, greater than 1.
        weights: `(n,)` expectation weights, constants.

    Returns:
        Scalar.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def risk(logits):
        value, slope = _kernel(alpha)(labels, logits, weights)

        @tf.custom_gradient
        def gradient(logits):
            def curvature(upstream):
                with tf.GradientTape() as tape:
                    tape.watch(logits)
                    _, composed = value_and_gradient(labels, logits, alpha, weights)
                return tape.gradient(composed, logits, output_gradients=upstream)

            return slope, curvature

        return value, lambda upstream: upstream * gradient(logits)

    return risk(logits)


def value_and_gradient(labels, logits, alpha, weights):
    """The HR risk L and its gradient in closed form.

    ∂L/∂z_k = w̃_i (q_k − [k = y]) − v_i q_k (log q_k + H_i)

    with v the expectation weights, normalised to sum to 1, and w̃_i ∝ v_i exp(r_i) the
    tilted ones. Arguments as those of `hr_risk`.

    Returns:
        Scalar and `(n, classes)`.
    """
    log_q = information.log_probabilities(logits, from_logits=True)
    statistics = information.hr_statistics(labels, log_q, alpha, weights)
    entropy, divergence = information.entropy_and_divergence(statistics, alpha)
    v = weights / ops.where(statistics[3] > 0, statistics[3], 1.0)
    # By the sum that goes with the largest exponent: large exponents keep their digits.
    exponents = information.renyi_exponent(labels, log_q, alpha) - statistics[0]
    tilted = weights * ops.exp(ops.where(weights > 0, exponents, 0.0))
    tilted = tilted / ops.where(statistics[3] > 0, statistics[2], 1.0)
    q = ops.exp(log_q)
    of_divergence = q - ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    excess = ops.maximum(log_q, information.LOWEST) + ops.expand_dims(
        information.conditional_entropy(log_q), axis=-1
    )
    gradient = tilted[:, None] * of_divergence - v[:, None] * q * excess
    return entropy + divergence, gradient


@functools.lru_cache(maxsize=64)
def _kernel(alpha):
    import tensorflow as tf

    def kernel(labels, logits, weights):
        return value_and_gradient(labels, logits, alpha, weights)

    return tf.function(kernel, jit_compile=True, autograph=False)


def _in_a_graph():
    import tensorflow as tf

    return not tf.executing_eagerly()


@functools.cache
def _xla_compiles():
    """Whether this TensorFlow has XLA for CPUs, and no GPU does the work."""
    import tensorflow as tf

    if distribution.gpu_count():
        return False
    try:
        with tf.init_scope():
            tf.function(lambda x: x + 1.0, jit_compile=True)(tf.zeros(()))
    except tf.errors.OpError:  # a build without it
        return False
    return True
