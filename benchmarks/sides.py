"""Contestants that work each in a process of their own, all with the same number of threads."""

import concurrent.futures
import multiprocessing
import os
import time

_THREADS = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
_contestant = None  # of this process


class Side:
    """A process that makes a contestant once and then calls it.

    Args:
        make: Function of a module, called in the process; returns the contestant, a function.
        arguments: Its arguments. They are pickled.
        threads: Of TensorFlow and of torch.

    Raises:
        Exception: Whatever `make` raises there.
    """

    def __init__(self, make, *arguments, threads=1):
        os.environ |= dict.fromkeys(_THREADS, str(threads))  # read when the process imports them
        context = multiprocessing.get_context("spawn")
        self._process = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
        try:
            self._process.submit(_make, make, arguments).result()
        except BaseException:
            self.close()
            raise

    def __call__(self, *arguments):
        """Calls the contestant: its result, and its seconds by each of the two clocks."""
        return self._process.submit(_call, arguments).result()

    def close(self):
        self._process.shutdown()


def start_all(makers, *arguments, threads=1):
    """The sides that start, by name, and a row with the error of each that does not."""
    running, rows = {}, []
    for name, make in makers.items():
        try:
            running[name] = Side(make, *arguments, threads=threads)
        except Exception as error:
            message = (str(error).splitlines() or [""])[0]
            error = f"{type(error).__name__}: {message}"
            rows.append({"title": "did not run", "name": name, "error": error})
            print(f"{name} did not run: {error}", flush=True)
    return running, rows


def compare(sides, repeats, clock="wall"):
    """Calls the sides in turn, after one warm-up each: seconds, a list a name, and last results."""
    found = {name: side()[0] for name, side in sides.items()}
    seconds = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            found[name], took = side()
            seconds[name].append(took[clock])
    return seconds, found


def _make(make, arguments):
    global _contestant
    _contestant = make(*arguments)


def _call(arguments):
    wall, processor = time.perf_counter(), time.process_time()
    result = _contestant(*arguments)
    return result, {
        "wall": time.perf_counter() - wall,
        "processor": time.process_time() - processor,
    }
