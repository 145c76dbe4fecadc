"""The strength of `standard` and of its four attacks, against the published code of AutoAttack.

Quite different classifiers of digits are attacked at a radius near the median distance to their
decision boundary, by the attacks here and by those that torchattacks ships (APGD, APGDT, FAB,
Square, with the numbers of steps of the paper: its own AutoAttack makes 10), from the same images,
all classified correctly. Compared is the accuracy left, and image by image who stands whom.
`standard` is all four attacks: an image stands where it withstands each of them.
"""

import time

import keras
import numpy as np
import torch
import torchattacks
from in_torch import InTorch
from interleaved import arguments, limit, save
from keras import layers

from hr_keras import HRLoss, datasets, evaluation
from hr_keras.attacks import FAB, PGD, perturbation, standard
from hr_keras.models import resnet8

ATTACKS = ("APGD-CE", "APGD-T", "FAB-T", "Square")
CE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def cnn():
    inputs = keras.Input((28, 28, 1))
    x = layers.Conv2D(16, 4, 2, padding="same", activation="relu")(inputs)
    x = layers.Conv2D(32, 4, 2, padding="same", activation="relu")(x)
    x = layers.Dense(64, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def mlp():
    inputs = keras.Input((28, 28, 1))
    x = layers.Flatten()(inputs)
    for _ in range(2):
        x = layers.Dense(128, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def small_resnet():
    model = resnet8((16, 16, 3), classifier_activation=None, seed=0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # its statistics would not settle in so few steps
    return model


def in_colour(images):
    """Digits at half the size, padded, in three channels."""
    halved = images.reshape(-1, 14, 2, 14, 2, 1).mean(axis=(2, 4))
    return np.repeat(np.pad(halved, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, axis=-1)


def fit(model, images, labels, loss=CE, epochs=3):
    model.compile(keras.optimizers.Adam(2e-3), loss)
    model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)


def fit_adversarially(model, images, labels, epsilon=0.1, epochs=4):
    """After an epoch without, each batch is attacked by PGD before the model learns it."""
    fit(model, images, labels, epochs=1)
    attack = PGD(epsilon, n_iter=7, stop_early=False)
    for start in np.tile(np.arange(0, len(images) - 99, 100), epochs):
        batch = slice(start, start + 100)
        model.train_on_batch(attack(model, images[batch], labels[batch]), labels[batch])


# what to build, how to train it
SUBJECTS = {
    "CNN, CE": (cnn, fit),
    "CNN, HR": (cnn, lambda *data: fit(*data, loss=HRLoss(1.6, from_logits=True))),
    "CNN, adversarial": (cnn, fit_adversarially),
    "MLP": (mlp, fit),
    "ResNet-8, colour": (small_resnet, lambda *data: fit(*data, epochs=6)),
}


def subject(name, n, seed=0):
    """A trained classifier, and n test images that it gets right, with their labels."""
    data = datasets.load("mnist10k")
    build, train = SUBJECTS[name]
    prepare = in_colour if name.endswith("colour") else np.asarray
    keras.utils.set_random_seed(seed)
    model = build()
    train(model, prepare(data.train.images[:4000]), data.train.labels[:4000])
    images, labels = prepare(data.test.images[: 2 * n]), data.test.labels[: 2 * n]
    right = np.flatnonzero(model.predict(images, verbose=0).argmax(axis=-1) == labels)[:n]
    return model, images[right], labels[right]


def median_distance(model, images, labels, norm):
    """Of 40 images to the decision boundary, as FAB finds it; two digits."""
    images, labels = images[:40], labels[:40]
    nearest = FAB(0.0, n_iter=20, n_targets=3, norm=norm).closest(model, images, labels)
    return float(f"{np.median(perturbation.get(norm).norm(nearest - images)):.2g}")


def published(net, norm, epsilon, seed):
    """The published attacks, as AutoAttack runs them."""
    shared = {"norm": {"linf": "Linf", "l2": "L2"}[norm], "eps": epsilon, "seed": seed}
    return (
        torchattacks.APGD(net, steps=100, loss="ce", **shared),
        torchattacks.APGDT(net, steps=100, n_classes=10, **shared),
        torchattacks.FAB(net, steps=100, multi_targeted=True, n_classes=10, **shared),
        torchattacks.Square(net, n_queries=5000, **shared),
    )


def left_by_published(attack, net, images, labels):
    """bool `(n,)`: who withstands it."""
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    y = torch.from_numpy(labels.astype("int64"))
    adversarial = attack(x, y)
    with torch.no_grad():
        return (net(adversarial).argmax(dim=-1) == y).numpy()


def left_by_ours(attack, model, images, labels):
    """bool `(n,)`: who withstands it."""
    return evaluation.robust_accuracy(model, images, labels, attack).robust


def compare(name, norm, epsilon, seed, model, images, labels):
    """A row for each attack, and for all of them."""
    net = InTorch(model).eval()
    pairs = zip(
        standard(epsilon, norm, seed).attacks, published(net, norm, epsilon, seed), strict=True
    )
    title = f"{name}, {norm} {epsilon:g}, {len(images)} images"
    everywhere, rows = np.ones((2, len(images)), bool), []
    for attack, (ours, theirs) in zip(ATTACKS, pairs, strict=True):
        started = time.perf_counter()
        left = [left_by_ours(ours, model, images, labels)]
        between = time.perf_counter()
        left.append(left_by_published(theirs, net, images, labels))
        seconds = between - started, time.perf_counter() - between
        everywhere &= left
        rows.append(row(title, attack, seed, left, seconds))
    total = [sum(r[key] for r in rows) for key in ("seconds", "published seconds")]
    return [*rows, row(title, "standard", seed, everywhere, total)]


def row(title, attack, seed, left, seconds):
    """Printed and returned: accuracies left, and how many images stand against one side only."""
    ours, theirs = left
    found = {
        "title": title,
        "attack": attack,
        "seed": seed,
        "ours": float(ours.mean()),
        "published": float(theirs.mean()),
        "fooled by published only": int((ours & ~theirs).sum()),
        "fooled by ours only": int((theirs & ~ours).sum()),
        "seconds": seconds[0],
        "published seconds": seconds[1],
    }
    print(*(f"{v:.3f}" if isinstance(v, float) else v for v in found.values()), flush=True)
    return found


def main():
    parser = arguments(__doc__, repeats=1)  # repeats: seeds
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--resnet", type=int, default=40, help="images for the slow ResNet-8")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--norms", nargs="+", choices=("linf", "l2"), default=("linf", "l2"))
    given = parser.parse_args()
    torch.set_num_threads(1)  # beside TensorFlow's, two were ten times slower
    rows, limits = [], []
    for name in given.subjects:
        n = given.resnet if name.startswith("ResNet") else given.images
        model, images, labels = subject(name, n)
        for norm in given.norms:
            epsilon = median_distance(model, images, labels, norm)
            found = [
                compare(name, norm, epsilon, seed, model, images, labels)
                for seed in range(given.repeats)
            ]
            more = [seeds[-1]["ours"] - seeds[-1]["published"] for seeds in found]
            limits.append(limit(found[0][0]["title"], "standard: ours − published", more, 0.005))
            rows += [row for seeds in found for row in seeds]
            save(limits + rows, given.output, given.clock)


if __name__ == "__main__":
    main()
