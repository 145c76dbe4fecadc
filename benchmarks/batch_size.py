"""How the HR loss and its gradient depend on the batch size: the table of docs/batch_size.md.

One model and one data set: the paper's CNN after three epochs of cross-entropy, on the 7,200
training digits. The Rényi term of a batch is a log-mean-exp, so its mean over batches lies
below the term of the data set (Jensen). The weights that the gradient gives to the examples
differ too; how much is their total variation distance to the weights of the whole data set.
"""

import keras
import numpy as np
import tensorflow as tf

from hr_keras import HRLoss, datasets, metrics
from hr_keras.models import logits_model, mnist_cnn

ALPHA = 1.6


def trained_logits():
    images, labels = datasets.load("mnist10k").train
    keras.utils.set_random_seed(0)
    model = mnist_cnn(seed=0)
    model.compile(keras.optimizers.SGD(0.01), loss="sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=100, epochs=3, verbose=0)
    order = np.random.default_rng(0).permutation(len(labels))
    return logits_model(model).predict(images, verbose=0)[order], labels[order]


def renyi_weights(loss, labels, logits):
    """What the Rényi term's gradient weighs each example's ∇CE with, from the loss itself."""
    logits = tf.constant(logits)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        value = loss(labels, logits)
        entropy = tf.reduce_mean(
            -tf.reduce_sum(tf.nn.softmax(logits) * tf.nn.log_softmax(logits), axis=-1)
        )
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    of_renyi = tape.gradient(value, logits) - tape.gradient(entropy, logits)
    of_cross_entropy = tape.gradient(cross_entropy, logits)
    own = np.arange(len(labels)), np.asarray(labels)
    return float(value - entropy), of_renyi.numpy()[own] / of_cross_entropy.numpy()[own]


def over_batches(loss, labels, logits, size):
    """Mean Rényi term over the batches, and the weights that it gives."""
    batches = [
        renyi_weights(loss, labels[k : k + size], logits[k : k + size])
        for k in range(0, len(labels), size)
    ]
    values, weights = zip(*batches, strict=True)
    return np.mean(values), np.concatenate(weights) / len(batches)


def main():
    logits, labels = trained_logits()
    whole = metrics.RenyiDivergence(ALPHA, from_logits=True)
    whole.update_state(labels, logits)
    _, right = renyi_weights(HRLoss(ALPHA, from_logits=True), labels, logits)
    print(
        f"RenyiDivergence({ALPHA}) over the {len(labels)} examples: {float(whole.result()):.4f}\n"
    )
    print("| batch size | mean R of the batches | weights off |")
    print("|---|---|---|")
    for size in (8, 32, 100, 400, 1800, 7200):
        value, weights = over_batches(HRLoss(ALPHA, from_logits=True), labels, logits, size)
        off = 0.5 * np.abs(weights - right).sum()
        print(f"| {size} | {value:.4f} | {off:.1%} |", flush=True)


if __name__ == "__main__":
    main()
