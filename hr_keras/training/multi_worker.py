"""`fit` for every synchronous `tf.distribute` strategy, including several workers.

Keras 3's own `fit` fails under `MultiWorkerMirroredStrategy` with "Attempt to convert a value
(PerReplica…" or "Invalid reduction dimension 0", whatever the loss.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras

from hr_keras._core import replicas
from hr_keras.training.strategy import any_worker

if TYPE_CHECKING:
    import tensorflow as tf

Logs = dict[str, Any]


def fit(
    model: keras.Model,
    dataset: "tf.data.Dataset",
    *,
    epochs: int = 1,
    steps_per_epoch: int | None = None,
    initial_epoch: int = 0,
    validation_data: Any = None,
    validation_batch_size: int = 32,
    validation_steps: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> keras.callbacks.History:
    """Trains a compiled model under the strategy in whose scope it was built.

    It does what `model.fit(dataset, …)` does, step by step: Keras' `train_step` and `test_step`
    with its loss, regularizers, metrics and optimizer, its callbacks, logs and history. One
    compiled step serves all batches. All of `model.metrics` are sums over all replicas.

    With several workers, every process calls `fit` with the same arguments and the **same**
    data set of global batches, of which each replica takes its rows: do not shard the data
    set, and give a shuffle a seed. Callbacks run in every process with the same logs: let only
    the chief write files (`training.is_chief`). If one worker sets `model.stop_training` at
    the end of an epoch, all stop. Within an epoch all have to set it after the same batch.

    A batch that the replicas cannot share evenly is cut into shares whose sizes differ by one;
    some may be empty. `HRLoss` is exact on any shares. Keras' own losses take the mean in each
    replica and then the mean of these, so the rows of a smaller share weigh more: with shares
    of 2 and 3 rows, 1/4 and 1/6 each instead of 1/5. An empty share counts as a loss of 0.

    Differences from `model.fit`: XLA does not compile the step, `steps_per_execution` is not
    used, and a data set that ends is repeated, so every epoch has `steps_per_epoch` steps.

    Args:
        model: A compiled Keras model.
        dataset: A `tf.data.Dataset` of global batches `(x, y)` or `(x, y, sample_weight)`.
        epochs: Index of the epoch before which to stop, as in `model.fit`. Default 1.
        steps_per_epoch: Batches in an epoch. Default `None`: all of `dataset`.
        initial_epoch: Index of the epoch to start with. Default 0.
        validation_data: `(x, y)` or `(x, y, sample_weight)` arrays, or a `tf.data.Dataset` of
            global batches; adds `val_…` to the logs of every epoch. Default `None`.
        validation_batch_size: Rows in a global batch of validation arrays. Default 32.
        validation_steps: Batches of a validation data set to use. Default `None`: all.
        callbacks: Keras callbacks.
        verbose: 0 (default), 1 or 2, as in `model.fit`.

    Returns:
        A `keras.callbacks.History`, the same in every process.

    Raises:
        ValueError: If an argument is not as described, if the length of a data set is neither
            known nor given, or if replicas do not share a global batch (parameter servers,
            `keras.distribution` on TensorFlow).

    Example:

    ```python
    from hr_keras import HRLoss, training
    from hr_keras.models import mnist_cnn

    strategy = training.get_strategy("none")  # "multiworker" reads TF_CONFIG
    with strategy.scope():
        model = mnist_cnn()
        model.compile("sgd", loss=HRLoss(alpha=1.6), metrics=["accuracy"])
    batches = tf.data.Dataset.from_tensor_slices((x_train, y_train)).shuffle(100, seed=0).batch(10)
    history = training.fit(model, batches, epochs=2, validation_data=(x_val, y_val))
    ```
    """
    strategy = model.distribute_strategy
    _check(model, dataset, strategy)
    steps = _count_steps(dataset, steps_per_epoch, "steps_per_epoch")
    _build(model, dataset.element_spec)
    validate = _make_validation(model, validation_data, validation_batch_size, validation_steps)
    callback_list = keras.callbacks.CallbackList(
        list(callbacks),
        add_history=True,
        add_progbar=verbose != 0,
        verbose=verbose,
        epochs=epochs,
        steps=steps,
        model=model,
    )
    step = _compile_step(model, model.train_step)
    batches = iter(_share_batches(dataset, strategy))
    logs: Logs = {}
    model.stop_training = False
    callback_list.on_train_begin()
    with _skip_overflows_together(model.optimizer):
        for epoch in range(initial_epoch, epochs):
            callback_list.on_epoch_begin(epoch)
            logs = _train_epoch(model, step, batches, steps, callback_list)
            logs.update(validate(callback_list))
            callback_list.on_epoch_end(epoch, logs)
            if any_worker(model.stop_training, strategy):
                break
    model.optimizer.finalize_variable_values(model.trainable_weights)
    callback_list.on_train_end(logs)
    return model.history


@contextlib.contextmanager
def _skip_overflows_together(optimizer: keras.optimizers.Optimizer) -> Iterator[None]:
    """Makes all replicas skip a step in which the scaled gradient of one overflowed.

    Keras' LossScaleOptimizer asks one replica of each process before gradients are summed: the
    processes that do not skip would wait forever for the gradient of the one that does.
    """
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        yield
        return
    import tensorflow as tf

    check_one_replica = optimizer.check_finite

    def check_finite(gradients: Any) -> Any:
        overflowed = 1 - tf.cast(check_one_replica(gradients), tf.int32)
        context = tf.distribute.get_replica_context()
        return tf.equal(context.all_reduce(tf.distribute.ReduceOp.SUM, overflowed), 0)

    optimizer.check_finite = check_finite
    try:
        yield
    finally:
        del optimizer.check_finite


def _train_epoch(
    model: keras.Model,
    step: Callable[..., Logs],
    batches: Iterator[Any],
    steps: int,
    callbacks: keras.callbacks.CallbackList,
) -> Logs:
    model.reset_metrics()
    for k in range(steps):
        callbacks.on_train_batch_begin(k)
        logs = step(batches)
        callbacks.on_train_batch_end(k, logs)
        if model.stop_training:
            break
    return dict(logs)


def _make_validation(
    model: keras.Model, data: Any, batch_size: int, steps: int | None
) -> Callable[[keras.callbacks.CallbackList], Logs]:
    """Returns a function that validates, tells the callbacks, and returns the `val_…` logs."""
    if data is None:
        return lambda callbacks: {}
    import tensorflow as tf

    if not isinstance(data, tf.data.Dataset):
        data = tf.data.Dataset.from_tensor_slices(tuple(data)).batch(batch_size)
    n_steps = _count_steps(data, steps, "validation_steps")
    shares = _share_batches(data, model.distribute_strategy)
    step = _compile_step(model, model.test_step)

    def validate(callbacks: keras.callbacks.CallbackList) -> Logs:
        batches = iter(shares)
        callbacks.on_test_begin()
        model.reset_metrics()
        for k in range(n_steps):
            callbacks.on_test_batch_begin(k)
            logs = step(batches)
            callbacks.on_test_batch_end(k, logs)
        callbacks.on_test_end(logs)
        return {f"val_{name}": value for name, value in logs.items()}

    return validate


def _compile_step(model: keras.Model, replica_step: Callable[..., Any]) -> Callable[..., Logs]:
    """Returns `iterator -> logs`: one step on the next global batch, and the metrics so far."""
    import tensorflow as tf

    strategy = model.distribute_strategy

    def step(iterator: Iterator[Any]) -> Any:
        strategy.run(replica_step, args=(next(iterator),))
        with strategy.scope():  # where a metric's variable reads as its sum over replicas
            return model.get_metrics_result()

    return step if model.run_eagerly else tf.function(step, autograph=False)


def _share_batches(dataset: "tf.data.Dataset", strategy: "tf.distribute.Strategy") -> Any:
    """Returns the rows of each replica of every global batch, repeated without end."""
    import tensorflow as tf

    def make_shares(context: "tf.distribute.InputContext") -> "tf.data.Dataset":
        n_replicas = context.num_replicas_in_sync
        per_worker = n_replicas // context.num_input_pipelines
        first = context.input_pipeline_id * per_worker

        def cut(*batch: Any) -> Any:
            rows = tf.shape(keras.tree.flatten(batch)[0], tf.int64)[0]

            def share(replica: Any) -> Any:
                own = slice(replica * rows // n_replicas, (replica + 1) * rows // n_replicas)
                return keras.tree.map_structure(lambda tensor: tensor[own], batch)

            return tf.data.Dataset.range(first, first + per_worker).map(share)

        # The replicas of a worker take the elements of its data set in turn. An endless data
        # set saves them from asking each other before every batch whether there is one.
        return dataset.repeat().flat_map(cut).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(make_shares)


def _build(model: keras.Model, batch: Any) -> None:
    """Makes the variables of model, metrics and optimizer: a compiled step cannot."""
    specs = keras.tree.map_structure(
        lambda tensor: keras.KerasTensor(tensor.shape, dtype=tensor.dtype.name), batch
    )
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=specs)


def _check(
    model: keras.Model, dataset: "tf.data.Dataset", strategy: "tf.distribute.Strategy"
) -> None:
    import tensorflow as tf

    with strategy.scope():
        replicas.refuse_unsupported()
    if not model.compiled:
        raise ValueError("`model` must be compiled: call model.compile(…) in the strategy's scope.")
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            "`dataset` must be a tf.data.Dataset of global batches. "
            f"Received: {type(dataset).__name__}"
        )


def _count_steps(dataset: "tf.data.Dataset", given: int | None, name: str) -> int:
    steps = int(dataset.cardinality()) if given is None else given
    if steps < 1:
        known = {-1: "infinite", -2: "unknown"}.get(steps, steps)
        raise ValueError(
            f"`{name}` must be at least 1; without it, the data set must have a known length. "
            f"Received: {name}={given}, length {known}"
        )
    return steps
