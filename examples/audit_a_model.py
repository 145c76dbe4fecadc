"""Ask whether the robustness of a classifier is real: accuracy under attacks, and findings."""

import keras

from hr_keras import datasets
from hr_keras.audit import audit, write_audit

(x_train, y_train), _, (x_test, y_test) = datasets.load("mnist10k")

# Your model here. In this one a hidden layer is rounded: a defence that gives no gradient.
model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(64, activation="sigmoid"),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile("adam", loss="sparse_categorical_crossentropy")
model.fit(x_train, y_train, epochs=3, verbose=0)
model.layers[1].activation = lambda x: keras.ops.round(keras.activations.sigmoid(x))

result = audit(model, x_test[:100], y_test[:100], epsilon=0.1, attacks=("fgsm", "pgd", "fast"))
for row in result.rows:
    print(f"{row.attack:10} ε = {row.epsilon:.2f}: accuracy {row.accuracy:.2f}")
for finding in result.findings:
    if finding.verdict in ("fault", "warning"):
        print(f"{finding.verdict}: {finding.name}: {finding.meaning}")

write_audit("audit", result)  # audit.md, audit.json and pictures
