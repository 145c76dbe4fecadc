"""Attack any Keras classifier, and see how much of its robustness is a vanished gradient."""

import keras

from hr_keras import datasets, evaluation
from hr_keras.attacks import FGSM

(x_train, y_train), _, (x_test, y_test) = datasets.load("mnist10k")

# Your model here. This one is trained, and then made a thousand times more certain:
# the same predictions, so the same robustness.
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile("adam", loss="sparse_categorical_crossentropy")
model.fit(x_train, y_train, epochs=2, verbose=0)
last = model.layers[-1]
last.set_weights([1000 * weight for weight in last.get_weights()])

for through in ("probabilities", "logits"):
    result = evaluation.sweep(model, x_test, y_test, epsilons=(0.0, 0.05), through=through)
    print(f"attacked through {through}:")
    for (objective, epsilon), accuracy in result.accuracy.items():
        share = result.zero_gradient_share[objective]
        print(f"  {objective}, ε = {epsilon}: accuracy {accuracy:.3f}, zero gradients {share:.0%}")

adversarial = FGSM(epsilon=0.05)(model, x_test, y_test)
print("adversarial images:", adversarial.shape, adversarial.dtype)
