"""Train the models of a protocol at once on one GPU, on Keras' JAX backend.

`results/mnist/paper`, `results/cifar10/paper`, `results/mnist/adversarial` and
`results/cifar10/adversarial` began with this: most epochs took minutes on a GPU instead of hours on
a CPU. It is the same protocol with the same models, loss, split, initial weights, attack and
optimizer; only the order of the batches and where an attack starts come from another generator.
`hr-keras table` trains the epochs that are left, measures the models and writes the results. Three
steps, of which the second needs `jax` instead of TensorFlow:

    python results/train_on_gpu.py prepare paper-mnist DATA.npz start.npz
    python results/train_on_gpu.py train start.npz end.npz --seconds 460
    python results/train_on_gpu.py finish end.npz DATA.npz runs/mnist
    hr-keras table --output runs/mnist --jobs 1

For adversarial training `prepare` takes `--changes '{"methods": ["pgd_at", "pgd_at_hr"]}'`, and
most other arguments of `Protocol`, and `--first 2` leaves out realizations 0 and 1. `prepare
--folder RUN` goes on from the checkpoints of a run folder, and `train` from `end.npz` if there is
one. `finish --end-here` makes the number of epochs that were trained that of the protocol.

A convolution whose kernels differ from model to model is slow on a GPU. Here it is one matrix
product of patches, so that all models together are one batched product.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
import time

if sys.argv[1:2] == ["train"]:
    os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras import ops

from hr_keras import HRLoss, datasets, metrics, models
from hr_keras._core import information
from hr_keras.attacks import closed_forms
from hr_keras.experiments.methods import WARMUP_STEPS, get_method
from hr_keras.experiments.protocol import PRESETS, Protocol, from_preset

PAIRS = (("ce", "hr"), ("pgd_at", "pgd_at_hr"))
SHAPES = {"mnist_cnn": (28, 28, 1), "resnet8": (32, 32, 3)}
VALIDATION_BATCH = 256
KEYS = (
    "loss", "accuracy", "error_bound", "val_accuracy", "val_error_bound", "val_loss",
    "val_fgsm_ce_0.1_accuracy", "val_fgsm_ce_0.25_accuracy",
    "val_published_fgsm_ce_0.1_accuracy", "val_published_fgsm_ce_0.25_accuracy",
)  # fmt: skip


def prepare(
    preset: str, data: str, output: str, changes: str, first: int, folder: str | None
) -> None:
    """Saves the training images, splits and models, as this package makes or trained them."""
    from hr_keras.experiments.checkpoint import Checkpoint
    from hr_keras.experiments.fit import build_model
    from hr_keras.experiments.run_folder import RunFolder

    protocol = from_preset(preset, dataset=data, **json.loads(changes))
    if protocol.methods not in PAIRS:
        raise ValueError(f"The methods must be one of {PAIRS}. Received: {protocol.methods}")
    for name in ("epsilons", "label_noise", "learning_rates"):
        value, usual = getattr(protocol, name), getattr(from_preset(preset), name)
        if value != usual:
            raise ValueError(f"`{name}` must be {usual}, no other is known. Received: {value}")
    if not 0 <= first < protocol.realizations:
        raise ValueError(f"`first` must be in [0, {protocol.realizations}). Received: {first}")
    whole = datasets.load(data, validation=0, dtype=None).train
    if whole.images.dtype != "uint8":
        raise ValueError(f"The images must be uint8. Received: {whole.images.dtype}")
    realizations = range(first, protocol.realizations)
    splits = [
        datasets._split_by_class(whole.labels, protocol.validation, protocol.seed + k)
        for k in realizations
    ]
    states, histories, seconds = [], [], 0.0
    for method in protocol.methods:
        for k in realizations:
            seed = protocol.seed + k
            split = datasets.load(data, protocol.validation, seed, dtype=None)
            classifier, model = build_model(protocol, method, seed, split)
            epochs = []
            if folder is not None:
                path = RunFolder(pathlib.Path(folder)).checkpoint_path(method, k)
                checkpoint = Checkpoint(path, protocol, method, seed, writes=False)
                checkpoint.restore(model)
                epochs = [[epoch[key] for key in KEYS] for epoch in checkpoint.epochs]
                seconds += checkpoint.seconds
            histories.append(epochs)
            named = _name_variables(classifier, model.optimizer)
            states.append({
                name: ops.convert_to_numpy(variable)
                for part in named
                for name, variable in part.items()
            })  # fmt: skip
    done = [len(epochs) for epochs in histories]
    if len(set(done)) > 1 or (folder is not None and done[0] == 0):
        raise ValueError(f"All checkpoints must have the same number of epochs. Received: {done}")
    np.savez(
        output,
        protocol=protocol.to_json(),
        realizations=list(realizations),
        images=whole.images,
        labels=whole.labels.astype("int32"),
        kept=[one for one, _ in splits],
        held=[one for _, one in splits],
        history=np.moveaxis(np.array(histories), 0, 1),
        seconds=seconds,
        **{name: np.stack([state[name] for state in states]) for name in states[0]},
    )


def _name_variables(classifier, optimizer) -> tuple[dict, dict, dict]:
    """Trainable variables, other variables and those of the optimizer, by their names in a file."""
    return (
        {f"model/{variable.path}": variable for variable in classifier.trainable_variables},
        {f"model/{variable.path}": variable for variable in classifier.non_trainable_variables},
        {f"optimizer/{j}": variable for j, variable in enumerate(optimizer.variables)},
    )


class PatchesConv2D(keras.layers.Conv2D):
    """A convolution as one matrix product of patches."""

    def convolution_op(self, inputs, kernel):
        kernel = ops.convert_to_tensor(kernel)
        rows, columns = kernel.shape[:2]
        stride = self.strides[0]
        if self.padding == "same":
            pads = map(self._pad, inputs.shape[1:3], (rows, columns))
            inputs = ops.pad(inputs, ((0, 0), *pads, (0, 0)))
        sizes = zip(inputs.shape[1:3], (rows, columns), strict=True)
        height, width = ((size - k) // stride * stride + 1 for size, k in sizes)
        patches = [
            inputs[:, i : i + height : stride, j : j + width : stride]
            for i in range(rows)
            for j in range(columns)
        ]
        return ops.concatenate(patches, axis=-1) @ ops.reshape(kernel, (-1, kernel.shape[-1]))

    def _pad(self, size, kernel):
        stride = self.strides[0]
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        return total // 2, total - total // 2


class ComparedMaxPooling2D(keras.layers.MaxPooling2D):
    """Max-pooling 2 × 2 by comparison: of equal pixels, the first gets the gradient."""

    def call(self, inputs):
        height, width = (size // 2 for size in inputs.shape[1:3])
        x = inputs[:, : 2 * height, : 2 * width]
        x = ops.reshape(x, (x.shape[0], height, 2, width, 2, x.shape[-1]))
        largest = x[:, :, 0, :, 0]
        for i, j in ((0, 1), (1, 0), (1, 1)):
            largest = ops.where(x[:, :, i, :, j] > largest, x[:, :, i, :, j], largest)
        return largest


def make_model(protocol: Protocol) -> keras.Model:
    make = {"mnist_cnn": models.mnist_cnn, "resnet8": models.resnet8}[protocol.model]
    model = make(SHAPES[protocol.model], classifier_activation=None, seed=0)
    kinds = {keras.layers.Conv2D: PatchesConv2D, keras.layers.MaxPooling2D: ComparedMaxPooling2D}
    return keras.models.clone_model(
        model,
        clone_function=lambda one: kinds.get(type(one), type(one)).from_config(one.get_config()),
    )


def make_optimizer(protocol: Protocol, steps: int) -> keras.optimizers.Optimizer:
    make = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}[protocol.optimizer]
    if not protocol.schedule:
        return make(protocol.learning_rate)
    factors = (1.0, *(factor for _, factor in protocol.schedule))
    return make(
        keras.optimizers.schedules.PiecewiseConstantDecay(
            [epoch * steps - 1 for epoch, _ in protocol.schedule],
            [protocol.learning_rate * factor for factor in factors],
        )
    )


class Trainer:
    """All models: first those trained with CE, one for each seed, then those with HR.

    In adversarial training the attack is that of `training.AdversarialTraining`: PGD on the
    cross-entropy, with the statistics of the attacked batch, from a random point of the ball.

    Args:
        saved: What `prepare` saved.
        state: The same, or what `save` saved: the models begin as they are in it.
    """

    def __init__(self, saved, state) -> None:
        import jax
        import jax.numpy as jnp

        self.jax, self.jnp = jax, jnp
        self.protocol = protocol = Protocol.from_json(str(saved["protocol"]))
        self.realizations = saved["realizations"]
        self.seeds = seeds = len(self.realizations)
        self.count = 2 * seeds
        self.is_hr = jnp.array([0.0] * seeds + [1.0] * seeds)
        self.is_adversarial = get_method(protocol.methods[0]).is_adversarial
        # Other keys than those of the order of the batches, which are the numbers of the seeds.
        keys = jax.random.split(jax.random.key(2**31), protocol.realizations)
        self.keys = keys[np.tile(self.realizations, 2)]
        self.images, self.labels = jnp.array(saved["images"]), jnp.array(saved["labels"])
        self.kept = saved["kept"]
        self.held = jnp.array(np.tile(saved["held"], (2, 1)))
        self.model = make_model(protocol)
        self.means = jnp.array(self._compute_means(saved["images"]))
        steps = -(-self.kept.shape[1] // protocol.batch_size)
        self.optimizer = make_optimizer(protocol, steps)
        self.optimizer.build(self.model.trainable_variables)
        self.bound = metrics.ErrorBound(protocol.alpha, from_logits=True)
        self.state = tuple(
            [jnp.array(state[name], variable.dtype) for name, variable in part.items()]
            for part in _name_variables(self.model, self.optimizer)
        )
        self.history = list(state["history"])
        self.seconds = float(state["seconds"])  # spent before
        self._train_epoch = jax.jit(self._make_epoch, donate_argnums=0)
        self._validate = jax.jit(self._make_validation, static_argnames="attack")

    def _compute_means(self, images):
        means = np.zeros((self.count, *images.shape[1:]), "float32")
        if self.protocol.mean_image:
            for k in range(self.count):
                kept = images[self.kept[k % self.seeds]]
                means[k] = kept.mean(axis=0, dtype="float64") / 255
        return means

    def _repeat(self, variables):
        return [self.jnp.stack([ops.convert_to_tensor(one)] * self.count) for one in variables]

    def _loss(self, is_hr, labels, logits):
        ce = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, logits)
        hr = HRLoss(self.protocol.alpha, from_logits=True)(labels, logits)
        return ce * (1.0 - is_hr) + hr * is_hr

    def _batch(self, index):
        return self.images[index].astype("float32") / 255.0, self.labels[index]

    def _step(self, carry, index):
        def train_one(weights, state, optimizer, bound, images, labels, is_hr, mean, key):
            if self.is_adversarial:
                images = self._attack(weights, state, images, labels, mean, key, optimizer[0])

            def compute_loss(weights):
                logits, new_state, penalties = self.model.stateless_call(
                    weights, state, images - mean, training=True, return_losses=True
                )
                loss = self._loss(is_hr, labels, logits) + sum(penalties, start=0.0)
                return loss, (logits, new_state)

            compute = self.jax.value_and_grad(compute_loss, has_aux=True)
            (loss, (logits, new_state)), gradient = compute(weights)
            bound = self.bound.stateless_update_state(bound, labels, logits)
            weights, optimizer = self.optimizer.stateless_apply(optimizer, gradient, weights)
            correct = (logits.argmax(-1) == labels).sum()
            return (weights, new_state, optimizer, bound), (loss, correct)

        batch = self._batch(index)
        return self.jax.vmap(train_one)(*carry, *batch, self.is_hr, self.means, self.keys)

    def _attack(self, weights, state, images, labels, mean, key, step):
        """PGD as `training.AdversarialTraining` makes it, in the step number `step`."""
        noise = self.jax.random.uniform(
            self.jax.random.fold_in(key, step), images.shape, minval=-1.0, maxval=1.0
        )
        return self._attack_from(noise, weights, state, images, labels, mean, step)

    def _attack_from(self, noise, weights, state, images, labels, mean, step):
        """The attack that starts at `images` + ε · `noise`, clipped to the pixel range."""
        steps = self.protocol.train_steps
        epsilon = self.protocol.train_epsilon * self.jnp.minimum((step + 1) / WARMUP_STEPS, 1.0)
        size = 2.5 / steps * epsilon  # PGD's own; an attack cannot be made without TensorFlow
        low = self.jnp.maximum(images - epsilon, 0.0)
        high = self.jnp.minimum(images + epsilon, 1.0)

        def compute_objective(point):
            logits, _ = self.model.stateless_call(weights, state, point - mean, training=True)
            return self._exact(labels, logits).sum()

        def move(_, point):
            direction = self.jnp.sign(self.jax.grad(compute_objective)(point))
            return self.jnp.clip(point + size * direction, low, high)

        start = self.jnp.clip(images + epsilon * noise, low, high)
        return self.jax.lax.fori_loop(0, steps, move, start)

    def _make_epoch(self, state, order):
        """One epoch, the batches in the order of `order` (seeds, images)."""
        index = self.jnp.take_along_axis(self.jnp.array(self.kept), order, axis=1)
        index = self.jnp.concatenate([index, index])
        carry = (*state, self._repeat(self.bound.variables))
        (*state, bound), (loss, correct) = self._scan(
            self._step, carry, index, self.protocol.batch_size
        )
        return tuple(state), (loss, correct, self.jax.vmap(self.bound.stateless_result)(bound))

    def _scan(self, step, carry, index, size):
        """Runs `step` over batches of `size` and a rest; returns means over the examples."""
        total = index.shape[1]
        full = total // size
        batches = index[:, : full * size].reshape(self.count, full, size).swapaxes(0, 1)
        carry, (loss, *counts) = self.jax.lax.scan(step, carry, batches)
        loss, counts = loss.sum(0) * size, [one.sum(0) for one in counts]
        if total > full * size:
            carry, (last, *more) = step(carry, index[:, full * size :])
            loss = loss + last * (total - full * size)
            counts = [one + other for one, other in zip(counts, more, strict=True)]
        return carry, (loss / total, *(one / total for one in counts))

    def _make_validation(self, state, attack):
        """Validation accuracy, and under FGSM with CE, exactly and as published."""
        weights, other, _ = state

        def check_one(weights, other, bound, images, labels, is_hr, mean):
            def compute_logits(images):
                return self.model.stateless_call(weights, other, images - mean, training=False)[0]

            logits, pull_back = self.jax.vjp(compute_logits, images)
            pairs = zip(self.model.trainable_variables, weights, strict=True)
            penalty = sum(
                (variable.regularizer(value) for variable, value in pairs if variable.regularizer),
                start=0.0,
            )
            loss = self._loss(is_hr, labels, logits) + penalty
            withstood = []
            for objective in (self._exact, self._published) if attack else ():
                gradient = self.jax.grad(lambda z, f=objective: f(labels, z).sum())(logits)
                direction = self.jnp.sign(pull_back(gradient)[0])
                for epsilon in self.protocol.epsilons[1:]:
                    adversarial = self.jnp.clip(images + epsilon * direction, 0.0, 1.0)
                    decisions = compute_logits(adversarial).argmax(-1)
                    withstood.append((decisions == labels).sum())
            bound = self.bound.stateless_update_state(bound, labels, logits)
            correct = (logits.argmax(-1) == labels).sum()
            return bound, (loss, correct, self.jnp.array(withstood))

        def step(bound, index):
            return self.jax.vmap(check_one)(
                weights, other, bound, *self._batch(index), self.is_hr, self.means
            )

        bound = self._repeat(self.bound.variables)
        bound, found = self._scan(step, bound, self.held, VALIDATION_BATCH)
        return (*found, self.jax.vmap(self.bound.stateless_result)(bound))

    @staticmethod
    def _exact(labels, logits):
        return closed_forms.ce_surrogate(labels, logits)

    @staticmethod
    def _published(labels, logits):
        log_q = information.log_probabilities(ops.softmax(logits))
        return information.cross_entropy(labels, log_q)

    def train(self, seconds: float) -> None:
        """Trains until the last epoch, or that in which so many seconds have passed."""
        started = time.time()
        for epoch in range(len(self.history), self.protocol.epochs):
            keys = [self.jax.random.key(int(k)) for k in self.realizations]
            order = self.jnp.stack(
                [
                    self.jax.random.permutation(
                        self.jax.random.fold_in(key, epoch), self.kept.shape[1]
                    )
                    for key in keys
                ]
            )
            self.state, (loss, accuracy, bound) = self._train_epoch(self.state, order)
            done = epoch + 1
            loss = np.asarray(loss)  # waits for the epoch
            is_last = done == self.protocol.epochs or time.time() - started > seconds
            attack = done % self.protocol.attack_every == 0 or is_last
            val_loss, val_accuracy, withstood, val_bound = self._validate(self.state, attack)
            if not attack:
                withstood = np.full((self.count, 4), np.nan)
            columns = (loss, accuracy, bound, val_accuracy, val_bound, val_loss)
            row = np.column_stack([*map(np.asarray, columns), np.asarray(withstood)])
            self.history.append(row)
            if done in (1, 2, 5) or done % 10 == 0:
                print(done, f"{time.time() - started:.0f} s", row[:, 3].round(4), flush=True)
            if is_last:
                break

    def save(self, path: str, seconds: float) -> None:
        named = _name_variables(self.model, self.optimizer)
        arrays = {
            name: np.asarray(value)
            for part, values in zip(named, self.state, strict=True)
            for name, value in zip(part, values, strict=True)
        }
        np.savez(
            path,
            protocol=self.protocol.to_json(),
            realizations=self.realizations,
            history=np.array(self.history),
            seconds=self.seconds + seconds,
            **arrays,
        )


def train(source: str, output: str, seconds: float) -> None:
    """Trains all models at once, as they are in `output` if there is such a file."""
    import jax

    jax.config.update("jax_default_matmul_precision", "float32")
    started = time.time()
    state = output if os.path.exists(output) else source
    with np.load(source) as saved, np.load(state) as state:
        for name in ("protocol", "realizations"):
            if not np.array_equal(saved[name], state[name]):
                raise ValueError(
                    f"{output} is of another training than {source}: `{name}` differs. Expected: "
                    f"{saved[name]}. Received: {state[name]}"
                )
        trainer = Trainer(saved, state)
    trainer.train(seconds)
    trainer.save(output, time.time() - started)


def finish(source: str, data: str, output: str, end_here: bool) -> None:
    """Writes checkpoints that `hr-keras table --output` resumes, in float32 on TensorFlow."""
    from hr_keras.experiments import pipeline
    from hr_keras.experiments.checkpoint import Checkpoint
    from hr_keras.experiments.fit import build_model
    from hr_keras.experiments.run_folder import RunFolder

    with np.load(source) as file:
        saved = dict(file)
    protocol = Protocol.from_json(str(saved["protocol"]))
    if protocol.dataset != data:
        protocol = dataclasses.replace(protocol, dataset=data)
    if end_here:
        protocol = dataclasses.replace(protocol, epochs=len(saved["history"]))
    folder = RunFolder.create(pathlib.Path(output), protocol)
    done = 1 + np.arange(len(saved["history"]))
    is_due = (done % protocol.attack_every == 0) | (done == protocol.epochs)
    # `train` also attacks where it stops.
    saved["history"][~is_due, :, KEYS.index("val_fgsm_ce_0.1_accuracy") :] = np.nan
    count = len(saved["realizations"])
    for m in range(2 * count):
        method, k = protocol.methods[m // count], int(saved["realizations"][m % count])
        seed = protocol.seed + k
        data_of_seed = pipeline.load_data(protocol, seed)
        classifier, model = build_model(protocol, method, seed, data_of_seed)
        for part in _name_variables(classifier, model.optimizer):
            for name, variable in part.items():
                variable.assign(saved[name][m])
        checkpoint = Checkpoint(folder.checkpoint_path(method, k), protocol, method, seed)
        checkpoint.set_model(model)
        checkpoint.seconds = float(saved["seconds"]) / (2 * count)
        rows = saved["history"][:, m].tolist()
        *checkpoint.epochs, last = [dict(zip(KEYS, row, strict=True)) for row in rows]
        checkpoint.on_epoch_end(len(checkpoint.epochs), last)
        print(json.dumps({"method": method, "realization": k, "epochs": len(checkpoint.epochs)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("prepare")
    one.add_argument("preset", choices=PRESETS)
    one.add_argument("data")
    one.add_argument("output")
    one.add_argument("--changes", default="{}", help="other arguments of Protocol, as JSON")
    one.add_argument("--first", type=int, default=0, help="number of the first realization")
    one.add_argument("--folder", help="of a run whose checkpoints are the beginning")
    one = commands.add_parser("train")
    one.add_argument("source")
    one.add_argument("output")
    one.add_argument("--seconds", type=float, default=float("inf"))
    one = commands.add_parser("finish")
    one.add_argument("source")
    one.add_argument("data")
    one.add_argument("output")
    one.add_argument("--end-here", action="store_true")
    arguments = vars(parser.parse_args())
    {"prepare": prepare, "train": train, "finish": finish}[arguments.pop("command")](**arguments)


if __name__ == "__main__":
    main()
