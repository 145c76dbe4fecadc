"""CIFAR-10's batches are pickles from the internet: nothing in them may run."""

import builtins
import os
import pickle
import struct

import numpy as np
import pytest
from datasets_on_disk import generated, pickle_batch

from hr_keras.datasets import _pickle
from hr_keras.datasets._pickle import read_batch


class Call:
    """Pickled, it is a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def read(tmp_path, content):
    path = tmp_path / "data_batch_1"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, 2))
    return read_batch(path)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_batches_of_every_protocol_and_version_of_numpy(tmp_path, protocol, module):
    images, labels = generated((32, 32, 3), 8)
    content = pickle_batch(images, labels, protocol)
    if protocol < 4:  # names are lines there
        content = content.replace(b"numpy._core.multiarray\n", module + b"\n")
    found = read(tmp_path, content)
    np.testing.assert_array_equal(found[0], images)
    np.testing.assert_array_equal(found[1], labels)


def test_a_batch_as_python_2_wrote_it(tmp_path):
    """The real files: byte strings are texts of Python 2, the array in place."""
    images, labels = generated((32, 32, 3), 2)
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"T" + struct.pack("<I", len(pixels)) + pixels + b"tb"
    )
    content = b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x00K\x01eu."
    found = read(tmp_path, content)
    np.testing.assert_array_equal(found[0], images)
    np.testing.assert_array_equal(found[1], labels)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.system, ("touch {path}",)),
        (builtins.eval, ("open({path!r}, 'w')",)),
        (builtins.exec, ("open({path!r}, 'w')",)),
        (builtins.open, ("{path}", "w")),
        (builtins.getattr, ("text", "format")),
        (np.load, ("{path}",)),
        (np.fromfile, ("{path}",)),
        (np.memmap, ("{path}", "uint8", "w+", 0, 8)),
        (np.frombuffer, (b"12345678",)),
        (np.zeros, (10,)),
        (pickle.loads, (b"N.",)),
    ],
)
def test_a_hostile_pickle_is_refused_and_nothing_runs(tmp_path, function, arguments):
    path = tmp_path / "ran"
    arguments = [a.format(path=str(path)) if isinstance(a, str) else a for a in arguments]
    for hostile in (Call(function, *arguments), {b"data": Call(function, *arguments)}):
        with pytest.raises(ValueError, match=r"data_batch_1.*may run code"):
            read(tmp_path, hostile)
    assert not path.exists()


@pytest.mark.parametrize("encoding", ["latin1", "rot13", "hex"])
def test_the_codec_of_bytes_is_the_only_one(tmp_path, encoding):
    call = b"c_codecs\nencode\n(V" + b"ab\nV" + encoding.encode() + b"\ntR."
    (tmp_path / "batch").write_bytes(call)
    assert _pickle._unpickle(tmp_path / "batch") == b"ab"


def test_a_pickle_cannot_change_what_the_next_one_gets(tmp_path):
    """BUILD sets attributes of what was found: here the defaults of the function."""
    build = b"(N}X\x0c\x00\x00\x00__defaults__K\x01\x85stb."
    (tmp_path / "a").write_bytes(b"\x80\x02cnumpy\ndtype\n" + build)
    changed = _pickle._unpickle(tmp_path / "a")
    assert changed.__defaults__ == (1,)
    (tmp_path / "b").write_bytes(b"\x80\x02cnumpy\ndtype\n.")
    assert _pickle._unpickle(tmp_path / "b").__defaults__ is None


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x80\x02Nr\xff\xff\xff\xff.",  # the memo grows to its largest number
        b"\x80\x02Np4000000000\n.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",  # zeros, before the bytes are read
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b".",
        b"\x80\x02" + b"]" * 1_100_000 + b".",
    ],
)
def test_a_few_bytes_cannot_take_all_memory(tmp_path, bomb):
    with pytest.raises(ValueError, match="data_batch_1"):
        read(tmp_path, bomb)


def test_a_file_too_large_for_a_batch_is_not_read(tmp_path):
    with (tmp_path / "data_batch_1").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="at most"):
        read_batch(tmp_path / "data_batch_1")


PIXELS = np.zeros((2, 3072), "uint8")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "expected a dict, received list"),
        ({}, "`data` must be"),
        ({"data": PIXELS}, "`labels` must be"),
        ({"data": PIXELS, "labels": [1]}, "a list of 2 integers"),
        ({"data": PIXELS, "labels": [1, 10]}, "from 0 to 9"),
        ({"data": PIXELS, "labels": [1, True]}, "integers"),
        ({"data": PIXELS, "labels": {0: 1, 1: 1}}, "a list"),
        ({"data": PIXELS.astype("int8"), "labels": [1, 1]}, "uint8"),
        ({"data": PIXELS.astype(object), "labels": [1, 1]}, "uint8"),
        ({"data": PIXELS[:, :99], "labels": [1, 1]}, r"\(n, 3072\)"),
        ({"data": PIXELS.ravel(), "labels": [1, 1]}, r"\(n, 3072\)"),
        ({"data": PIXELS.tolist(), "labels": [1, 1]}, "an array"),
    ],
)
def test_other_content_is_refused(tmp_path, batch, message):
    with pytest.raises(ValueError, match=f"data_batch_1.*{message}"):
        read(tmp_path, batch)
