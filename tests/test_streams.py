"""Data that do not fit in memory: the numbers of arrays, and what may be wrong with them."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import linear_model
from processes import output_of
from test_evaluation import counted, counting_model

from hr_keras import HRLoss, evaluation
from hr_keras._core.examples import CHUNK, Examples
from hr_keras._core.finished import find_model_digest
from hr_keras.attacks import FGSM, PGD, Square, Transfer

BATCH = 4  # examples in a compiled step: a chunk is 16 of these 42
N = 42
ATTACKS = [FGSM(0.1), PGD(0.1, "margin", n_iter=3, n_restarts=2), Square(0.2, n_queries=5)]


def data(n=N):
    generator = np.random.default_rng(1)
    images = generator.integers(256, size=(n, 2, 2, 3)).astype("uint8")
    unit = images.astype("float32") / 255
    labels = np.asarray(linear_model(1.0)(unit)).argmax(axis=1)
    labels[::5] = (labels[::5] + 1) % 3
    return unit, labels


class Batches(keras.utils.PyDataset):
    """Batches of arrays, which counts how many were read."""

    def __init__(self, images, labels, size):
        super().__init__()
        self.images, self.labels, self.size, self.read = images, labels, size, 0

    def __len__(self):
        return -(-len(self.images) // self.size)

    def __getitem__(self, number):
        self.read += 1
        part = slice(number * self.size, (number + 1) * self.size)
        return self.images[part], self.labels[part]


def slices(*arrays):
    return tf.data.Dataset.from_tensor_slices(arrays)


def unit_interval(images):
    images /= 255  # in place, as some of Keras' own do
    return images


SOURCES = {
    "tf.data": lambda x, y: (slices(x, y).batch(5), {}),
    "of unknown length": lambda x, y: (slices(x, y).filter(lambda *_: True).batch(64), {}),
    "PyDataset": lambda x, y: (Batches(x, y, 11), {}),
    "one-hot": lambda x, y: (slices(x, np.eye(3)[y], np.ones(len(y))).batch(7), {}),
    "dicts": lambda x, y: (
        slices({"pixels": x, "class": y, "id": y}).map(lambda one: one).batch(6),
        {"keys": ("pixels", "class")},
    ),
    "named inputs": lambda x, y: (slices({"image": x}, y).batch(6), {}),
    "uint8": lambda x, y: (
        slices(np.round(255 * x).astype("uint8"), y).batch(8),
        {"preprocess": lambda images: images.astype("float32") / 255},
    ),
    "in place": lambda x, y: (slices(255 * x, y).batch(9), {"preprocess": unit_interval}),
}


@pytest.fixture(scope="module")
def model():
    return linear_model(1.0)


@pytest.fixture(scope="module")
def with_arrays(model):
    images, labels = data()
    return (
        evaluation.sweep(model, images, labels, batch_size=BATCH),
        evaluation.robust_accuracy(model, images, labels, ATTACKS, BATCH),
        evaluation.confusion_matrix(model, images, labels, BATCH),
    )


@pytest.mark.parametrize("source", SOURCES)
def test_a_dataset_gives_the_bits_of_its_arrays(model, with_arrays, source):
    dataset, arguments = SOURCES[source](*data())
    swept = evaluation.sweep(model, dataset, batch_size=BATCH, **arguments)
    np.testing.assert_array_equal(swept.correct, with_arrays[0].correct)
    np.testing.assert_array_equal(swept.zero_gradient, with_arrays[0].zero_gradient)
    robust = evaluation.robust_accuracy(
        model, dataset, attacks=ATTACKS, batch_size=BATCH, **arguments
    )
    for name, expected in with_arrays[1].withstood.items():
        np.testing.assert_array_equal(robust.withstood[name], expected)
        assert 0 < expected.sum() < robust.correct.sum() < N
    matrix = evaluation.confusion_matrix(model, dataset, batch_size=BATCH, **arguments)
    np.testing.assert_array_equal(matrix, with_arrays[2])


def test_random_numbers_depend_on_the_index_in_the_stream_not_on_its_batches(model):
    """Every example has those that it gets in one large task."""
    images, labels = data()
    attack = Square(0.2, n_queries=5)
    whole = evaluation.robust_accuracy(model, images, labels, attack, batch_size=N)
    parts = evaluation.robust_accuracy(model, slices(images, labels).batch(3), None, attack, BATCH)
    np.testing.assert_array_equal(parts.robust, whole.robust)


def test_bytes_of_a_dataset_are_for_models_that_scale_them():
    model = keras.Sequential(
        [keras.Input((2, 2, 3)), keras.layers.Rescaling(1 / 255), linear_model(1.0)]
    )
    images, labels = data()
    stored = np.round(255 * images).astype("uint8")
    attack = FGSM(25.0, bounds=(0, 255))
    of_bytes = evaluation.robust_accuracy(model, slices(stored, labels).batch(9), attacks=attack)
    of_floats = evaluation.robust_accuracy(model, stored.astype("float32"), labels, attack)
    np.testing.assert_array_equal(of_bytes.robust, of_floats.robust)
    with pytest.raises(ValueError, match=r"inside bounds=\(0\.0, 1\.0\)"):
        evaluation.sweep(model, slices(stored, labels).batch(9))


def test_a_few_batches_are_in_memory_at_a_time():
    batches = Batches(*data(200), BATCH)
    chunks = []
    for chunk in Examples(batches).read(BATCH):
        chunks.append(chunk)
        # those of the chunk, and one to see whether it is the last
        assert batches.read <= -(-(chunk.first_index + len(chunk.images)) // BATCH) + 1
        assert len(chunk.images) <= CHUNK * BATCH
    assert batches.read == 50
    np.testing.assert_array_equal(
        np.concatenate([chunk.images for chunk in chunks]), batches.images
    )
    assert chunks[-1].share == 1.0


PEAKS = """
import resource
import keras
import tensorflow as tf
from hr_keras import evaluation

layers = keras.layers.AveragePooling2D(16), keras.layers.Flatten(), keras.layers.Dense(10)
model = keras.Sequential([keras.Input((64, 64, 3)), *layers])

def make(index):
    image = tf.random.stateless_uniform((64, 64, 3), (0, index), 0, 256, tf.int32)
    return tf.cast(image, tf.uint8), index % 10

for n in (2000, 20000):
    dataset = tf.data.Dataset.range(n, output_type=tf.int32).map(make).batch(100)
    evaluation.sweep(
        model, dataset, objectives="ce", epsilons=(0.1,), batch_size=64,
        preprocess=lambda images: images.astype("float32") / 255,
    )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""  # fmt: skip


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images():
    """18,000 more images of 64 × 64 × 3 are 885 MB in float32, a chunk of 256 is 13 MB."""
    few, many = map(int, output_of(PEAKS).split())
    assert (many - few) / 1024 < 100


def test_streams_of_any_length_share_compiled_code_and_full_batches_cost_what_they_did():
    model, (images, labels) = counting_model(), data()
    attacks = [FGSM(0.1), PGD(0.1, "margin", n_iter=3)]

    def run(n):
        dataset = slices(images[:n], labels[:n]).batch(7)
        evaluation.robust_accuracy(model, dataset, attacks=attacks, batch_size=BATCH)
        return evaluation.sweep(model, dataset, None, "ce", (0.0, 0.1), batch_size=BATCH)

    run(40)
    _, cost = counted(lambda: run(33))
    assert cost["traces"] == 0
    sweep = lambda: evaluation.sweep(model, images, labels, "ce", (0.0, 0.1), batch_size=BATCH)  # noqa: E731
    assert counted(sweep)[1] == {"forward": 2 * 11, "backward": 11, "traces": 0}


def nan_at(position):
    images, labels = data()
    images[position, 0, 0, 0] = np.nan
    return slices(images, labels).batch(5)


def label_at(position, label):
    images, labels = data()
    labels[position] = label
    return slices(images, labels).batch(5)


def soft_at(position):
    images, labels = data()
    rows = np.eye(3)[labels]
    rows[position] = 0.5
    return slices(images, rows).batch(5)


def failing():
    def check(image, label):
        return tf.debugging.check_numerics(image, "damaged"), label

    images, labels = data()
    images[20] = np.nan
    return slices(images, labels).map(check).batch(5)


def two_shapes():
    yield np.zeros((2, 2, 2, 3), "float32"), np.zeros(2, "int64")
    yield np.zeros((2, 3, 2, 3), "float32"), np.zeros(2, "int64")


SIGNATURE = (tf.TensorSpec((None, None, 2, 3)), tf.TensorSpec((None,), tf.int64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: slices(*data()), r"not batches.*\.batch\(n\).*example 0"),
        (lambda: slices(data()[0], np.eye(3)[data()[1]]), r"not\s+batches.*example 0"),
        (lambda: slices(*data()).batch(5).repeat(), "without an end"),
        (lambda: slices(*data()).batch(5).take(0), "an empty one"),
        (lambda: slices(data()[0]).batch(5), "not batches of pairs"),
        (lambda: slices({"x": data()[0]}).map(lambda d: d).batch(5), "dict of 'x'; keys="),
        (lambda: nan_at(37), "without NaN.*in example 37"),
        (lambda: label_at(38, 3), "from 0 to 2.*example 38"),
        (lambda: label_at(39, -1), "from 0 to 2.*example 39"),
        (lambda: soft_at(40), "sum to 1.*example 40"),
        (failing, r"to its end.*after 4 batches.*damaged"),
        (
            lambda: tf.data.Dataset.from_generator(two_shapes, output_signature=SIGNATURE),
            r"\(2, 2, 2, 3\).*\(2, 3, 2, 3\).*example 2",
        ),
        (lambda: slices(data()[0], data()[1].astype(str)).batch(5), "batches of numbers"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_dataset_is_said_with_the_example(model, make, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        evaluation.sweep(model, make(), batch_size=BATCH)


def test_no_number_and_no_label_enter_a_confusion_matrix_unseen(model):
    with pytest.raises(ValueError, match=r"NaN.*in example 37"):
        evaluation.confusion_matrix(model, nan_at(37), batch_size=BATCH)
    with pytest.raises(ValueError, match=r"from 0 to 2.*example 38"):
        evaluation.confusion_matrix(model, label_at(38, 3), batch_size=BATCH)


@pytest.mark.parametrize("size", [30, 60])
def test_a_dataset_that_changes_between_passes_is_refused(size):
    batches = Batches(*data(N), BATCH)
    examples = Examples(batches)
    assert sum(len(chunk.images) for chunk in examples.read(BATCH)) == N
    batches.images, batches.labels = data(size)
    with pytest.raises(ValueError, match=f"{N} examples at first, {size} now"):
        list(examples.read(BATCH))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": None}, "must come with labels"),
        ({"labels": np.zeros(41, int)}, "as many labels"),
        ({"images": slices(*data()).batch(5)}, "must not be given with a dataset"),
        ({"preprocess": 255}, "must be a function"),
        ({"preprocess": lambda images: images[:1]}, "as many images"),
        ({"images": slices(*data()).batch(5), "labels": None, "keys": "xy"}, "`keys` must be"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(model, arguments, message):
    images, labels = data()
    arguments = {"images": images, "labels": labels, **arguments}
    with pytest.raises(ValueError, match=message):
        evaluation.sweep(model, **arguments)


def test_progress_shows_examples_and_the_time_left(model, capsys):
    evaluation.sweep(model, slices(*data()).batch(5), batch_size=BATCH, progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "42 examples" in printed.err
    assert "left" in printed.err


def interrupt_after(chunks):
    """A preprocess function that stops the program at a later chunk."""
    done = []

    def preprocess(images):
        done.append(images)
        if len(done) > chunks:
            raise KeyboardInterrupt
        return images

    return preprocess


def test_an_interrupted_evaluation_resumes_with_the_same_bits(with_arrays, tmp_path):
    model, (images, labels) = counting_model(), data()
    path, attack = tmp_path / "finished.npz", PGD(0.1, "margin", n_iter=3)
    run = lambda **changes: evaluation.robust_accuracy(  # noqa: E731
        model, images, labels, attack, **{"batch_size": BATCH, "resume": path, **changes}
    )
    with pytest.raises(KeyboardInterrupt):
        run(preprocess=interrupt_after(2))
    result, cost = counted(run)
    whole, whole_cost = counted(lambda: run(resume=None))
    np.testing.assert_array_equal(result.withstood[attack.name], whole.withstood[attack.name])
    assert 0 < cost["forward"] < whole_cost["forward"] / 2  # 10 of 42 examples
    _, cost = counted(run)
    assert cost == {"forward": 0, "backward": 0, "traces": 0}


def test_finished_examples_of_an_attack_with_other_losses_and_surrogates_are_refused(tmp_path):
    images, labels = data(8)
    losses, weights = (HRLoss(alpha=1.6), HRLoss(alpha=3.0)), (1.0, 2.0)
    pairs = {
        "loss": [PGD(0.1, loss, n_iter=1) for loss in losses],
        "surrogate": [Transfer(FGSM(0.1), linear_model(scale)) for scale in weights],
    }
    for name, (attack, other) in pairs.items():
        run = functools.partial(
            evaluation.robust_accuracy, linear_model(1.0), images, labels, resume=tmp_path / name
        )
        run(attack)
        run(attack)
        with pytest.raises(ValueError, match="differs in attacks"):
            run(other)


def test_a_digest_knows_operations_constants_and_connections_but_no_names():
    def digest(scale, order=1):
        x = keras.Input((4,))
        a, b = keras.layers.ReLU()(x), keras.ops.tanh(x * scale)
        model = keras.Model(x, keras.ops.concatenate([a, b][::order], axis=-1))
        return find_model_digest(keras.Sequential([keras.Input((4,)), model]))

    assert digest(2.0) == digest(2.0)
    assert len({digest(2.0), digest(3.0), digest(2.0, -1)}) == 3


def test_finished_examples_of_anything_else_are_refused(model, tmp_path):
    images, labels = data()
    path = tmp_path / "finished.npz"
    run = lambda *arrays, **changes: evaluation.sweep(  # noqa: E731
        *arrays, **{"objectives": "ce", "batch_size": BATCH, "resume": path, **changes}
    )
    swept = run(model, images, labels)
    np.testing.assert_array_equal(run(linear_model(1.0), images, labels).correct, swept.correct)
    before = path.read_bytes()
    other = images.copy()
    other[20, 0, 0, 0] = 0.5 - other[20, 0, 0, 0] / 2
    for arrays, changes, message in (
        ((linear_model(1.1), images, labels), {}, "differs in model"),
        ((linear_model(1.0, "sigmoid"), images, labels), {}, "differs in model"),
        ((model, images, labels), {"epsilons": (0.2,)}, "differs in epsilons"),
        ((model, images, labels), {"batch_size": 5}, "differs in batch_size"),
        ((model, other, labels), {}, "other examples than those from 16 to 31"),
        ((model, images[:32], labels[:32]), {}, "more examples than the data"),
    ):
        with pytest.raises(ValueError, match=message):
            run(*arrays, **changes)
        assert path.read_bytes() == before
    run(model, images, labels, resume=tmp_path / "hr", objectives=HRLoss(alpha=1.6))
    with pytest.raises(ValueError, match="differs in objectives"):
        run(model, images, labels, resume=tmp_path / "hr", objectives=HRLoss(alpha=3.0))
    with pytest.raises(ValueError, match=r"must be a name.*<lambda>"):
        run(model, images, labels, objectives=lambda labels, logits: logits[:, 0])
    for content in (b"no archive", before[:-40], b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="not a file of finished examples"):
            run(model, images, labels)
        assert path.read_bytes() == content
