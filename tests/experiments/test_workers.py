import errno
import os
import signal
import threading
import time

import pytest
from processes import in_another_process

from hr_keras._core.runtime import count_processors
from hr_keras.experiments import workers

TWO = pytest.mark.skipif(count_processors() < 2, reason="needs two cores")


def start_without_tensorflow(alive, threads, reports):
    """In place of `_start_worker`: seconds faster, and a task finds its threads in `given`."""
    global given
    given = threads
    workers.import_tensorflow = lambda _: None
    start_worker(alive, threads, reports)


start_worker, given = workers._start_worker, None


@pytest.fixture
def light(monkeypatch):
    monkeypatch.setattr(workers, "_start_worker", start_without_tensorflow)


def square(number, report):
    report(number)
    return number**2, os.getpid(), given


def count_threads_of_tensorflow(report):
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads()


def meet(folder, name, report):
    """Returns only if the other one runs at the same time."""
    (folder / name).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.01)
    return name, given


class Unreceivable(Exception):
    """Pickles; what is unpickled is called with one argument."""

    def __init__(self, expected, received):
        super().__init__(f"expected {expected}, received {received}")


def fail(how, report):
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


@pytest.mark.usefixtures("light")
def test_results_come_in_the_order_of_the_tasks_from_other_processes():
    reports = []
    results = workers.run_tasks(square, [(3,), (1,), (2,)], 1, lambda *call: reports.append(call))
    assert [value for value, _, _ in results] == [9, 1, 4]
    assert len({pid for _, pid, _ in results} | {os.getpid()}) == 2
    assert reports == [(0, 3), (1, 1), (2, 2)]
    assert {threads for _, _, threads in results} == {count_processors()}
    assert workers.run_tasks(square, [], 1) == []


@TWO
@pytest.mark.usefixtures("light")
def test_tasks_run_at_the_same_time_with_a_share_of_the_cores_each(tmp_path):
    share = count_processors() // 2
    results = workers.run_tasks(meet, [(tmp_path, "a"), (tmp_path, "b")], 2)
    assert results == [("a", share), ("b", share)]
    ((_, _, threads),) = workers.run_tasks(square, [(3,)], 2)
    assert threads == share  # the same for what an interrupted run has left


def test_tensorflow_uses_the_threads_of_its_process():
    jobs = count_processors()
    assert workers.run_tasks(count_threads_of_tensorflow, [()], jobs) == [1]


@pytest.mark.usefixtures("light")
@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("full disk", OSError, "No space left on device"),
        ("unreceivable", RuntimeError, r"raise Unreceivable\(7, 8\)\n.*expected 7, received 8"),
        ("unsendable", RuntimeError, "KeyError: 'odd'"),
        ("die", workers.ProcessEnded, "before its task did, with exit code -9"),
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


@pytest.mark.usefixtures("interruptible", "light")
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
    process = in_another_process(code)
    while not (started := list(tmp_path.iterdir())):
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(2)  # to notice
    before = started[0].stat().st_mtime_ns
    time.sleep(1)
    assert started[0].stat().st_mtime_ns == before


@pytest.mark.parametrize("number", [0, -1, 10**6])
def test_more_jobs_than_cores_are_refused(number):
    with pytest.raises(ValueError, match=f"{count_processors()} cores.*{number}"):
        workers.check_jobs(number)
