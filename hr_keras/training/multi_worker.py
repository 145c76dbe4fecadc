"""`fit` for every synchronous `tf.distribute` strategy, several workers included.

Keras 3's own `fit` stops under `MultiWorkerMirroredStrategy` with "Attempt to convert a value
(PerReplica…" or "Invalid reduction dimension 0", whatever the loss.
"""

import contextlib

import keras

from hr_keras import training
from hr_keras._core import replicas


def fit(
    model,
    dataset,
    *,
    epochs=1,
    steps_per_epoch=None,
    initial_epoch=0,
    validation_data=None,
    validation_batch_size=32,
    validation_steps=None,
    callbacks=(),
    verbose=0,
):
    """Train a compiled model under the strategy in whose scope it was built.

    The same as `model.fit(dataset, …)`, step by step: Keras' `train_step` and `test_step` with
    its loss, regularisers, metrics and optimizer, its callbacks, logs and history. One
    compiled step serves all batches. All of `model.metrics` are sums over all replicas.

    With several workers every process calls `fit` with the same arguments, and every process
    is given the **same** data set of global batches, of which each replica takes its rows:
    do not shard it, and give a shuffle a seed. Callbacks run in every process, with the same
    logs: let only the chief write (`training.is_chief`). `model.stop_training` ends the
    training of all workers when any of them sets it at the end of an epoch; within an epoch
    they all have to set it after the same batch.

    A batch that the replicas can't share evenly, the first one too, is cut into shares whose
    sizes differ by one; some may be empty. `HRLoss` is exact on any shares. Keras' own losses
    take the mean in each replica and then the mean of those, so that in such a batch the rows
    of a smaller share weigh more: with shares of 2 and 3 rows, 1/4 and 1/6 each for 1/5.
    (`sample_weight` is weighed by that too. An empty share counts as a loss of 0.)

    Not as in `model.fit`: the step is not compiled by XLA, `steps_per_execution` is not used,
    and a data set that ends is begun anew, so that an epoch always has `steps_per_epoch` steps.

    Args:
        model: a compiled Keras model.
        dataset: a `tf.data.Dataset` of global batches `(x, y)` or `(x, y, sample_weight)`.
        epochs: number of the epoch to end before, as in `model.fit`.
        steps_per_epoch: batches an epoch; by default all of `dataset`.
        initial_epoch: number of the epoch to begin with.
        validation_data: `(x, y)` or `(x, y, sample_weight)` arrays, or a `tf.data.Dataset` of
            global batches; adds `val_…` to the logs of every epoch.
        validation_batch_size: rows in a global batch of validation arrays.
        validation_steps: batches of a validation data set; by default all of it.
        callbacks: Keras callbacks.
        verbose: 0, 1 or 2, as in `model.fit`.

    Returns:
        A `keras.callbacks.History`, the same in every process.

    Raises:
        ValueError: if an argument is not as described, if the length of a data set is neither
            known nor given, and where `replicas.refuse_unsupported` says so.

    Example:
        >>> strategy = training.get_strategy("multiworker")  # reads TF_CONFIG
        >>> with strategy.scope():
        ...     model = mnist_cnn()
        ...     model.compile("sgd", loss=HRLoss(alpha=1.6), metrics=["accuracy"])
        >>> batches = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(60000, seed=0).batch(100)
        >>> history = training.fit(model, batches, epochs=5, validation_data=(x_val, y_val))
    """
    strategy = model.distribute_strategy
    _check(model, dataset, strategy)
    steps = _steps(dataset, steps_per_epoch, "steps_per_epoch")
    build(model, dataset.element_spec)
    validate = _validation(model, validation_data, validation_batch_size, validation_steps)
    callbacks = keras.callbacks.CallbackList(
        list(callbacks),
        add_history=True,
        add_progbar=verbose != 0,
        verbose=verbose,
        epochs=epochs,
        steps=steps,
        model=model,
    )
    step = _compiled(model, model.train_step)
    batches = iter(_shares(dataset, strategy))
    logs = None
    model.stop_training = False
    callbacks.on_train_begin()
    with _overflow_is_everyones(model.optimizer):
        for epoch in range(initial_epoch, epochs):
            callbacks.on_epoch_begin(epoch)
            logs = _train_epoch(model, step, batches, steps, callbacks)
            logs.update(validate(callbacks))
            callbacks.on_epoch_end(epoch, logs)
            if training.any_worker(model.stop_training, strategy):
                break
    model.optimizer.finalize_variable_values(model.trainable_weights)
    callbacks.on_train_end(logs)
    return model.history


@contextlib.contextmanager
def _overflow_is_everyones(optimizer):
    """Let all replicas skip a step in which the scaled gradient of one overflowed.

    Keras' LossScaleOptimizer asks one replica of each process, before gradients are added up:
    the process that skips would leave the others waiting for its gradient for ever.
    """
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        yield
        return
    import tensorflow as tf

    of_one_replica = optimizer.check_finite

    def check_finite(gradients):
        overflowed = 1 - tf.cast(of_one_replica(gradients), tf.int32)
        context = tf.distribute.get_replica_context()
        return tf.equal(context.all_reduce(tf.distribute.ReduceOp.SUM, overflowed), 0)

    optimizer.check_finite = check_finite
    try:
        yield
    finally:
        del optimizer.check_finite


def _train_epoch(model, step, batches, steps, callbacks):
    model.reset_metrics()
    for k in range(steps):
        callbacks.on_train_batch_begin(k)
        logs = step(batches)
        callbacks.on_train_batch_end(k, logs)
        if model.stop_training:
            break
    return dict(logs)


def _validation(model, data, batch_size, steps):
    """A function of the callbacks that validates and returns the `val_…` logs."""
    if data is None:
        return lambda callbacks: {}
    import tensorflow as tf

    if not isinstance(data, tf.data.Dataset):
        data = tf.data.Dataset.from_tensor_slices(tuple(data)).batch(batch_size)
    steps = _steps(data, steps, "validation_steps")
    shares = _shares(data, model.distribute_strategy)
    step = _compiled(model, model.test_step)

    def validate(callbacks):
        batches = iter(shares)
        callbacks.on_test_begin()
        model.reset_metrics()
        for k in range(steps):
            callbacks.on_test_batch_begin(k)
            logs = step(batches)
            callbacks.on_test_batch_end(k, logs)
        callbacks.on_test_end(logs)
        return {f"val_{name}": value for name, value in logs.items()}

    return validate


def _compiled(model, replica_step):
    """`iterator -> logs`: the step on the next global batch, and the metrics so far."""
    import tensorflow as tf

    strategy = model.distribute_strategy

    def step(iterator):
        strategy.run(replica_step, args=(next(iterator),))
        with strategy.scope():  # read across replicas, a metric's variable is the sum over them
            return model.get_metrics_result()

    return step if model.run_eagerly else tf.function(step, autograph=False)


def _shares(dataset, strategy):
    """Every replica's rows of every global batch, without end."""
    import tensorflow as tf

    def of_this_worker(context):
        replicas = context.num_replicas_in_sync
        per_worker = replicas // context.num_input_pipelines
        first = context.input_pipeline_id * per_worker

        def cut(*batch):
            rows = tf.shape(keras.tree.flatten(batch)[0], tf.int64)[0]

            def share(replica):
                mine = slice(replica * rows // replicas, (replica + 1) * rows // replicas)
                return keras.tree.map_structure(lambda tensor: tensor[mine], batch)

            return tf.data.Dataset.range(first, first + per_worker).map(share)

        # The replicas of a worker take the elements of its data set in turn. Without an end
        # they need not ask each other before every batch whether there is one.
        return dataset.repeat().flat_map(cut).prefetch(tf.data.AUTOTUNE)

    return strategy.distribute_datasets_from_function(of_this_worker)


def build(model, batch):
    """Make the variables of model, metrics and optimizer, which no compiled step could make.

    Args:
        model: a compiled Keras model.
        batch: `(x, y)` or `(x, y, sample_weight)`, of tensors or of their specifications.
    """
    specs = keras.tree.map_structure(
        lambda tensor: keras.KerasTensor(tensor.shape, dtype=tensor.dtype.name), batch
    )
    with model.distribute_strategy.scope():
        model._symbolic_build(data_batch=specs)


def _check(model, dataset, strategy):
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


def _steps(dataset, given, name):
    steps = int(dataset.cardinality()) if given is None else given
    if steps < 1:
        known = {-1: "infinite", -2: "unknown"}.get(steps, steps)
        raise ValueError(
            f"`{name}` must be at least 1; without it, the data set must have a known length. "
            f"Received: {name}={given}, length {known}"
        )
    return steps
