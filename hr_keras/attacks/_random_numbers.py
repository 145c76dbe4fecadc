"""Random numbers of one example: a function of its key and of what is drawn, of nothing else.

A generator with a state would give an example other numbers beside other batch-mates. Here
number j of draw d is a hash of (key, d, j), so that results do not depend on the batch size,
on the order, or on which examples were fooled before.
"""

import math

import numpy as np
from keras import ops


def keys(seed, indices, attempts):
    """Keys `(n, 2)` uint32, one for each (seed, index, attempt).

    Args:
        seed: integer ≥ 0.
        indices: `(n,)` integers ≥ 0, which example.
        attempts: `(n,)` integers ≥ 0, which restart.
    """
    rows = [
        np.random.SeedSequence((seed, int(index), int(attempt))).generate_state(2)
        for index, attempt in zip(indices, attempts, strict=True)
    ]
    return np.array(rows, "uint32").reshape(-1, 2)


def uniform(keys, draw, shape):
    """Uniform on [0, 1), float32 of 24 random bits, `(n, *shape)`.

    Args:
        keys: `(n, 2)` uint32; see `keys`.
        draw: `(n,)` int32 or an integer: which draw with this key.
        shape: of the numbers of one example.
    """
    import tensorflow as tf

    position = tf.cast(tf.range(math.prod(shape), dtype=tf.int64), tf.uint32)
    draw = tf.broadcast_to(tf.bitcast(tf.cast(draw, tf.int32), tf.uint32), tf.shape(keys)[:1])
    row = _mixed(keys[:, 0] + draw * _constant(0x9E3779B9))
    bits = _mixed(row[:, None] + position[None] * _constant(0x85EBCA6B))
    bits = _mixed(tf.bitwise.bitwise_xor(bits, keys[:, 1:]))
    numbers = tf.cast(tf.bitwise.right_shift(bits, _constant(8)), tf.float32) * 2.0**-24
    return tf.reshape(numbers, (-1, *shape))


def normal(keys, draw, shape):
    """Standard normal, float32, `(n, *shape)`, by Box and Muller; arguments as `uniform`."""
    pair = uniform(keys, draw, (2, *shape))
    radius = ops.sqrt(-2.0 * ops.log(1.0 - pair[:, 0]))
    return radius * ops.cos(2.0 * math.pi * pair[:, 1])


def _mixed(x):
    """A bijection of 32 bits with little bias ("lowbias32" of C. Wellons' hash prospector)."""
    import tensorflow as tf

    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _constant(shift)))
        x = x * _constant(factor)
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, _constant(16)))


def _constant(value):
    import tensorflow as tf

    return tf.constant(value, tf.uint32)
