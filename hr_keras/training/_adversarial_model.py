"""What the models of adversarial training share: the attack inside the step, and saving."""

import dataclasses
from typing import Any, ClassVar

import keras
from keras import ops

from hr_keras._core import information, replicas
from hr_keras._core.checks import check_count
from hr_keras._core.logits import check_backend, classifier_output, known_logits, logits_of
from hr_keras.attacks import FGSM, PGD, MomentumPGD, _in_graph, objectives
from hr_keras.attacks._task import check_images, is_correct
from hr_keras.losses._batch_loss import BatchLoss
from hr_keras.training._model_checks import check_model

# Attacks that can be made again from a saved configuration.
_SAVED = {kind.__name__: kind for kind in (FGSM, PGD, MomentumPGD)}
# Steps between two measurements of `single_step_gap`, and the steps of its PGD.
_GAP_EVERY = 100
_GAP_STEPS = 10


class AdversarialModel(keras.Model):
    """Base class: an ordinary Keras model whose training step attacks the batch first.

    Called, evaluated or attacked it is the classifier. A subclass says in `find_inputs` what a
    training step sees; a pair (clean, adversarial) makes one pass of both together.

    Args:
        model: A Keras classifier that is built.
        attack: `FGSM`, `PGD`, `MomentumPGD` or a subclass of `PGD`, not targeted.
        name: Name of this model.
        warmup_steps: In so many first steps the ε of the attack rises linearly to its own.
    """

    # Whether layers work as in training while the attack runs, see `_InTrainingMode`.
    attacks_in_training_mode: ClassVar[bool] = False

    def __init__(
        self, model: keras.Model, attack: Any, name: str | None = None, warmup_steps: int = 0
    ) -> None:
        check_backend()
        check_model(model)
        if getattr(attack, "targeted", False):
            raise ValueError(
                "`attack` must not be targeted: training would teach the classes to reach. "
                f"Received: {attack!r}"
            )
        super().__init__(name=name or f"robust_{model.name}", dtype=model.dtype_policy)
        self.model = model
        self.attack = attack
        self.warmup_steps = check_count("warmup_steps", warmup_steps, lowest=0)
        steps = _in_graph.as_pgd(attack)
        attacked = _InTrainingMode(model) if self.attacks_in_training_mode else model
        # Found now, not while a step is traced.
        output = classifier_output(model)
        classifier_output(attacked)
        if not keras.backend.is_float_dtype(output.input_dtype):
            raise ValueError(
                "`model` must take floating-point images. "
                f"Received: model {model.name!r} with input dtype {output.input_dtype}"
            )
        self._steps = steps
        self._get_attacked = lambda: attacked  # not a layer of this model
        self._output_kind = output.kind
        if steps.n_iter == 1:
            self._gap = keras.metrics.Mean("single_step_gap")
        self.build(getattr(model, "input_shape", None) or model.get_build_config()["input_shape"])

    def build(self, input_shape: Any) -> None:
        """Does nothing: the classifier is built already."""
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Calls the classifier; on a pair of batches once, and returns a pair."""
        if not isinstance(inputs, tuple):
            return self.model(inputs, training=training)
        outputs = self.model(ops.concatenate(inputs), training=training)
        logits = known_logits(outputs)
        if logits is None:
            return tuple(ops.split(outputs, 2))
        # Each part through a softmax of its own, behind which a loss finds the logits.
        return tuple(
            ops.cast(keras.activations.softmax(part), outputs.dtype)
            for part in ops.split(logits, 2)
        )

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Trains as `keras.Model.fit`; images in an array outside `bounds` are refused."""
        if hasattr(x, "dtype") and hasattr(x, "min"):
            check_images(x, self._steps.bounds)
        return super().fit(x, *args, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Attacks the batch and makes the ordinary step of Keras on the result."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._check_batch(x)
        keys = self._find_keys(x)
        self._measure_gap(x, y, keys, self.optimizer.iterations % _GAP_EVERY == 0)
        return super().train_step((self.find_inputs(x, y, keys), y, sample_weight))

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluates the classifier on the images as they are."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        if self._steps.n_iter == 1:
            self._measure_gap(x, y, self._find_keys(x), False)
        return super().test_step(data)

    def find_inputs(self, x: Any, y: Any, keys: Any) -> Any:
        """Returns what a training step sees: images, or a pair (clean, adversarial).

        Args:
            x: Images `(n, ...)`.
            y: Labels as they are given.
            keys: Keys of the attack's random numbers, uint32 `(n, 2)`.
        """
        raise NotImplementedError

    def perturb(self, x: Any, labels: Any, keys: Any) -> Any:
        """Attacks images `(n, ...)`, with labels `(n,)` or `(n, classes)`."""
        epsilon = self._find_epsilon()
        return _in_graph.perturb(self._steps, self._get_attacked(), x, labels, keys, epsilon)

    def combine(self, y: Any, clean: Any, adversarial: Any, sample_weight: Any) -> Any:
        """Returns the loss of a pair of outputs."""
        raise NotImplementedError

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """Computes the compiled loss, or for a pair of outputs `combine`."""
        if isinstance(y_pred, tuple):
            clean, adversarial = y_pred
            return self.combine(y, clean, adversarial, sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Updates the compiled metrics: in training on the adversarial outputs."""
        if isinstance(y_pred, tuple):
            y_pred = y_pred[1]
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def log_probabilities(self, outputs: Any) -> Any:
        """Computes log-probabilities from outputs of the classifier, float32 or better."""
        logits = known_logits(outputs) if self._output_kind == "softmax" else None
        values = outputs if logits is None else logits
        if keras.backend.standardize_dtype(values.dtype) != "float64":
            values = ops.cast(values, "float32")
        return information.log_probabilities(
            values, from_logits=logits is not None or self._output_kind == "logits"
        )

    def mean(self, values: Any, y: Any, sample_weight: Any) -> Any:
        """Computes this replica's share of the mean over the global batch, with sample weights.

        They count as in the compiled loss: Σ w·v / n, or for the losses of this package and the
        reduction `"mean_with_sample_weight"` Σ w·v / Σ w. Examples of the `ignore_class` of the
        compiled loss do not count.

        Args:
            values: `(n,)`.
            y: Labels as they are given.
            sample_weight: `(n,)`, `(n, 1)` or `None`.
        """
        weights = ops.ones_like(values)
        if sample_weight is not None:
            weights = ops.reshape(ops.cast(sample_weight, values.dtype), (-1,))
        by_weight = isinstance(self.loss, BatchLoss) or (
            getattr(self.loss, "reduction", None) == "mean_with_sample_weight"
        )
        counts = weights if by_weight else ops.ones_like(values)
        ignored = getattr(self.loss, "ignore_class", None)
        if ignored is not None:
            counted = ops.cast(hard_labels(y) != ignored, values.dtype)
            weights, counts = weights * counted, counts * counted
        row = ops.stack([ops.sum(weights * values), ops.sum(counts)])
        total, count = ops.unstack(ops.sum(replicas.gather_rows(row), axis=0))
        # Keras sums the gradients of the replicas.
        return ops.divide_no_nan(total, count) / replicas.replica_count()

    def get_config(self) -> dict[str, Any]:
        if type(self.attack).__name__ not in _SAVED or not isinstance(self.attack.objective, str):
            raise ValueError(
                "Only FGSM, PGD and MomentumPGD with an objective given by its name can be saved. "
                "Save the classifier, `robust.model.save(…)`, or the weights alone. "
                f"Received: {self.attack!r}"
            )
        return {
            "model": keras.saving.serialize_keras_object(self.model),
            "attack": self.attack.to_config(),
            "warmup_steps": self.warmup_steps,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        attack = dict(config["attack"])
        kind = _SAVED.get(attack.pop("attack", None))
        known = {field.name for field in dataclasses.fields(kind)} if kind else set()
        if kind is None or not known.issuperset(attack):
            raise ValueError(
                f"`attack` must be the configuration of one of {tuple(_SAVED)}. "
                f"Received: {config['attack']!r}"
            )
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects)
        return cls(**{**config, "model": model, "attack": kind(**attack)})

    def _check_batch(self, x: Any) -> None:
        import tensorflow as tf

        if not (tf.is_tensor(x) and x.dtype.is_floating):
            raise ValueError(
                "Adversarial training needs batches of one tensor of floating-point images. "
                f"Received: {x!r}"
            )
        low, high = self._steps.bounds
        tf.debugging.Assert(
            tf.reduce_all((x >= tf.cast(low, x.dtype)) & (x <= tf.cast(high, x.dtype))),
            [f"Images must lie inside bounds={self._steps.bounds} of the attack, without NaN."],
        )

    def _find_keys(self, x: Any) -> Any:
        """Keys by the number of the step and the row in the global batch, whatever the replicas."""
        import tensorflow as tf

        n = tf.shape(x)[0]
        counts = tf.cast(replicas.gather_rows(tf.cast(n, "float32")[None])[:, 0], "int32")
        before = counts[: tf.distribute.get_replica_context().replica_id_in_sync_group]
        rows = tf.reduce_sum(before) + tf.range(n)
        step = 0 if self.optimizer is None else self.optimizer.iterations
        return _in_graph.keys_of_rows(self._steps.seed, step, rows)

    def _find_epsilon(self) -> Any:
        """ε of this step: in the k-th of K steps of warm-up k / K of the attack's."""
        if not self.warmup_steps or self.optimizer is None:
            return None
        step = ops.cast(self.optimizer.iterations, "float64") + 1
        return self._steps.epsilon * ops.minimum(step / self.warmup_steps, 1.0)

    def _measure_gap(self, x: Any, y: Any, keys: Any, due: Any) -> None:
        """Updates `single_step_gap` on the first batch of an epoch, and where it is due."""
        if self._steps.n_iter > 1:
            return
        import tensorflow as tf

        labels = find_labels(y)

        def find_robust(attack: PGD) -> Any:
            points = _in_graph.perturb(attack, self.model, x, labels, keys)
            return tf.cast(is_correct(logits_of(self.model, points), labels), "float32")

        def measure() -> Any:
            many = PGD(
                self._steps.epsilon,
                n_iter=_GAP_STEPS,
                norm=self._steps.norm,
                seed=self._steps.seed,
                bounds=self._steps.bounds,
            )
            return find_robust(self._steps) - find_robust(many), tf.ones_like(keys[:, 0], "float32")

        def skip() -> Any:
            zeros = tf.zeros_like(keys[:, 0], "float32")
            return zeros, zeros

        first = tf.equal(ops.convert_to_tensor(self._gap.count), 0)
        self._gap.update_state(*tf.cond(first | due, measure, skip))


class _InTrainingMode(keras.Model):
    """The classifier as it works in training, without the changes that training makes to it.

    Batch normalisation uses the statistics of the attacked batch and does not move its own;
    dropout draws the units that the training step after the attack will draw.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(name=f"{model.name}_in_training", dtype=model.dtype_policy)
        self.model = model
        self.build(getattr(model, "input_shape", None) or model.get_build_config()["input_shape"])

    def build(self, input_shape: Any) -> None:
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        with keras.StatelessScope():
            return self.model(inputs, training=True)


def find_labels(y: Any) -> Any:
    """Returns labels as an attack takes them: int32 `(n,)` or float32 `(n, classes)`."""
    y = ops.convert_to_tensor(y)
    if len(y.shape) == 2 and y.shape[-1] == 1:
        y = ops.squeeze(y, axis=-1)
    return ops.cast(y, "float32" if len(y.shape) == 2 else "int32")


def hard_labels(y: Any) -> Any:
    """Returns class numbers, int32 `(n,)`."""
    return objectives.hard_labels(find_labels(y))
