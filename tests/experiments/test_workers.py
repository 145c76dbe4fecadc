import errno
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from hr_keras._core.runtime import count_processors
from hr_keras.experiments import workers

TWO = pytest.mark.skipif(count_processors() < 2, reason="needs two cores")


def square(number, report):
    report(number)
    import tensorflow as tf

    threads = tf.config.threading.get_intra_op_parallelism_threads()
    return number**2, os.getpid(), threads


def meet(folder, name, report):
    """Returns only if the other one runs at the same time."""
    (folder / name).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    return name


class Unreceivable(Exception):
    """Pickles; what is unpickled is called with one argument."""

    def __init__(self, expected, received):
        super().__init__(f"expected {expected}, received {received}")


def fail(how, report):
    if how == "raise":
        raise ValueError("the 7th is wrong")
    if how == "full disk":
        raise OSError(errno.ENOSPC, "No space left on device")
    if how == "unreceivable":
        raise Unreceivable(7, 8)
    if how == "unsendable":
        error = KeyError("odd")
        error.lock = threading.Lock()
        raise error
    os.kill(os.getpid(), signal.SIGKILL)


def live(folder, report):
    """For ten minutes, and show it."""
    for _ in range(60_000):
        (folder / str(os.getpid())).touch()
        time.sleep(0.01)


def test_results_come_in_the_order_of_the_tasks_from_other_processes():
    reports = []
    results = workers.run_tasks(square, [(3,), (1,), (2,)], 1, lambda *call: reports.append(call))
    assert [value for value, _, _ in results] == [9, 1, 4]
    assert len({pid for _, pid, _ in results} | {os.getpid()}) == 2
    assert reports == [(0, 3), (1, 1), (2, 2)]
    assert {threads for _, _, threads in results} == {count_processors()}


@TWO
def test_tasks_run_at_the_same_time_with_a_share_of_the_cores_each(tmp_path):
    assert workers.run_tasks(meet, [(tmp_path, "a"), (tmp_path, "b")], 2) == ["a", "b"]
    results = workers.run_tasks(square, [(3,), (1,)], 2)
    assert {threads for _, _, threads in results} == {count_processors() // 2}
    ((_, _, threads),) = workers.run_tasks(square, [(3,)], 2)
    assert threads == count_processors() // 2  # the same for what an interrupted run has left
    assert workers.run_tasks(square, [], 2) == []


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("raise", ValueError, "the 7th is wrong"),
        ("full disk", OSError, "No space left on device"),
        ("unsendable", RuntimeError, "KeyError: 'odd'"),
        ("unreceivable", RuntimeError, r"raise Unreceivable\(7, 8\)\n.*expected 7, received 8"),
        ("die", workers.ProcessEnded, "before its task did"),
    ],
)
def test_what_goes_wrong_in_a_process_is_raised_here(how, kind, said):
    with pytest.raises(kind, match=said):
        workers.run_tasks(fail, [(how,)], 1)


@pytest.fixture
def interruptible():
    """Where a shell has started the tests in the background, they ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_no_process_outlives_an_interrupt(tmp_path):
    def interrupt():
        while not list(tmp_path.iterdir()):
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        workers.run_tasks(live, [(tmp_path,)], 1)
    (started,) = tmp_path.iterdir()
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.name), 0)


@pytest.mark.slow
def test_no_process_outlives_a_kill(tmp_path):
    code = (
        "import pathlib, test_workers; from hr_keras.experiments import workers; "
        f"workers.run_tasks(test_workers.live, [(pathlib.Path({str(tmp_path)!r}),)], 1)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=environment())
    while not (started := list(tmp_path.iterdir())):
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(2)  # to notice
    before = started[0].stat().st_mtime_ns
    time.sleep(1)
    assert started[0].stat().st_mtime_ns == before


def environment():
    """So that another process imports this file and the package that this one tests."""
    here = pathlib.Path(__file__).parent
    paths = [str(here), str(here.parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.parametrize("number", [0, -1, 10**6])
def test_more_jobs_than_cores_are_refused(number):
    with pytest.raises(ValueError, match=f"{count_processors()} cores.*{number}"):
        workers.check_jobs(number)
