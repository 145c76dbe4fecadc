"""FGSM by other libraries, each called as its documentation shows, and by a bare TensorFlow loop.

A library is a class with `fgsm(images, labels, epsilon, objective)` → adversarial images and
`predict(images)` → class numbers, both on one batch in NumPy. `start_all` says which of them
do not import or run here, and why.
"""

import importlib.metadata

import keras
import numpy as np
import tensorflow as tf


def cross_entropy(labels, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def hr(labels, logits):
    """Conditional entropy + cross-entropy, by automatic differentiation."""
    log_q = tf.nn.log_softmax(logits)
    return cross_entropy(labels, logits) - tf.reduce_sum(tf.exp(log_q) * log_q, axis=-1)


OBJECTIVES = {"ce": cross_entropy, "hr": hr}


class Library:
    """`package` has the version, `note` says how it is used.

    `clean_once`: whether a loop over attacks predicts the clean images once, as a careful user
    would, or beside every attack.
    """

    clean_once = True
    ce_alone = False  # knows no other objective, and attacks with it instead


class Bare(Library):
    """What TensorFlow can do: one compiled function, with nothing around it."""

    package = "tensorflow"
    note = "hand-written `tf.function`"

    def __init__(self, model):
        def gradient_sign(images, labels, epsilon, objective):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(images)
                value = OBJECTIVES[objective](labels, model(images, training=False))
            sign = tf.sign(tape.gradient(value, images))
            return tf.clip_by_value(images + epsilon * sign, 0.0, 1.0)

        self._attack = tf.function(gradient_sign)
        self._predict = tf.function(lambda images: tf.argmax(model(images, training=False), -1))

    def fgsm(self, images, labels, epsilon, objective="ce"):
        images, labels = tf.constant(images), tf.constant(labels)
        return self._attack(images, labels, tf.constant(epsilon, tf.float32), objective).numpy()

    def predict(self, images):
        return self._predict(tf.constant(images)).numpy()


class SharedByHand(Bare):
    """What a careful user writes: one pass gives the clean classes, and gradients for every ε."""

    note = "hand-written: the gradients of a batch serve every ε"

    def __init__(self, model):
        super().__init__(model)

        @tf.function
        def share(images, labels):
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
                tape.watch(images)
                logits = model(images, training=False)
                values = {name: value(labels, logits) for name, value in OBJECTIVES.items()}
            signs = {name: tf.sign(tape.gradient(value, images)) for name, value in values.items()}
            return tf.argmax(logits, -1), signs

        self._share = share
        self._move = tf.function(lambda x, sign, by: tf.clip_by_value(x + by * sign, 0.0, 1.0))

    def share(self, images, labels):
        """Class numbers of clean images, and what `move` takes, by objective."""
        classes, signs = self._share(tf.constant(images), tf.constant(labels))
        return classes.numpy(), signs

    def move(self, images, sign, epsilon):
        return self._move(tf.constant(images), sign, tf.constant(epsilon, tf.float32))


class CleverHans(Library):
    package = "cleverhans"
    note = "predictions compiled"

    def __init__(self, model):
        from cleverhans.tf2.attacks.fast_gradient_method import fast_gradient_method

        self._model, self._attack = model, fast_gradient_method
        self._predict = tf.function(lambda images: tf.argmax(model(images, training=False), -1))

    def fgsm(self, images, labels, epsilon, objective="ce"):
        return self._attack(
            self._model,
            tf.constant(images),
            epsilon,
            np.inf,
            loss_fn=OBJECTIVES[objective],
            clip_min=0.0,
            clip_max=1.0,
            y=tf.constant(labels),
        ).numpy()

    def predict(self, images):
        return self._predict(tf.constant(images)).numpy()


class CleverHansTutorial(CleverHans):
    """The loop of its `mnist_tutorial.py`, which tests one attack: a run for each of them."""

    note = "for each objective and ε: clean and attacked predictions, not compiled"
    clean_once = False

    def predict(self, images):
        return self._model(tf.constant(images)).numpy().argmax(axis=-1)


class Foolbox(Library):
    package = "foolbox"
    note = "its HR attack: `get_loss_fn` overridden"

    def __init__(self, model):
        import eagerpy as ep
        import foolbox

        class HRAttack(foolbox.attacks.LinfFastGradientAttack):
            def get_loss_fn(self, model, labels):
                def loss(inputs):
                    logits = model(inputs)
                    log_q = logits.log_softmax()
                    entropy = -(log_q.exp() * log_q).sum(axis=-1)
                    return (ep.crossentropy(logits, labels) + entropy).sum()

                return loss

        self._model = foolbox.TensorFlowModel(model, bounds=(0, 1))
        self._attacks = {"ce": foolbox.attacks.LinfFastGradientAttack(), "hr": HRAttack()}

    def fgsm(self, images, labels, epsilon, objective="ce"):
        images, labels = tf.constant(images), tf.constant(labels)
        return self._attacks[objective].run(self._model, images, labels, epsilon=epsilon).numpy()

    def predict(self, images):
        return self._model(tf.constant(images)).numpy().argmax(axis=-1)


class ART(Library):
    package = "adversarial-robustness-toolbox"
    note = "one classifier for each loss"

    def __init__(self, model):
        from art.attacks.evasion import FastGradientMethod
        from art.estimators.classification import TensorFlowV2Classifier

        shape, classes = model.input_shape[1:], model.output_shape[-1]
        losses = {
            "ce": keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
            "hr": lambda labels, logits: hr(tf.argmax(labels, -1), logits),
        }
        self._classifiers = {
            objective: TensorFlowV2Classifier(
                model, classes, shape, loss_object=loss, clip_values=(0.0, 1.0)
            )
            for objective, loss in losses.items()
        }
        self._attack = FastGradientMethod

    def fgsm(self, images, labels, epsilon, objective="ce"):
        classifier = self._classifiers[objective]
        attack = self._attack(classifier, eps=epsilon, eps_step=epsilon, batch_size=len(images))
        return attack.generate(images, labels)

    def predict(self, images):
        return self._classifiers["ce"].predict(images).argmax(axis=-1)


class TorchAttacks(Library):
    package = "torchattacks"
    note = "same weights in torch, channels last; knows CE alone, which stands for HR too"
    ce_alone = True

    def __init__(self, model):
        import torch
        import torchattacks
        from in_torch import InTorch

        self._torch, self._fgsm = torch, torchattacks.FGSM
        self._model = InTorch(model).eval().to(memory_format=torch.channels_last)

    def fgsm(self, images, labels, epsilon, objective="ce"):
        labels = self._torch.from_numpy(labels.astype("int64"))
        adversarial = self._fgsm(self._model, eps=epsilon)(self._tensor(images), labels)
        return adversarial.numpy().transpose(0, 2, 3, 1)

    def predict(self, images):
        with self._torch.no_grad():
            return self._model(self._tensor(images)).argmax(dim=-1).numpy()

    def _tensor(self, images):
        return self._torch.from_numpy(images.transpose(0, 3, 1, 2))


LIBRARIES = (CleverHans, Foolbox, ART, TorchAttacks)


def start_all(model, images, labels, libraries=LIBRARIES):
    """The libraries that run, by name and version, and a row with the error of each that does not.

    Each attacks one small batch with both objectives and predicts it.
    """
    running, rows = {}, []
    for library in libraries:
        try:
            name = f"{library.__name__} {importlib.metadata.version(library.package)}"
            peer = library(model)
            for objective in OBJECTIVES:
                peer.predict(peer.fgsm(images[:8], labels[:8], 0.1, objective))
        except Exception as error:
            message = (str(error).splitlines() or [""])[0]
            error = f"{type(error).__name__}: {message}"
            rows.append({"title": "did not run", "name": library.__name__, "error": error})
            print(f"{library.__name__} did not run: {error}")
        else:
            running[name] = peer
    return running, rows


def batches(images, labels, size):
    """The batches as pairs of NumPy arrays; `size` must divide the number of images."""
    if len(images) % size:
        raise ValueError(f"{len(images)} images are no multiple of the batch size {size}.")
    return [
        (images[start : start + size], labels[start : start + size])
        for start in range(0, len(images), size)
    ]


def passes(model, images, labels, batch_size, objectives=()):
    """A function that runs one forward pass and one backward pass for each objective, no more."""

    @tf.function
    def step(x, y):
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = model(x, training=False)
            values = [OBJECTIVES[objective](y, logits) for objective in objectives]
        return logits, [tape.gradient(value, x) for value in values]

    def run():
        for x, y in batches(images, labels, batch_size):
            step(tf.constant(x), tf.constant(y))

    return run


def adversarial_images(peer, images, labels, epsilon, size, objective="ce"):
    """FGSM on all images: what `hr_keras.attacks.FGSM` returns."""
    parts = batches(images, labels, size)
    return np.concatenate([peer.fgsm(x, y, epsilon, objective) for x, y in parts])


def six_cells(peer, images, labels, size, epsilons=(0.1, 0.25)):
    """Accuracy of each (objective, ε), as one loop over a library's attack and predictions.

    The clean accuracy is predicted once, or beside every attack where not `peer.clean_once`.
    """
    right = dict.fromkeys([(o, e) for o in OBJECTIVES for e in (0.0, *epsilons)], 0)
    shares = isinstance(peer, SharedByHand)
    for x, y in batches(images, labels, size):
        classes, signs = peer.share(x, y) if shares else (None, {})
        clean = int((classes == y).sum()) if shares else None
        for objective in OBJECTIVES:
            for epsilon in epsilons:
                if clean is None or not peer.clean_once:
                    clean = int((peer.predict(x) == y).sum())
                if shares:
                    adversarial = peer.move(x, signs[objective], epsilon)
                else:
                    adversarial = peer.fgsm(x, y, epsilon, objective)
                right[objective, epsilon] += int((peer.predict(adversarial) == y).sum())
            right[objective, 0.0] += clean
    return {cell: count / len(labels) for cell, count in right.items()}
