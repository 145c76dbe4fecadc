"""tf.distribute: a strategy by name, and the rows that make a batch loss exact over replicas."""

import difflib
import functools
import sys

from keras import ops

STRATEGIES = ("auto", "none", "mirrored")


def get_strategy(name="auto"):
    """A `tf.distribute` strategy by name.

    Args:
        name: `"none"` (one device), `"mirrored"` (`tf.distribute.MirroredStrategy` over
            all GPUs, or over all logical CPUs where there is no GPU), or `"auto"`:
            mirrored where there are two or more GPUs, else none.

    Returns:
        A `tf.distribute.Strategy`. Build and compile the model in its `scope()`.

    Raises:
        ValueError: for any other name.

    Example:
        >>> with distribution.get_strategy("auto").scope():
        ...     model = mnist_cnn()
    """
    check_name(name)
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        return _mirrored()
    return tf.distribute.get_strategy()


@functools.cache
def _mirrored():
    """One for the process: a second one over the same devices reuses the first one's
    collective keys, and TensorFlow stops with "Shape mismatch in the collective instance"."""
    import tensorflow as tf

    if gpus := tf.config.list_logical_devices("GPU"):
        return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
    return tf.distribute.MirroredStrategy(
        [cpu.name for cpu in tf.config.list_logical_devices("CPU")],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def check_name(name):
    """The name itself; a ValueError unless it is one of `STRATEGIES`."""
    if name not in STRATEGIES:
        nearest = difflib.get_close_matches(str(name), STRATEGIES, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"`strategy` must be one of {STRATEGIES}.{hint} Received: {name!r}")
    return name


def replica_count():
    """How many replicas share a batch: 1 outside a `tf.distribute` replica."""
    context = _replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def replicas_in_scope():
    """How many replicas a model built here will have: those of the `tf.distribute` scope."""
    if "tensorflow" not in sys.modules:
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def gather_rows(row):
    """One row a replica, from every replica: `(k,)` → `(replicas, k)`.

    Each replica writes its row into its own place of a zero matrix and the matrices are
    added up, because the gradient of an all-reduced sum is defined and that of a gather
    is not. Outside a replica there is one row.
    """
    context = _replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return row[None]
    import tensorflow as tf

    place = tf.one_hot(
        context.replica_id_in_sync_group, context.num_replicas_in_sync, dtype=row.dtype
    )
    return context.all_reduce(tf.distribute.ReduceOp.SUM, ops.outer(place, row))


def _replica_context():
    """The replica that this code runs in; `None` across replicas and without TensorFlow."""
    if "tensorflow" not in sys.modules:
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()
