"""PGD-20 and PGD-40 by this package and by other libraries: seconds, and the accuracy left.

All attack the same images with the same ε, size of steps and random start, each in a process of its
own with as many threads as the others. This package ends an example that is fooled; "all steps" is
the row in which it does not, as the others. To hold: that leaves at most 0.01 more than the library
that leaves least.
"""

import pathlib
import tempfile

import keras
import numpy as np
import sides
from interleaved import arguments, limit, report, save
from subjects import load_subject, save_subject, subject

from hr_keras.attacks import PGD

EPSILON, BATCH, AT_MOST = 0.1, 250, 0.01
RELATIVE_STEP = 2.5  # over the number of steps: their size as a share of ε


def make(folder, name, steps):
    """A contestant: attacks in batches, and returns the accuracy that is left."""
    model, images, labels = load_subject(folder)
    run = LIBRARIES[name](model, steps, RELATIVE_STEP / steps * EPSILON)

    def left():
        parts = [slice(first, first + BATCH) for first in range(0, len(images), BATCH)]
        adversarial = np.concatenate([run(images[part], labels[part]) for part in parts])
        if np.abs(adversarial - images).max() > EPSILON + 1e-5:
            raise ValueError(f"{name} leaves the ball of ε = {EPSILON}.")
        logits = model.predict(adversarial, batch_size=BATCH, verbose=0)
        return float((logits.argmax(axis=-1) == labels).mean())

    return left


def by_ours(model, steps, size, stop_early=True):
    attack = PGD(EPSILON, n_iter=steps, batch_size=BATCH, stop_early=stop_early)
    return lambda x, y: attack(model, x, y)


def by_ours_all_steps(model, steps, size):
    return by_ours(model, steps, size, stop_early=False)


def by_foolbox(model, steps, size):
    import foolbox
    import tensorflow as tf

    wrapped = foolbox.TensorFlowModel(model, bounds=(0, 1))
    pgd = foolbox.attacks.LinfPGD(abs_stepsize=size, steps=steps, random_start=True)
    return lambda x, y: pgd.run(wrapped, tf.constant(x), tf.constant(y), epsilon=EPSILON).numpy()


def by_cleverhans(model, steps, size):
    import tensorflow as tf
    from cleverhans.tf2.attacks.projected_gradient_descent import projected_gradient_descent

    def run(x, y):
        return projected_gradient_descent(
            model, tf.constant(x), EPSILON, size, steps, np.inf, clip_min=0.0, clip_max=1.0,
            y=tf.constant(y), rand_init=True, sanity_checks=False,
        ).numpy()  # fmt: skip

    return run


def by_art(model, steps, size):
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")
    classifier = TensorFlowV2Classifier(
        model, 10, model.input_shape[1:], loss_object=loss, clip_values=(0.0, 1.0)
    )
    pgd = ProjectedGradientDescent(
        classifier, eps=EPSILON, eps_step=size, max_iter=steps, num_random_init=1,
        batch_size=BATCH, verbose=False,
    )  # fmt: skip
    return pgd.generate


def by_torchattacks(model, steps, size):
    import torch
    import torchattacks
    from in_torch import InTorch

    net = InTorch(model).eval().to(memory_format=torch.channels_last)
    pgd = torchattacks.PGD(net, eps=EPSILON, alpha=size, steps=steps, random_start=True)

    def run(x, y):
        images = torch.from_numpy(x.transpose(0, 3, 1, 2))
        found = pgd(images, torch.from_numpy(y.astype("int64")))
        return found.numpy().transpose(0, 2, 3, 1)

    return run


ALL_STEPS = "hr_keras, all steps"
LIBRARIES = {
    "hr_keras": by_ours,
    ALL_STEPS: by_ours_all_steps,
    "Foolbox": by_foolbox,
    "CleverHans": by_cleverhans,
    "ART": by_art,
    "torchattacks": by_torchattacks,
}


def measure(folder, steps, n, given):
    """Rows: seconds, accuracies left, and who does not run."""
    title = f"PGD-{steps}, CNN, {n} images, ε = {EPSILON}"
    running, rows = {}, []
    for name in LIBRARIES:
        started, failed = sides.start_all({name: make}, folder, name, steps, threads=given.threads)
        running, rows = running | started, rows + failed
    seconds, left = sides.compare(running, given.repeats, given.clock)
    rows += report(title, seconds)
    for name, value in left.items():
        rows.append({"title": f"{title}: accuracy left", "name": name, "accuracy": value})
        print(f"{name} leaves {value:.4f}")
    others = [value for name, value in left.items() if not name.startswith("hr_keras")]
    if others:
        what = f"accuracy: {ALL_STEPS} − the lowest of the others"
        rows.append(limit(title, what, left[ALL_STEPS] - min(others), at_most=AT_MOST))
    for side in running.values():
        side.close()
    return rows


def main():
    parser = arguments(__doc__, repeats=3)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--steps", type=int, nargs="+", default=(20, 40))
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        save_subject(folder, *subject("CNN", given.images))
        for steps in given.steps:
            rows += measure(folder, steps, given.images, given)
            save(rows, given.output, given.clock, given.threads)


if __name__ == "__main__":
    main()
