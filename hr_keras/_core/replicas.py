"""Replicas of `tf.distribute`: how many there are, and how a batch loss is exact over them."""

import sys
import warnings
from typing import Any

import keras
from keras import ops


def gpu_count() -> int:
    """Returns how many GPUs TensorFlow has."""
    import tensorflow as tf

    return len(tf.config.list_logical_devices("GPU"))


def refuse_unsupported() -> None:
    """Raises an error where the replicas do not share a global batch.

    Call it where code is traced, not where it runs.

    Raises:
        ValueError: Under a parameter server strategy; on TensorFlow, if `keras.distribution`
            has a distribution set.
    """
    refuse_keras_distribution()
    if "tensorflow" not in sys.modules:
        return
    import tensorflow as tf

    if isinstance(tf.distribute.get_strategy(), tf.distribute.ParameterServerStrategy):
        raise ValueError(
            "The strategy must be synchronous: parameter servers train each worker on separate "
            "batches, so there is no global batch to compute the loss of. Use "
            "MirroredStrategy or MultiWorkerMirroredStrategy (`get_strategy`). "
            "Received: ParameterServerStrategy"
        )


def refuse_keras_distribution() -> None:
    """Raises a ValueError on TensorFlow if `keras.distribution` has a distribution set."""
    if keras.backend.backend() == "tensorflow" and keras.distribution.distribution() is not None:
        raise ValueError(
            "`keras.distribution` does nothing on the TensorFlow backend: all would run on one "
            "device. Call keras.distribution.set_distribution(None) and use a `tf.distribute` "
            f"strategy (`get_strategy`). Received: {keras.distribution.distribution()}"
        )


def warn_of_unsynchronized(model: keras.Model) -> None:
    """Warns of batch normalisation whose statistics differ from replica to replica."""
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is None or strategy.num_replicas_in_sync < 2:
        return
    names = [
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
    ]
    if names:
        warnings.warn(
            f"Batch normalisation is not synchronised in {', '.join(names)}: each of the "
            f"{strategy.num_replicas_in_sync} replicas has different moving statistics, so that "
            "`predict` and an attack, which reads the first replica, see different models. "
            "Build these layers with synchronized=True.",
            stacklevel=3,
        )


def replica_count() -> int:
    """Returns how many replicas share a batch: 1 outside a `tf.distribute` replica."""
    context = _replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def in_replica() -> bool:
    """Returns whether this code runs in a replica of a `tf.distribute` strategy, even a single one.

    There, replicas exchange values neither inside a loop nor inside another `tf.function`.
    """
    if "tensorflow" not in sys.modules:
        return False
    import tensorflow as tf

    return tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()


def replicas_in_scope() -> int:
    """Returns how many replicas a model built here has: those of the `tf.distribute` scope."""
    if "tensorflow" not in sys.modules:
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def gather_rows(row: Any) -> Any:
    """Gathers one row from every replica: `(k,)` → `(replicas, k)`.

    Each replica writes its row into a zero matrix and the matrices are summed, because
    TensorFlow has the gradient of an all-reduced sum but not of a gather. Outside a replica
    there is one row.
    """
    context = _replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return row[None]
    import tensorflow as tf

    place = tf.one_hot(
        context.replica_id_in_sync_group, context.num_replicas_in_sync, dtype=row.dtype
    )
    return context.all_reduce(tf.distribute.ReduceOp.SUM, ops.outer(place, row))


def _replica_context() -> Any:
    """The replica in which this code runs; `None` across replicas and without TensorFlow."""
    if "tensorflow" not in sys.modules:
        return None
    import tensorflow as tf

    return tf.distribute.get_replica_context()
