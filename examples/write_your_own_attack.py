"""Write an attack of your own: the engine takes care of batches, bounds, restarts and compiling."""

from dataclasses import dataclass

import keras

from hr_keras import datasets, evaluation
from hr_keras.attacks import PGD, IterativeAttack
from hr_keras.models import mnist_cnn


@dataclass(frozen=True)
class SignDescent(IterativeAttack):
    """Steps of ε/4 along the sign of the gradient, from the image itself."""

    def start(self, state):
        return state

    def step(self, model, state):
        logits, score, gradient = self.differentiate(model, state)
        state = self.judge(state, logits, score)
        point = state.point + self.sizes(state) / 4 * keras.ops.sign(gradient)
        return state._replace(point=self.project(point, state))


(x_train, y_train), _, (x_test, y_test) = datasets.load("mnist10k")
model = mnist_cnn(seed=0)
model.compile("adam", loss="sparse_categorical_crossentropy")
model.fit(x_train, y_train, batch_size=100, epochs=2, verbose=0)

attacks = [SignDescent(0.1, n_iter=10), PGD(0.1, n_iter=10)]
result = evaluation.robust_accuracy(model, x_test[:500], y_test[:500], attacks)
print(f"clean {result.clean:.3f}")
for name, accuracy in result.per_attack.items():
    print(f"{name} {accuracy:.3f}")
