import contextlib
import errno
import os
import signal
import subprocess
import sys

import pytest
from test_jobs import environment

from hr_keras._core import files
from hr_keras.experiments import alpha, runs, train_all
from hr_keras.experiments.protocol import from_preset

LOCKS = pytest.mark.skipif(files.fcntl is None, reason="needs fcntl")


def in_another_process(code, **options):
    return subprocess.Popen([sys.executable, "-c", code], env=environment(), **options)


@contextlib.contextmanager
def used_by_another_process(folder):
    """As long as the block runs; then it is killed."""
    code = f"""if True:
        import time
        from hr_keras import files
        with files.exclusive({str(folder)!r}):
            print("in", flush=True)
            time.sleep(600)"""
    process = in_another_process(code, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "in\n"
        yield
    finally:
        process.kill()
        process.communicate()


def write_and_be_killed(path):
    code = f"""if True:
        import os, signal
        from hr_keras import files
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        files.write_atomically({str(path)!r}, "content")"""
    assert in_another_process(code).wait() == -signal.SIGKILL


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_are_whole_or_not_there(tmp_path):
    path = tmp_path / "a" / "file.txt"
    files.write_atomically(path, "old")
    with pytest.raises(TypeError):
        files.write_atomically(path, 3)
    assert path.read_text() == "old"
    assert names(path.parent) == ["file.txt"]
    files.write_atomically(path, b"new")
    assert path.read_text() == "new"


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file.txt"
    files.write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@LOCKS
def test_what_a_killed_write_leaves_is_no_content_and_goes(tmp_path):
    folder = tmp_path / "run"
    write_and_be_killed(folder / "protocol.json")
    (leftover,) = names(folder)
    assert leftover.endswith("protocol.json")
    assert not files.holds_anything(folder)
    run = runs.Run(from_preset("quick"), folder)
    runs.plan(folder, None, ("mnist", "mnist10k"))
    alpha.plan(folder)
    with train_all.opened(runs.Plan(folder, [run])):
        assert names(folder) == ["protocol.json"]
    write_and_be_killed(folder / "protocol.json")
    (folder / ".notes").write_text("of the user's")
    with train_all.opened(runs.Plan(tmp_path, [run])):
        assert names(folder) == [".notes", "protocol.json"]


def test_only_our_own_temporary_files_are_no_content(tmp_path):
    for name in (".notes", ".protocol.json.original", "hr_keras-"):
        (tmp_path / name).touch()
        assert files.holds_anything(tmp_path)
        with files.exclusive(tmp_path):
            assert names(tmp_path) == [name]
        (tmp_path / name).unlink()


@LOCKS
def test_a_folder_is_for_one_process_however_that_ends(tmp_path):
    (tmp_path / ".hr_keras-being_written").touch()
    with files.exclusive(tmp_path):  # one process may ask again
        with files.exclusive(tmp_path / "..") as _, files.exclusive(tmp_path):
            pass
        assert not names(tmp_path)
    with used_by_another_process(tmp_path):
        (tmp_path / ".hr_keras-being_written").touch()
        with (
            pytest.raises(ValueError, match="another process is at work in"),
            files.exclusive(tmp_path),
        ):
            pass
        plan = runs.Plan(tmp_path, [runs.Run(from_preset("quick"), tmp_path)])
        with pytest.raises(ValueError, match="another process"), train_all.opened(plan):
            pass
        with pytest.raises(ValueError, match="another process"):
            train_all.run(*plan.runs[0])
        assert names(tmp_path) == [".hr_keras-being_written"]
    with files.exclusive(tmp_path):
        assert not names(tmp_path)


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def without(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".hr_keras-of_another").touch()
    for fcntl in (files.fcntl and type("fcntl", (), {**vars(files.fcntl), "flock": without}), None):
        monkeypatch.setattr(files, "fcntl", fcntl)
        with files.exclusive(tmp_path):
            assert names(tmp_path) == [".hr_keras-of_another"]
