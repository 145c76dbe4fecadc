"""A `tf.distribute` strategy by name, and what its workers tell each other."""

import difflib
import functools
import json
import os

from hr_keras._core.replicas import gpu_count, refuse_keras_distribution

STRATEGIES = ("auto", "none", "mirrored", "multiworker")


def get_strategy(name="auto"):
    """A `tf.distribute` strategy by name.

    Args:
        name: `"none"` (one device), `"mirrored"` (`tf.distribute.MirroredStrategy` over
            all GPUs, or over all logical CPUs where there is no GPU), `"multiworker"`
            (`tf.distribute.MultiWorkerMirroredStrategy` over the processes that the
            environment variable `TF_CONFIG` lists), or `"auto"`: mirrored where there are
            two or more GPUs, else none. `"multiworker"` waits for all the processes and
            must be the first thing that a process does with TensorFlow; train with
            `training.fit`, as Keras' own `fit` fails under it.

    Returns:
        A `tf.distribute.Strategy`. Build and compile the model in its `scope()`.

    Raises:
        ValueError: for any other name; for `"multiworker"` where `TF_CONFIG` is missing or
            is not a cluster of workers; where `keras.distribution` has a distribution set.
        RuntimeError: for `"multiworker"` after TensorFlow has begun to work.

    Example:
        >>> with training.get_strategy("auto").scope():
        ...     model = mnist_cnn()
    """
    check_name(name)
    refuse_keras_distribution()
    if name == "multiworker":
        return _multi_worker()
    import tensorflow as tf

    if name == "mirrored" or (name == "auto" and gpu_count() > 1):
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


@functools.cache
def _multi_worker():
    """One for the process: TensorFlow joins the cluster once."""
    _check_cluster(os.environ.get("TF_CONFIG"))
    import tensorflow as tf

    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise RuntimeError(
            'get_strategy("multiworker") must come before anything else that the process does '
            f"with TensorFlow. TensorFlow says: {error}"
        ) from error


def _check_cluster(tf_config):
    """A ValueError unless `tf_config` lists workers and says which one this process is."""
    expected = (
        "`TF_CONFIG` must say in JSON who the workers are and which one this process is, such as "
        '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
        '"task": {"type": "worker", "index": 0}}. '
    )
    if not tf_config:
        raise ValueError(f"{expected}It is not set.")
    try:
        config = json.loads(tf_config)
        kind, index = config["task"]["type"], int(config["task"]["index"])
        tasks = config["cluster"][kind]
        known = kind in ("chief", "worker") and 0 <= index < len(tasks)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{expected}Received: TF_CONFIG={tf_config!r} ({error!r})") from error
    if not known:
        raise ValueError(
            f"{expected}The task must be one of the cluster's, a worker or the chief. "
            f"Received: TF_CONFIG={tf_config!r}"
        )


def is_multi_worker(strategy):
    """Whether the replicas of a strategy are in several processes, each with a loop of its own."""
    import tensorflow as tf

    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy):
    """Whether this process is the one that writes files: the chief, or the only one."""
    return strategy.extended.should_checkpoint


def from_chief(number, strategy):
    """The chief's `number` in every process; returns when all of them have come here.

    Args:
        number: an int, or a bool.
        strategy: every process of a multi-worker strategy must make this call; under any
            other strategy the number is returned as it is.

    Example:
        >>> if training.from_chief(path.exists(), strategy):
        ...     return
    """
    return _sum_over_workers(number if is_chief(strategy) else 0, strategy)


def any_worker(flag, strategy):
    """Whether `flag` is true in any process; returns when all of them have come here."""
    return bool(_sum_over_workers(flag, strategy))


def _sum_over_workers(number, strategy):
    if not is_multi_worker(strategy):
        return number
    import tensorflow as tf

    total = int(_sum_over_replicas(strategy)(tf.constant(int(number), tf.int64)))
    # Every replica of a worker has added the worker's number; all workers have as many.
    return total // len(strategy.extended.worker_devices)


@functools.cache
def _sum_over_replicas(strategy):
    """Compiled: TensorFlow warns of every `strategy.run` that is not."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def of_worker(number):
        on_each_replica = strategy.run(tf.identity, args=(number,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, on_each_replica, axis=None)

    return of_worker


def check_name(name):
    """The name itself; a ValueError unless it is one of `STRATEGIES`."""
    if name not in STRATEGIES:
        nearest = difflib.get_close_matches(str(name), STRATEGIES, n=1, cutoff=0.4)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"`strategy` must be one of {STRATEGIES}.{hint} Received: {name!r}")
    return name
