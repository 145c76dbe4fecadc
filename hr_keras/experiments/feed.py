"""What a realization trains and validates on, as `tf.data` that needs next to nothing."""


def batches(split, batch_size, seed, first_epoch, epochs):
    """Batches of the epochs `first_epoch` … `epochs` − 1, each in an order of its own.

    The order depends on `(seed, epoch)` alone, so that training which goes on sees what it
    would have seen. (`fit` on arrays, after `set_random_seed`, uses one order in all epochs.)

    Args:
        split: a `datasets.Split`. uint8 images stay so until their batch is made.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`, images in [0, 1]; the last batch of an epoch
        may be short.
    """
    import tensorflow as tf

    images, labels = map(tf.constant, split)
    # Captured, not a constant of the graph: TensorFlow would make of the division a product
    # with 1/255, whose last bits are others.
    highest_pixel = tf.constant(255.0)

    def order(epoch):
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        shuffled = tf.random.experimental.stateless_shuffle(tf.range(len(images)), seed=key)
        return tf.data.Dataset.from_tensor_slices(shuffled).batch(batch_size)

    def batch(chosen):
        pixels = tf.gather(images, chosen)
        if pixels.dtype == tf.uint8:
            pixels = tf.cast(pixels, "float32") / highest_pixel
        return pixels, tf.gather(labels, chosen)

    epochs = tf.data.Dataset.range(first_epoch, epochs)
    return untuned(epochs.flat_map(order).map(batch).prefetch(2))


def in_order(split):
    """The validation split in batches. (Keras would make a tuned one of arrays.)"""
    import tensorflow as tf

    return untuned(tf.data.Dataset.from_tensor_slices(tuple(split)).batch(256))


def untuned(dataset):
    """A `tf.data.Dataset` without TensorFlow's tuner: there is nothing to tune, and it costs time.

    Its thread sleeps 10 ms, 20 ms, … up to a minute, and whoever ends an iterator may have to
    wait until it wakes: 10 epochs of 15 s ended after 20.5 s.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
