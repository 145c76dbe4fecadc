"""Train a classifier that withstands attacks: HR on adversarial examples of every batch."""

import keras

from hr_keras import HRLoss, attacks, datasets, evaluation, training
from hr_keras.callbacks import FGSMCallback
from hr_keras.models import mnist_cnn

(x_train, y_train), validation, (x_test, y_test) = datasets.load("mnist10k")
x_train, y_train = x_train[:3000], y_train[:3000]  # fewer images: a quick example
EPSILON = 0.1


def train(model, wrap=lambda model: model):
    trained = wrap(model)
    trained.compile(keras.optimizers.Adam(), loss=HRLoss(alpha=1.6), metrics=["accuracy"])
    history = trained.fit(
        x_train,
        y_train,
        batch_size=50,
        epochs=3,
        verbose=0,
        callbacks=[
            FGSMCallback(validation, epsilons=(EPSILON,), every=1),
            keras.callbacks.EarlyStopping(
                f"val_fgsm_ce_{EPSILON}_accuracy", mode="max", patience=2
            ),
        ],
    )
    for name, values in history.history.items():
        print(f"  {name}: {[round(value, 3) for value in values]}")
    return model


print("ordinary training")
ordinary = train(mnist_cnn(seed=0))
print("adversarial training")
robust = train(
    mnist_cnn(seed=0),
    lambda model: training.AdversarialTraining(model, attacks.PGD(EPSILON, n_iter=5)),
)
for name, model in (("ordinary", ordinary), ("adversarial", robust)):
    attack = attacks.PGD(EPSILON, "margin", n_iter=40)
    result = evaluation.robust_accuracy(model, x_test[:300], y_test[:300], [attack])
    print(f"{name}: clean {result.clean:.3f}, under PGD with 40 steps {result.worst_case:.3f}")

robust.save("robust.keras")  # an ordinary Keras model
