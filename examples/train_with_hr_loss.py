"""Train the paper's network with the HR loss instead of cross-entropy: one line changes."""

import keras

from hr_keras import HRLoss, datasets
from hr_keras.models import mnist_cnn

(x_train, y_train), (x_val, y_val), (x_test, y_test) = datasets.load("mnist10k")

for loss in ("sparse_categorical_crossentropy", HRLoss(alpha=1.6)):
    model = mnist_cnn(seed=0)
    model.compile(keras.optimizers.SGD(0.01), loss=loss, metrics=["accuracy"])
    keras.utils.set_random_seed(0)
    model.fit(x_train, y_train, batch_size=100, epochs=4, validation_data=(x_val, y_val), verbose=0)
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"{getattr(loss, 'name', loss)}: test accuracy {accuracy:.3f}")
