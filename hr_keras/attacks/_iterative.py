"""`IterativeAttack`: batches that shrink as their examples are fooled."""

import abc
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from hr_keras._core.attack_view import join_inputs
from hr_keras._core.checks import check_count, check_epsilon
from hr_keras._core.compiled import even_size
from hr_keras._core.logits import logits_of
from hr_keras._core.passes import average_passes
from hr_keras.attacks import _perturbation, objectives
from hr_keras.attacks._attack import Attack
from hr_keras.attacks._input_gradient import InputGradient
from hr_keras.attacks._task import Outcome, State, Task, select, take


@dataclass(frozen=True)
class IterativeAttack(Attack):
    """Attacks a model in many steps: base class of all such attacks.

    ```
    state = start(state);  state = step(model, state), at most n_iter times, n_restarts attempts
    ```

    Returns the first image that fools the model, or if there is none the one of the highest
    objective. One forward pass finds the examples that are misclassified already: they are
    returned unchanged. At ε = 0 no pass is made.

    The result for an example depends on no other, but for the last bits of a convolution, which
    depend on the number of images in a batch.

    A subclass is a frozen dataclass with two methods for compiled TensorFlow code: `start`
    returns the first point and `step` makes one step. They read ε, labels and random keys from
    the `State`, not from the attack.

    Args:
        epsilon: Size of the perturbation, in the units of the images; at least 0.
        objective: What to maximise: `"ce"`, `"hr"`, `"margin"`, `"dlr"`, a Keras loss, or a
            callable `(labels, logits) -> (n,)`. Default `"ce"`.
        bounds: Lowest and highest pixel value, or those of each channel. Default `(0.0, 1.0)`.
        targeted: Whether labels are the classes to reach (not with `"dlr"`). Default `False`.
        batch_size: Examples in one compiled step. Default 256.
        jit_compile: Whether to compile with XLA, for each number of examples. Default `False`.
        name: Name in logs and tables. Default: like `"pgd_margin_0.1"`.
        n_iter: Steps in one attempt. Default 20.
        n_restarts: Attempts, each with other random numbers. Default 1.
        norm: What ε measures, `"linf"` (default) or `"l2"`.
        seed: Integer ≥ 0; gives an example its random numbers, whatever the batch. Default 0.
        through: `"logits"` (default, exact) or `"probabilities"` (as published).
        stop_early: Whether an example ends with the first image that fools the model, or makes
            all steps and returns the image of the highest objective. Default `True`.

    Raises:
        ValueError: If an argument is not as described.

    Example:
        ```python
        from dataclasses import dataclass

        from hr_keras.attacks import IterativeAttack


        @dataclass(frozen=True)
        class SignDescent(IterativeAttack):
            def start(self, state):
                return state

            def step(self, model, state):
                logits, score, gradient = self.differentiate(model, state)
                state = self.judge(state, logits, score)
                point = state.point + self.sizes(state) / 4 * keras.ops.sign(gradient)
                return state._replace(point=self.project(point, state))


        adversarial = SignDescent(0.1, n_iter=5)(model, images, labels)
        ```
    """

    epsilon: float
    objective: objectives.Identifier = "ce"
    _: KW_ONLY
    n_iter: int = 20
    n_restarts: int = 1
    norm: _perturbation.Norm = "linf"
    seed: int = 0
    through: objectives.Route = "logits"
    stop_early: bool = True
    evaluates_last_point: ClassVar[bool] = False  # with one more forward pass

    def __post_init__(self) -> None:
        self._normalise(
            epsilon=check_epsilon(self.epsilon),
            objective=self._check_objective(),
            n_iter=check_count("n_iter", self.n_iter),
            n_restarts=check_count("n_restarts", self.n_restarts),
            norm=_perturbation.get(self.norm).name,
            seed=check_count("seed", self.seed, lowest=0),
            through=objectives.check_route(self.through),
            stop_early=bool(self.stop_early),
        )
        super().__post_init__()

    def _check_objective(self) -> Any:
        return objectives.check_objective(self.objective, self.targeted)

    def default_name(self) -> str:
        norm = () if self.norm == "linf" else (self.norm,)
        kind = super().default_name()
        return "_".join((kind, self.found_objective().name, *norm, f"{self.epsilon:g}"))

    def found_objective(self) -> Any:
        """Returns the `Objective` that the field `objective` names."""
        return objectives.get(self.objective)

    @property
    def ball(self) -> _perturbation.Ball:
        """The ball that `norm` names."""
        return _perturbation.get(self.norm)

    @abc.abstractmethod
    def start(self, state: State) -> State:
        """Returns the state with the first `point`, and `memory` if a step needs some.

        Args:
            state: State of a new attempt, with the image as `point`.
        """

    @abc.abstractmethod
    def step(self, model: keras.Model, state: State) -> State:
        """Returns the state after one step: `point` was judged, see `judge`, and moved.

        Args:
            model: A Keras classifier.
            state: State before the step. The engine counts `steps`, and does not move the
                `point` of examples that have finished.
        """

    def sizes(self, state: State) -> Any:
        """Returns ε of each example, of a shape and dtype that multiplies images."""
        return _perturbation.per_example(state.epsilon, state.image)

    def draw_point(self, state: State, draw: Any, share: float = 1.0) -> Any:
        """Draws a point uniformly from the ball of size `share`·ε, clipped to the bounds."""
        size = share * self.sizes(state)
        point = state.image + size * self.ball.random(state.keys, draw, state.image)
        return self.project(point, state, share)

    def project(self, points: Any, state: State, share: float = 1.0) -> Any:
        """Projects points onto the ball of size `share`·ε around the images, and the bounds."""
        size = share * self.sizes(state)
        return _perturbation.project(self.ball, points, state.image, size, self.bounds)

    def predict(self, model: keras.Model, state: State) -> tuple[Any, Any]:
        """Computes logits and score at `point`, by a forward pass."""

        def passes(model: Any, point: Any, *labels: Any) -> Any:
            logits = logits_of(model, join_inputs(model, point, state.others))
            return logits, self._score(labels, logits)

        return average_passes(model, passes, state.point, *self._labels(state))

    def differentiate(self, model: keras.Model, state: State) -> tuple[Any, Any, Any]:
        """Computes logits, score and the gradient of the objective at `point`."""
        import tensorflow as tf

        def passes(model: Any, point: Any, *labels: Any) -> Any:
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch(point)
                logits = logits_of(model, join_inputs(model, point, state.others))
                value = self._value(self.found_objective().through, labels, logits)
            gradient = InputGradient(tape, point)(value)
            return logits, self._score(labels, logits), gradient

        return average_passes(model, passes, state.point, *self._labels(state))

    def judge(self, state: State, logits: Any, score: Any, active: Any = None) -> State:
        """Updates `best`, `score` and `fooled` by logits and score at `point`.

        `active`, bool `(n,)`, are the examples to judge; `None` means those of `running`.
        """
        active = self.running(state) if active is None else active
        if self.stop_early:
            fools = active & self.is_fooled(logits, state.label)
        else:
            fools = ops.zeros_like(active)
        better = fools | (active & (score > state.score))
        return state._replace(
            best=select(better, state.point, state.best),
            score=ops.where(better, score, state.score),
            fooled=state.fooled | fools,
        )

    def running(self, state: State) -> Any:
        """Finds which examples are neither fooled nor at the end of their steps, `(n,)`."""
        return ~state.fooled & (state.steps < self.n_iter)

    def perturb(self, task: Task) -> Outcome:
        standing = task.find_epsilons(self.epsilon) > 0
        if not standing.any():
            return Outcome(task.images, None)
        fooled = np.zeros(len(task.images), bool)
        if self.stop_early:
            task = task.predict()
            fooled = self.is_fooled(task.logits, task.labels)
        images = task.images.copy()
        rows = np.flatnonzero(standing & ~fooled)
        if len(rows):
            images[rows], fooled[rows] = self._attempt_all(task.select(rows))
        return Outcome(images, fooled if self.stop_early else None)

    def find_targets(self, task: Task) -> np.ndarray:
        """Returns the classes to attempt one after another, `(n, targets)`; 0 for none."""
        return np.zeros((len(task.images), 1), "int32")

    def _attempt_all(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best images of all attempts, and whether they fool the model."""
        targets = self.find_targets(task)
        images, fooled = task.images.copy(), np.zeros(len(task.images), bool)
        scores = np.full(len(images), -np.inf)
        for attempt in range(targets.shape[1] * self.n_restarts):
            rows = np.flatnonzero(~fooled)
            if len(rows) == 0:
                break
            size = even_size(len(rows), task.batch_size)
            for first in range(0, len(rows), size):
                batch = rows[first : first + size]
                state = self.start_state(task.select(batch), targets[batch], attempt)
                for slots, found, score, fools in self._run_batch(task.model, state):
                    better = fools | (score > scores[batch[slots]])
                    chosen = batch[slots[better]]
                    images[chosen], scores[chosen] = found[better], score[better]
                    fooled[chosen] = fools[better]
        return images, fooled

    def start_state(self, task: Task, targets: np.ndarray, attempt: int) -> State:
        """Returns the state before the first step of an attempt."""
        target, restart = divmod(attempt, self.n_restarts)
        attempts = np.full(len(task.images), attempt)
        new = (
            task.images,
            task.labels,
            targets[:, target],
            np.full(len(task.images), restart, "int32"),
            _perturbation.random_keys(self.seed, task.indices, attempts),
            task.find_epsilons(self.epsilon),
        )
        return self.run_part("start", task.model, *new)._replace(others=task.others)

    def _run_batch(self, model: keras.Model, state: State) -> Iterator[tuple[np.ndarray, ...]]:
        """Runs an attempt; yields positions, images, scores, fooled of what has finished."""
        slots = np.arange(len(state.steps))
        while len(slots):
            # A pause to shrink the batch costs a few milliseconds, an idle slot its share.
            keep = np.int32((3 * len(slots)) // 4)
            state = self.run_part("advance", model, state, keep)
            running = self.running(state).numpy()
            finished, state = take(state, ~running), take(state, running)
            if self.evaluates_last_point and not finished.fooled.numpy().all():
                finished = self.run_part("conclude", model, finished)
            parts = (finished.best, finished.score, finished.fooled)
            yield slots[~running], *(part.numpy() for part in parts)
            slots = slots[running]

    def run_part(self, part: str, model: keras.Model, *arguments: Any) -> Any:
        """Runs a compiled function of the attack, traced once for any number of examples."""
        import tensorflow as tf

        arguments = tf.nest.map_structure(tf.convert_to_tensor, arguments)
        specs = tf.nest.map_structure(
            lambda x: tf.TensorSpec((None, *x.shape[1:]) if x.shape.rank else (), x.dtype),
            arguments,
        )
        return self.compiled(model, part).get_concrete_function(*specs)(*arguments)

    def _labels(self, state: State) -> tuple[Any, ...]:
        return (state.label,)

    def _value(self, function: Any, labels: Any, logits: Any) -> Any:
        value = function(self.through, *labels, logits)
        return -value if self.targeted else value

    def _score(self, labels: Any, logits: Any) -> Any:
        return ops.cast(self._value(self.found_objective().score, labels, logits), "float64")

    def _build_start(self, _: Any) -> Any:
        def start(image: Any, label: Any, target: Any, restart: Any, keys: Any, sizes: Any) -> Any:
            none = ops.zeros_like(target)
            score = ops.cast(none, "float64") - np.inf
            new = (image, label, target, restart, keys, sizes)
            return self.start(State(*new, image, image, score, none, none > 0))

        return start

    def _build_advance(self, model_ref: Any) -> Any:
        import tensorflow as tf

        def advance(state: State, keep: Any) -> State:
            def more(state: State) -> Any:
                return tf.math.count_nonzero(self.running(state), dtype=tf.int32) > keep

            def step(state: State) -> tuple[State]:
                running = self.running(state)
                after = self.step(model_ref(), state)
                # An example that has finished waits for the others at its last point.
                point = select(running, after.point, state.point)
                steps = state.steps + tf.cast(running, tf.int32)
                return (after._replace(point=point, steps=steps),)

            return tf.while_loop(more, step, (state,))[0]

        return advance

    def _build_conclude(self, model_ref: Any) -> Any:
        return lambda state: self.judge(state, *self.predict(model_ref(), state), ~state.fooled)
