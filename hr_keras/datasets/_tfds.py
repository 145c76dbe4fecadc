"""Data sets of tensorflow-datasets, which it downloads where it has none."""

import os
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterable

import numpy as np


def read_tfds(
    name: str, data_dir: str | os.PathLike[str] | None, searched: str
) -> list[np.ndarray]:
    """Returns x_train, y_train, x_test, y_test.

    Args:
        name: Name of the data set.
        data_dir: Its folder; `None` for the default of tensorflow-datasets.
        searched: What was looked for before, for the message.

    Raises:
        ValueError: If the data set is not there and cannot be downloaded.
    """
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=data_dir)
    try:
        if not builder.is_prepared():
            _check_reachable(builder.url_infos)
            builder.download_and_prepare()
    except ImportError:
        raise
    except Exception as error:  # network, checksum, disk: TFDS raises many types of errors
        where = os.path.dirname(os.path.dirname(builder.data_dir))
        raise ValueError(
            f"Dataset {name!r} was not found. Looked for {searched}; and for {name} of "
            f"tensorflow-datasets in {where}, where it could not be downloaded "
            f"({type(error).__name__}: {error}). Pass the folder of these files as `data_dir`, "
            "or the path of an .npz file with x_train, y_train, x_test, y_test."
        ) from error
    splits = [
        tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, as_supervised=True))
        for split in ("train", "test")
    ]
    return [array for split in splits for array in split]


def _check_reachable(urls: Iterable[str]) -> None:
    """Fails at once if a host has no address: TFDS would retry for minutes."""
    if urllib.request.getproxies():
        return
    for host in {urllib.parse.urlsplit(url).hostname for url in urls}:
        if host is not None:
            socket.getaddrinfo(host, None)
