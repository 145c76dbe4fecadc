"""Tasks in several processes at once, each with its share of the cores.

A small model cannot keep many cores busy: on two cores, two processes of one thread each train
two models faster than one process of two threads trains one after the other.
"""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from hr_keras._core.runtime import count_processors, import_tensorflow


class ProcessEnded(RuntimeError):
    """A process ended before its task did, for example because memory ran out."""


def count_threads_each(jobs: int) -> int:
    """Returns the number of threads of each of so many jobs."""
    return max(1, count_processors() // jobs)


def find_jobs(threads: int) -> int | None:
    """Returns the number of jobs that gives each so many threads; `None` if there is none."""
    counts = range(1, count_processors() + 1)
    return next((jobs for jobs in counts if count_threads_each(jobs) == threads), None)


def check_jobs(jobs: int) -> int:
    """Returns `jobs` if it is between 1 and the number of cores.

    Raises:
        ValueError: Otherwise.
    """
    if not 1 <= jobs <= count_processors():
        raise ValueError(
            f"`jobs` must be from 1 to the {count_processors()} cores of this machine. "
            f"Received: {jobs}"
        )
    return jobs


def run_tasks(
    function: Callable[..., Any],
    tasks: list[tuple[Any, ...]],
    jobs: int,
    on_report: Callable[[int, Any], None] | None = None,
) -> list[Any]:
    """Computes `function(*task, report)` for every task in `jobs` processes.

    Each process gets its share of the cores as TensorFlow threads; the number of threads changes
    the last bits of what is trained. All processes end with this one, however it ends.

    Args:
        function: Importable by name. Its last argument, `report(value)`, passes a value on to
            `on_report`.
        tasks: Tuples of arguments that can be pickled.
        jobs: Number of processes.
        on_report: Called as `on_report(k, value)` in this process, k the index of the task.

    Returns:
        What the function returned, in the order of the tasks.

    Raises:
        ProcessEnded: If a process ended before its task did.
        Exception: What the function raised, with its traceback; a RuntimeError with its text
            where it cannot be sent between processes. The other processes are stopped.
    """
    if not tasks:
        return []
    reports: Any = multiprocessing.get_context("spawn").Queue()

    def pass_on(timeout: float) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                k, value = reports.get(timeout=timeout)
                if on_report is not None:
                    on_report(k, value)

    with _start_pool(min(jobs, len(tasks)), count_threads_each(jobs), reports) as pool:
        pending = [pool.submit(_run_task, function, task, k) for k, task in enumerate(tasks)]
        processes = multiprocessing.active_children()
        try:
            while not all(one.done() for one in pending):
                pass_on(timeout=0.2)
                for one in pending:
                    if one.done() and one.exception() is not None:
                        one.result()
            pass_on(timeout=0.01)
            return [one.result() for one in pending]
        except BrokenProcessPool as error:
            # The pool terminates the others.
            codes = {one.exitcode for one in processes} - {None, 0, -signal.SIGTERM}
            raise ProcessEnded(
                "a process ended before its task did, with exit code "
                f"{', '.join(map(str, codes)) or 'unknown'} (it may have been killed, for example "
                "because memory ran out). Finished results are kept; run the same command again "
                "to resume."
            ) from error


@contextlib.contextmanager
def _start_pool(count: int, threads: int, reports: Any) -> Iterator[futures.ProcessPoolExecutor]:
    spawn = multiprocessing.get_context("spawn")  # TensorFlow's threads do not survive a fork
    # A pipe whose other end is never written to. It breaks when this process closes it or ends.
    alive, ours = spawn.Pipe(duplex=False)
    pool = futures.ProcessPoolExecutor(
        count, mp_context=spawn, initializer=_start_worker, initargs=(alive, threads, reports)
    )
    try:
        yield pool
    except BaseException:
        ours.close()  # the workers end at once; files are written whole or not at all
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        ours.close()
        alive.close()


_reports: Any = None  # in a worker: the queue to this process' parent


def _start_worker(alive: Any, threads: int, reports: Any) -> None:
    global _reports
    _reports = reports
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
    import_tensorflow(threads)


def _end_with_parent(alive: Any) -> None:
    """No two processes may train the same model, so none outlives the parent."""
    with contextlib.suppress(EOFError, OSError):
        alive.recv()
    os._exit(1)


def _run_task(function: Callable[..., Any], task: tuple[Any, ...], k: int) -> Any:
    try:
        return function(*task, lambda value: _reports.put((k, value)))
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # some errors cannot be sent, others not be received
            raise RuntimeError("".join(traceback.format_exception(error))) from None
        raise
