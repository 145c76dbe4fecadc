"""What attacks of many steps share: examples take turns in the slots of one compiled batch.

An example that is fooled, or has made all its steps, leaves its slot to the next one in the
queue, and when the queue is empty the batch shrinks: model passes are spent on examples still
standing only. All state is per example, so that batch-mates never matter, and the memory is
that of one batch.
"""

import abc
import collections

import numpy as np
from keras import ops

from hr_keras._core.logits import logits_of
from hr_keras.attacks import _perturbation, objectives
from hr_keras.attacks._attack import (
    Attack,
    Outcome,
    check_count,
    check_epsilon,
    check_objective,
    check_route,
    compiled,
)
from hr_keras.attacks._input_gradient import InputGradient
from hr_keras.attacks._slots import Slots

# What compiled code does not depend on: arguments of it, or of the queue.
_NOT_COMPILED = {"name", "epsilon", "seed", "n_restarts", "batch_size", "jit_compile"}


class IterativeAttack(Attack):
    """Base of the attacks of many steps.

    An attack is `n_restarts` attempts of at most `n_iter` steps at each example. It ends
    with the first image that fools the model, which is returned; where none does, the image
    of the highest objective is. Before it one forward pass finds the examples that are
    fooled already: they are returned as they are. At ε = 0 no pass is made.

    What becomes of an example depends on no other. The last bits of a convolution depend on how
    many images are in a batch, though, so that with another `batch_size` an example at the edge
    of being fooled may fall on the other side.

    Args:
        epsilon: size of the perturbation, in the units of the images; at least 0.
        objective: what to maximise: `"ce"`, `"hr"`, `"margin"`, `"dlr"`, a Keras loss, or a
            callable `(labels, logits) -> (n,)`.
        norm: what ε measures: `"linf"` or `"l2"`.
        n_iter: steps in one attempt.
        n_restarts: attempts, each with random numbers of its own.
        seed: integer ≥ 0. The same seed gives an example the same random numbers whatever
            the batch.
        through: `"logits"` (exact) or `"probabilities"` (as published, through the clipped
            float32 softmax).
        bounds: `(lowest, highest)` pixel value.
        targeted: whether labels are the classes to be reached (not with `"dlr"`).
        batch_size: examples in one compiled step.
        jit_compile: compile the steps with XLA, once for each number of examples left.
        name: what it is called in logs and tables; by default as `pgd_margin_0.1`.
    """

    kind: str  # first part of the name
    concludes = False  # whether the point after the last step is still to be looked at
    stop_early = True

    def __init__(
        self,
        epsilon,
        objective="ce",
        norm="linf",
        n_iter=20,
        n_restarts=1,
        seed=0,
        through="logits",
        bounds=(0.0, 1.0),
        targeted=False,
        batch_size=256,
        jit_compile=False,
        name=None,
    ):
        self.epsilon = check_epsilon(epsilon)
        self.objective = check_objective(objective, targeted)
        self.ball = _perturbation.get(norm)
        self.n_iter = check_count("n_iter", n_iter)
        self.n_restarts = check_count("n_restarts", n_restarts)
        self.seed = check_count("seed", seed, lowest=0)
        self.through = check_route(through)
        super().__init__(name or self._default_name(), bounds, targeted, batch_size, jit_compile)

    def _default_name(self):
        norm = () if self.ball.name == "linf" else (self.ball.name,)
        return "_".join((self.kind, self.objective.name, *norm, f"{self.epsilon:g}"))

    @abc.abstractmethod
    def _start(self, state, epsilon):
        """State of the attack before the first step, a dict of tensors with examples first.

        Args:
            state: `image`, `label`, `target` (class number or 0), `restart`, `keys` of
                random numbers.
            epsilon: scalar of the dtype of the images.

        Returns:
            A dict: `point`, the image to look at first, and what else a step needs.
        """

    @abc.abstractmethod
    def _step(self, model, state, epsilon):
        """What one step changes, a dict: a look at `point` (see `_judged`), and the next point.

        Args:
            model: a Keras classifier.
            state: as after `_start`, and `steps` made, `fooled`, and the image `best` of
                the highest `score` up to now.
            epsilon: scalar of the dtype of the images.
        """

    def _targets(self, task):
        """Classes `(n, targets)` to attempt one after the other; 0 where there is no such thing."""
        return np.zeros((len(task.images), 1), "int32")

    def _perturb(self, task):
        if self.epsilon == 0:
            return Outcome(task.images, None)
        fooled = np.zeros(len(task.images), bool)
        if self.stop_early:
            task = task.predict()
            fooled = self.is_fooled(task.logits, task.labels)
        images = task.images.copy()
        rows = np.flatnonzero(~fooled)
        if len(rows):
            images[rows], fooled[rows] = self._run(task.select(rows))
        return Outcome(images, fooled if self.stop_early else None)

    def _run(self, task):
        """Best images and whether they fool, of the examples of a task, all still standing."""
        targets = self._targets(task)
        n_attempts = targets.shape[1] * self.n_restarts
        images, fooled = task.images.copy(), np.zeros(len(task.images), bool)
        scores = np.full(len(images), -np.inf)
        queue = collections.deque((row, 0) for row in range(len(images)))
        slots = Slots(self, task, targets)
        while queue or slots.turns:
            slots.fill(queue)
            for (row, attempt), image, score, fools in slots.advance(bool(queue)):
                if fools or score > scores[row]:
                    images[row], scores[row], fooled[row] = image, score, fools
                if not fools and attempt + 1 < n_attempts:
                    queue.append((row, attempt + 1))
        return images, fooled

    def _glance(self, model, state):
        """Logits and score at `point`: a forward pass."""

        def passes(point, *labels):
            logits = logits_of(model, point)
            return logits, self._score(labels, logits)

        return _apart(passes)(state["point"], *self._labels(state))

    def _look(self, model, state):
        """Logits, score and gradient of the objective at `point`: forward and backward."""
        import tensorflow as tf

        def passes(point, *labels):
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch(point)
                logits = logits_of(model, point)
                value = self._value(self.objective.through, labels, logits)
            gradient = InputGradient(tape, point)(value)
            return logits, self._score(labels, logits), gradient

        return _apart(passes)(state["point"], *self._labels(state))

    def _labels(self, state):
        if isinstance(self.objective, objectives.TargetedObjective):
            return state["label"], state["target"]
        return (state["label"],)

    def _value(self, function, labels, logits):
        value = function(self.through, *labels, logits)
        return -value if self.targeted else value

    def _score(self, labels, logits):
        return ops.cast(self._value(self.objective.score, labels, logits), "float64")

    def _judged(self, state, logits, score, active):
        """`best`, `score` and `fooled` after a look at `point`, where `active`."""
        if self.stop_early:
            fools = active & self.is_fooled(logits, state["label"])
        else:
            fools = ops.zeros_like(active)
        better = fools | (active & (score > state["score"]))
        return {
            "best": select(better, state["point"], state["best"]),
            "score": ops.where(better, score, state["score"]),
            "fooled": state["fooled"] | fools,
        }

    def running(self, state):
        """bool `(n,)`: which examples are neither fooled nor at the end of their steps."""
        return ~state["fooled"] & (state["steps"] < self.n_iter)

    def compiled(self, model, part):
        """A part of the attack, such as `"start"`, as a `tf.function` made once for a model."""
        hyperparameters = {k: v for k, v in vars(self).items() if k not in _NOT_COMPILED}
        key = (type(self), part, *sorted(hyperparameters.items(), key=lambda item: item[0]))
        return compiled(model, key, getattr(self, f"_build_{part}"), self.jit_compile)

    def _build_start(self, _):
        def start(state, epsilon):
            image = state["image"]
            none = ops.zeros_like(state["target"])
            state = {
                **state,
                "best": image,
                "score": ops.cast(none, "float64") - np.inf,
                "steps": none,
                "fooled": none > 0,
            }
            return {**state, **self._start(state, ops.cast(epsilon, image.dtype))}

        return start

    def _build_advance(self, model):
        import tensorflow as tf

        def advance(state, epsilon, keep):
            epsilon = tf.cast(epsilon, state["image"].dtype)

            def more(state):
                return tf.math.count_nonzero(self.running(state), dtype=tf.int32) > keep

            def step(state):
                running = self.running(state)
                changes = self._step(model(), state, epsilon)
                # A slot that has finished waits for the others at its last point.
                changes["point"] = select(running, changes["point"], state["point"])
                steps = state["steps"] + tf.cast(running, tf.int32)
                return ({**state, **changes, "steps": steps},)

            return tf.while_loop(more, step, (state,))[0]

        return advance

    def _build_conclude(self, model):
        def conclude(state):
            logits, score = self._glance(model(), state)
            return {**state, **self._judged(state, logits, score, ~state["fooled"])}

        return conclude


def _apart(function):
    """The function as one of its own in compiled code.

    TensorFlow optimises it by itself: the same model passes written into the body of a loop
    took 1.6 times as long.
    """
    import tensorflow as tf

    return tf.function(function, autograph=False, experimental_attributes={"_noinline": True})


def select(chosen, first, second):
    """`first` where `chosen` `(n,)`, else `second`, both `(n, ...)`."""
    return ops.where(ops.reshape(chosen, (-1,) + (1,) * (len(first.shape) - 1)), first, second)


def likeliest_others(task, count):
    """The classes of the highest logits but the label's, `(n, count)`, at most classes − 1."""
    logits = np.array(task.logits)
    labels = task.labels if task.labels.ndim == 1 else task.labels.argmax(axis=-1)
    logits[np.arange(len(logits)), labels] = -np.inf
    order = np.argsort(-logits, axis=-1, kind="stable")
    return order[:, : min(count, logits.shape[1] - 1)].astype("int32")
