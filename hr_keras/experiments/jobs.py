"""Realizations in processes of their own, several at once.

A small model can't keep many cores busy: on two cores, two processes of one thread each train
two models faster than one process of two threads trains one after the other.
"""

import contextlib
import multiprocessing
import os
import pickle
import threading
import traceback
from multiprocessing import connection

from hr_keras._core import runtime


class ProcessEnded(RuntimeError):
    """A process ended before its task did, such as by the system, for lack of memory."""


def threads_each(jobs):
    """How many threads each of so many jobs has, however few of them have something to do."""
    return max(1, runtime.count_processors() // jobs)


def jobs_for(threads):
    """The number of jobs with so many threads each; `None` where there is none."""
    fitting = (
        jobs for jobs in range(1, runtime.count_processors() + 1) if threads_each(jobs) == threads
    )
    return next(fitting, None)


def check(jobs):
    """The number itself; a ValueError unless it is from 1 to the number of cores."""
    if not 1 <= jobs <= runtime.count_processors():
        raise ValueError(
            f"`jobs` must be from 1 to the {runtime.count_processors()} cores of this machine. "
            f"Received: {jobs}"
        )
    return jobs


def run(function, tasks, jobs, on_report=None):
    """`[function(*task, report) for task in tasks]`, by `jobs` processes.

    Each process has its share of the cores as TensorFlow threads. The number of threads
    changes the last bits of what is trained.

    Args:
        function: importable by name. Its last argument, `report(value)`, passes a value on to
            `on_report`.
        tasks: tuples of arguments that can be pickled.
        jobs: number of processes.
        on_report: called as `on_report(k, value)` in this process, k the index of the task.

    Returns:
        What the function returned, in the order of the tasks.

    Raises:
        ProcessEnded: if a process ended before its task did.
        Exception: what the function raised; a RuntimeError with its text and traceback where it
            can't be sent from process to process. The other processes are stopped.

    Example:
        >>> tasks = [(protocol, loss, 0, folder, None) for loss in ("ce", "hr")]
        >>> jobs.run(realization.run, tasks, jobs=2)
    """
    if not tasks:
        return []
    results = [None] * len(tasks)
    waiting = iter(enumerate(tasks))
    with _workers(function, min(jobs, len(tasks)), threads_each(jobs)) as workers:
        busy = {}

        def give(worker):
            for k, task in waiting:
                busy[worker] = k
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    worker.send(task)  # to one that has ended: `_message` will see it
                return

        for worker in workers:
            give(worker)
        while busy:
            for worker in connection.wait(list(busy)):
                kind, value = _message(worker, workers[worker])
                if kind == "failed":
                    raise value
                if kind == "report" and on_report is not None:
                    on_report(busy[worker], value)
                if kind == "done":
                    results[busy.pop(worker)] = value
                    give(worker)
    return results


def _message(worker, process):
    try:
        return worker.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        raise ProcessEnded(
            f"a process ended before its task did, with exit code {process.exitcode} (below 0: "
            "killed, as by the system for lack of memory). What is done is kept; the same command "
            "goes on from there."
        ) from None


@contextlib.contextmanager
def _workers(function, count, threads):
    """Connections to `count` processes, which end with this block whatever they are doing.

    Yields a dict, `{connection: process}`.
    """
    spawn = multiprocessing.get_context("spawn")  # TensorFlow's threads don't survive a fork
    workers = {}
    try:
        for _ in range(count):
            here, there = spawn.Pipe()
            process = spawn.Process(target=_work, args=(there, threads), daemon=True)
            process.start()
            workers[here] = process
            there.close()  # so that the end of the process ends the connection
            here.send(function)
        yield workers
    finally:
        for process in workers.values():
            process.kill()  # files are written whole or not at all
        for process in workers.values():
            process.join()


def _work(parent, threads):
    """Do tasks of a function, the first thing that comes, until there is no parent any more."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runtime.import_tensorflow(threads)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        function = parent.recv()  # only now, as it may import TensorFlow
        while True:
            task = parent.recv()
            try:
                result = function(*task, lambda value: parent.send(("report", value)))
            except (BrokenPipeError, ConnectionResetError):
                raise
            except Exception as error:
                _send_error(parent, error)
            else:
                parent.send(("done", result))


def _end_with_parent():
    """However it ends, kill -9 included: no two processes may train the same model."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _send_error(parent, error):
    error.add_note(traceback.format_exc())
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # some errors can't be sent, others not be received
        error = RuntimeError("".join(traceback.format_exception(error)))
    parent.send(("failed", error))
