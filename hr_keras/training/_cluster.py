"""The cluster of `TF_CONFIG`: who is in it, and waiting for the other processes."""

import contextlib
import json
import socket
import sys
import time
from collections.abc import Collection, Iterable
from concurrent import futures
from typing import Any

# Seconds between two looks at the other workers, and after which a silent one counts as ended.
LOOK, SILENCE = 5.0, 15.0


def check_cluster(tf_config: str | None) -> tuple[list[str], str]:
    """Returns the addresses of all workers and that of this process.

    Raises:
        ValueError: If `TF_CONFIG` is missing or does not describe a cluster of workers.
    """
    expected = (
        "`TF_CONFIG` must say in JSON who the workers are and which one this process is, such as "
        '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, '
        '"task": {"type": "worker", "index": 0}}. '
    )
    if not tf_config:
        raise ValueError(f"{expected}It is not set.")
    try:
        config = json.loads(tf_config)
        kind, index = config["task"]["type"], int(config["task"]["index"])
        tasks = config["cluster"][kind]
        known = kind in ("chief", "worker") and 0 <= index < len(tasks)
        workers = [
            str(one) for name in ("chief", "worker") for one in config["cluster"].get(name, ())
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{expected}Received: TF_CONFIG={tf_config!r} ({error!r})") from error
    if not known:
        raise ValueError(
            f"{expected}The task must be a worker or the chief of the cluster. "
            f"Received: TF_CONFIG={tf_config!r}"
        )
    return workers, str(tasks[index])


def wait_for_workers(workers: list[str], own: str, seconds: float) -> None:
    """Waits until every other worker has answered once; TensorFlow would wait without an end.

    Meanwhile this process answers at its own address, as TensorFlow will do afterwards.

    Args:
        workers: Addresses, `"host:port"`.
        own: Address of this process.
        seconds: How long to wait.

    Raises:
        TimeoutError: If some do not answer in this time.
    """
    missing, told = [worker for worker in workers if worker != own], False
    end = time.monotonic() + seconds
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, ValueError):  # TensorFlow will say why
            stack.enter_context(socket.create_server(("", int(own.rpartition(":")[2]))))
        while missing := [worker for worker in missing if not _answers(worker)]:
            if time.monotonic() >= end:
                raise TimeoutError(
                    f"{', '.join(missing)} of TF_CONFIG did not answer within {seconds:g} seconds. "
                    "Start the same command there, check the addresses, or wait longer (`--wait`)."
                )
            if not told:
                who, told = ", ".join(missing), True
                print(f"Waiting up to {seconds:g} seconds for {who}", file=sys.stderr, flush=True)
            time.sleep(0.2)


def wait_beside_workers(work: Collection[futures.Future[Any]], others: Iterable[str]) -> None:
    """Waits for work of this process while the other workers answer at their addresses.

    TensorFlow tells that a worker has ended only where the workers exchange numbers.

    Args:
        work: What this process computes in other threads.
        others: Addresses of the other workers, `"host:port"`.

    Raises:
        tf.errors.UnavailableError: If one does not answer any more; it is named.
    """
    heard = dict.fromkeys(others, time.monotonic())
    while futures.wait(work, LOOK if heard else None).not_done:
        heard |= {address: time.monotonic() for address in heard if _answers(address)}
        for address, last in heard.items():
            if time.monotonic() - last > SILENCE:
                import tensorflow as tf

                message = f"Worker {address} ended: it does not answer any more."
                raise tf.errors.UnavailableError(None, None, message)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0) as connection:
            # A port that nobody listens at may be connected to itself.
            return bool(connection.getsockname() != connection.getpeername())
    except (OSError, ValueError, OverflowError):
        return False
