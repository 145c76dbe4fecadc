"""The gradient with respect to images, by a faster way through a first convolution of one channel.

Training never needs the gradient with respect to the images, attacks need no other, and
TensorFlow's CPU kernel for it is made for many channels: for one it is among the slowest
operations of an attack. One matrix product and a sum of shifted images are faster and differ
in the order of the sums only.
"""

from typing import Any

import numpy as np

from hr_keras._core import replicas


class InputGradient:
    """Computes gradients with respect to `images`, in a TensorFlow graph.

    Make it after the values are computed, and before any gradient is.

    Args:
        tape: A persistent `tf.GradientTape` that watches `images`.
        images: Symbolic tensor, `(n, ...)`.
    """

    def __init__(self, tape: Any, images: Any) -> None:
        self.tape, self.images = tape, images
        self.convolution = _first_convolution(images)

    def __call__(self, value: Any) -> Any:
        """Computes ∂Σvalue/∂images `(n, ...)`: zero where the images have no path to it."""
        import tensorflow as tf

        # A gradient that Python computed has no shape in the graph.
        return tf.ensure_shape(self._differentiate(value), self.images.shape)

    def _differentiate(self, value: Any) -> Any:
        import tensorflow as tf

        if self.convolution is not None:
            inputs, kernel = self.convolution.inputs
            (outputs,) = self.convolution.outputs
            upstream = self.tape.gradient(value, outputs)
            if upstream is not None:  # else a custom gradient hides the convolution
                upstream = tf.ensure_shape(upstream, outputs.shape)
                gradient = _transposed_convolution(upstream, kernel, inputs.shape)
                if inputs is self.images:
                    return gradient
                return self.tape.gradient(
                    inputs,
                    self.images,
                    output_gradients=gradient,
                    unconnected_gradients="zero",
                )
        return self.tape.gradient(value, self.images, unconnected_gradients="zero")


def _first_convolution(images: Any) -> Any:
    """Finds the convolution that all uses of `images` pass through; `None` if there is none."""
    import tensorflow as tf

    if replicas.gpu_count() > 0 or tf.executing_eagerly():  # without a graph, users are not known
        return None
    tensor = images
    while len(users := tensor.consumers()) == 1 and len(users[0].outputs) == 1:
        (operation,) = users
        if operation.type == "Conv2D":
            return operation if _is_eligible(operation) else None
        (tensor,) = operation.outputs
    return None


def _is_eligible(convolution: Any) -> bool:
    """Tells whether it has one channel, no strides or holes, and sizes that are known."""
    images, kernel = convolution.inputs
    if convolution.get_attr("data_format") != b"NHWC" or images.dtype != "float32":
        return False
    if images.shape.rank is None:
        return False
    shapes = (*images.shape[1:], *kernel.shape)
    if None in shapes or images.shape[-1] != 1 or kernel.shape[2] != 1:
        return False
    steps = [*convolution.get_attr("strides"), *convolution.get_attr("dilations")]
    return set(steps) == {1} and convolution.get_attr("padding") in (b"VALID", b"SAME")


def _transposed_convolution(gradient: Any, kernel: Any, shape: Any) -> Any:
    """Computes ∂/∂images of a convolution of images of `shape` `(n, height, width, 1)`.

    dx[i, j] = Σ_ab (Σ_k dz[i − a, j − b, k] w[a, b, k]), the inner sums as one matrix product.

    Args:
        gradient: ∂/∂output, `(n, rows, columns, filters)`.
        kernel: `(a, b, 1, filters)`.
    """
    import tensorflow as tf

    height, width = shape[1:3]
    rows, columns, _, filters = kernel.shape
    products = tf.matmul(
        tf.reshape(kernel, (-1, filters)), tf.reshape(gradient, (-1, filters)), transpose_b=True
    )
    parts = tf.reshape(products, (rows * columns, -1, *gradient.shape[1:3]))
    shifted = [
        tf.pad(part, ((0, 0), (a, rows - 1 - a), (b, columns - 1 - b)))
        for part, (a, b) in zip(tf.unstack(parts), np.ndindex(rows, columns), strict=True)
    ]
    whole = tf.add_n(shifted)
    # What "SAME" padded, (rows − 1) // 2 above and the rest below, is no part of the image.
    top, left = ((whole.shape[1] - height) // 2, (whole.shape[2] - width) // 2)
    return whole[:, top : top + height, left : left + width, None]
