"""The queue's side of attacks of many steps: examples take turns in the slots of one batch."""

import numpy as np

from hr_keras.attacks import _random_numbers
from hr_keras.attacks._attack import even_size


class Slots:
    """The batch: state of the examples whose turn it is, tensors with a slot on axis 0."""

    def __init__(self, attack, task, targets):
        self.attack, self.task, self.targets = attack, task, targets
        self.epsilon = np.float64(attack.epsilon)  # TensorFlow takes a float for float32
        self.size = even_size(len(task.images), task.batch_size)
        self.turns = []  # (row, attempt) of each slot
        self.state = None

    def fill(self, queue):
        """Put the next turns of the queue into the free slots."""
        turns = [queue.popleft() for _ in range(min(len(queue), self.size - len(self.turns)))]
        if turns:
            state = self.call("start", self._new(turns), self.epsilon)
            self.state = state if not self.turns else _joined(self.state, state)
            self.turns += turns

    def advance(self, queued):
        """Steps, until slots are free or the batch can shrink; yields what has finished.

        Yields:
            `(turn, image, score, fooled)`.
        """
        n = len(self.turns)
        # Every look at the queue costs a few milliseconds, every idle slot its share of a pass.
        keep = n - 1 - n // 8 if queued else (3 * n) // 4
        self.state = self.call("advance", self.state, self.epsilon, np.int32(keep))
        running = self.attack.running(self.state).numpy()
        finished = self._taken(~running)
        turns = [turn for turn, still in zip(self.turns, running, strict=True) if not still]
        self.state = self._taken(running)
        self.turns = [turn for turn, still in zip(self.turns, running, strict=True) if still]
        if self.attack.concludes and not finished["fooled"].numpy().all():
            finished = self.call("conclude", finished)
        parts = (finished[key].numpy() for key in ("best", "score", "fooled"))
        return zip(turns, *parts, strict=True)

    def _new(self, turns):
        rows, attempts = np.array(turns).T
        attack, task = self.attack, self.task
        return {
            "image": task.images[rows],
            "label": task.labels[rows],
            "target": self.targets[rows, attempts // attack.n_restarts],
            "restart": (attempts % attack.n_restarts).astype("int32"),
            "keys": _random_numbers.keys(attack.seed, task.indices[rows], attempts),
        }

    def call(self, part, state, *arguments):
        """One of the attack's compiled functions, traced once for any number of slots."""
        import tensorflow as tf

        state = {key: tf.convert_to_tensor(value) for key, value in state.items()}
        arguments = [tf.convert_to_tensor(argument) for argument in arguments]
        function = self.attack.compiled(self.task.model, part).get_concrete_function(
            {key: tf.TensorSpec((None, *v.shape[1:]), v.dtype) for key, v in state.items()},
            *(tf.TensorSpec(argument.shape, argument.dtype) for argument in arguments),
        )
        return function(state, *arguments)

    def _taken(self, slots):
        import tensorflow as tf

        (rows,) = np.nonzero(slots)
        return {key: tf.gather(value, rows) for key, value in self.state.items()}


def _joined(first, second):
    import tensorflow as tf

    return {key: tf.concat([first[key], second[key]], axis=0) for key in first}
