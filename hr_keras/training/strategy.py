"""A `tf.distribute` strategy by name, and what its workers tell each other."""

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hr_keras._core.checks import STRATEGIES, StrategyName, check_choice, check_number
from hr_keras._core.replicas import gpu_count, refuse_keras_distribution
from hr_keras.training._cluster import check_cluster, wait_for_workers

if TYPE_CHECKING:
    import tensorflow as tf

# The strategy of several workers: TensorFlow joins the cluster once in a process.
_JOINED: "list[tf.distribute.Strategy]" = []


def get_strategy(name: StrategyName = "auto", wait: float = 600.0) -> "tf.distribute.Strategy":
    """Returns a `tf.distribute` strategy by name.

    Args:
        name: One of

            - `"none"`: one device.
            - `"mirrored"`: `tf.distribute.MirroredStrategy` over all GPUs, or over all logical
              CPUs if there is no GPU.
            - `"multiworker"`: `tf.distribute.MultiWorkerMirroredStrategy` over the processes
              listed in the environment variable `TF_CONFIG`. It waits for all of them, and
              it must be the first thing a process does with TensorFlow. Train with
              `training.fit`, because Keras' own `fit` fails under it.
            - `"auto"` (default): `"mirrored"` if there are two or more GPUs, else `"none"`.
        wait: Seconds that `"multiworker"` waits for the other processes to answer at their
            addresses. Default 600.

    Returns:
        A `tf.distribute.Strategy`. Build and compile the model in its `scope()`.

    Raises:
        ValueError: If the name is unknown, if `TF_CONFIG` is missing or does not describe a
            cluster of workers, or if `keras.distribution` has a distribution set.
        TimeoutError: If a process does not answer in time; it is named.
        RuntimeError: If TensorFlow has run an operation before `"multiworker"` is asked for.

    Example:

    ```python
    from hr_keras import training
    from hr_keras.models import mnist_cnn

    with training.get_strategy("auto").scope():
        model = mnist_cnn()
    ```
    """
    check_strategy(name)
    refuse_keras_distribution()
    if name == "multiworker":
        return _multi_worker(check_number("wait", wait, least=0))
    import tensorflow as tf

    if name == "mirrored" or (name == "auto" and gpu_count() > 1):
        return _mirrored()
    return tf.distribute.get_strategy()


def check_strategy(name: str) -> str:
    """Returns the name of a strategy if `get_strategy` knows it.

    Args:
        name: The name.

    Returns:
        The name.

    Raises:
        ValueError: If it is not one of `STRATEGIES`.

    Example:

    ```python
    from hr_keras.training import check_strategy

    assert check_strategy("mirrored") == "mirrored"
    ```
    """
    return check_choice("strategy", name, STRATEGIES)


@functools.cache
def _mirrored() -> "tf.distribute.Strategy":
    """One for the process: a second one over the same devices would reuse the collective keys
    of the first, and TensorFlow stops with "Shape mismatch in the collective instance"."""
    import tensorflow as tf

    if gpus := tf.config.list_logical_devices("GPU"):
        return tf.distribute.MirroredStrategy([gpu.name for gpu in gpus])
    return tf.distribute.MirroredStrategy(
        [cpu.name for cpu in tf.config.list_logical_devices("CPU")],
        cross_device_ops=tf.distribute.ReductionToOneDevice(),
    )


def _multi_worker(wait: float) -> "tf.distribute.Strategy":
    if _JOINED:
        return _JOINED[0]
    wait_for_workers(*check_cluster(os.environ.get("TF_CONFIG")), wait)
    import tensorflow as tf

    try:
        _JOINED.append(tf.distribute.MultiWorkerMirroredStrategy())
    except RuntimeError as error:
        raise RuntimeError(
            'get_strategy("multiworker") must be the first thing that the process does with '
            f"TensorFlow. TensorFlow says: {error}"
        ) from error
    return _JOINED[0]


def is_multi_worker(strategy: "tf.distribute.Strategy") -> bool:
    """Returns whether the replicas of a strategy are spread over several processes.

    Args:
        strategy: A `tf.distribute.Strategy`.

    Example:

    ```python
    from hr_keras import training

    assert not training.is_multi_worker(training.get_strategy("none"))
    ```
    """
    import tensorflow as tf

    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_chief(strategy: "tf.distribute.Strategy") -> bool:
    """Returns whether this process should write files: it is the chief, or the only process.

    Args:
        strategy: A `tf.distribute.Strategy`.

    Example:

    ```python
    from hr_keras import training

    if training.is_chief(training.get_strategy("none")):
        model.save(tmp_path / "model.keras")
    ```
    """
    return bool(strategy.extended.should_checkpoint)


def from_chief(number: int, strategy: "tf.distribute.Strategy") -> int:
    """Returns the chief's `number` in every process, once all of them have made this call.

    Args:
        number: An int or a bool.
        strategy: The strategy. Under one with several workers, every process must make this
            call. Under any other strategy `number` is returned unchanged.

    Returns:
        The number.

    Example:

    ```python
    from hr_keras import training

    strategy = training.get_strategy("none")
    finished = training.from_chief((tmp_path / "model.keras").exists(), strategy)
    ```
    """
    return _sum_over_workers(number if is_chief(strategy) else 0, strategy)


def any_worker(flag: bool, strategy: "tf.distribute.Strategy") -> bool:
    """Returns whether `flag` is true in any process, once all of them have made this call.

    Args:
        flag: The flag of this process.
        strategy: The strategy; as for `from_chief`.

    Example:

    ```python
    from hr_keras import training

    stop = training.any_worker(model.stop_training, training.get_strategy("none"))
    ```
    """
    return bool(_sum_over_workers(flag, strategy))


def find_worker(strategy: "tf.distribute.Strategy") -> tuple[int, int]:
    """Returns the number of this process among those of a strategy, and how many there are.

    Args:
        strategy: A `tf.distribute.Strategy`.

    Returns:
        (number, count): (0, 1) unless the strategy has several workers. The chief is number 0.

    Example:

    ```python
    from hr_keras import training

    assert training.find_worker(training.get_strategy("none")) == (0, 1)
    ```
    """
    if not is_multi_worker(strategy):
        return 0, 1
    workers, number = _find_cluster(strategy)
    return number, len(workers)


def find_other_workers(strategy: "tf.distribute.Strategy") -> list[str]:
    """Returns the addresses of the other workers of a strategy, `"host:port"`; may be none."""
    if not is_multi_worker(strategy):
        return []
    workers, number = _find_cluster(strategy)
    return workers[:number] + workers[number + 1 :]


def _find_cluster(strategy: "tf.distribute.Strategy") -> tuple[list[str], int]:
    """Returns the addresses of all workers, the chief's first, and the place of this one."""
    resolver = strategy.cluster_resolver
    tasks = resolver.cluster_spec().as_dict()
    chiefs = tasks.get("chief", [])
    before = len(chiefs) if resolver.task_type == "worker" else 0
    return [*chiefs, *tasks.get("worker", [])], before + int(resolver.task_id)


def _sum_over_workers(number: int, strategy: "tf.distribute.Strategy") -> int:
    if not is_multi_worker(strategy):
        return number
    return int(sum_over_workers(number, strategy))


def sum_over_workers(numbers: Any, strategy: "tf.distribute.Strategy") -> Any:
    """Returns the sum of int64 arrays of all workers, once all of them have made this call."""
    import tensorflow as tf

    total = _sum_over_replicas(strategy)(tf.constant(numbers, tf.int64)).numpy()
    # Every replica has added the numbers of its worker; all workers have as many replicas.
    return total // len(strategy.extended.worker_devices)


@functools.cache
def _sum_over_replicas(strategy: "tf.distribute.Strategy") -> Callable[..., Any]:
    """Compiled, because TensorFlow warns of every `strategy.run` that is not."""
    import tensorflow as tf

    @tf.function(autograph=False)
    def sum_numbers(number: Any) -> Any:
        on_each_replica = strategy.run(tf.identity, args=(number,))
        return strategy.reduce(tf.distribute.ReduceOp.SUM, on_each_replica, axis=None)

    return sum_numbers
