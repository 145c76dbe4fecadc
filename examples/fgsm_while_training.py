"""Watch robustness while a model trains, and keep the weights that were the most robust."""

import keras

from hr_keras import HRLoss, datasets
from hr_keras.callbacks import FGSMCallback
from hr_keras.models import mnist_cnn

(x_train, y_train), validation, _ = datasets.load("mnist10k")

model = mnist_cnn(seed=0)
model.compile(keras.optimizers.SGD(0.01), loss=HRLoss(alpha=1.6), metrics=["accuracy"])
history = model.fit(
    x_train,
    y_train,
    batch_size=100,
    epochs=4,
    verbose=0,
    callbacks=[
        # before the callbacks that read its keys, for which every epoch has a number
        FGSMCallback(
            validation, epsilons=(0.1, 0.25), objectives=("ce", "hr"), every=2, between="last"
        ),
        keras.callbacks.ModelCheckpoint(
            "most_robust.keras",
            monitor="val_fgsm_ce_0.1_accuracy",
            mode="max",
            save_best_only=True,
        ),
    ],
)
for name, values in history.history.items():
    print(name, [round(value, 3) for value in values])
