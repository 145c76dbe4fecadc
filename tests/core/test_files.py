import errno
import json
import math
import os
import signal
import subprocess

import filelock
import pytest
from processes import in_another_process, used_by_another_process

from hr_keras._core import files


def write_and_be_killed(path):
    code = f"""if True:
        import os, signal
        from hr_keras._core import files
        os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        files.write_atomically({str(path)!r}, "content")"""
    assert in_another_process(code).wait() == -signal.SIGKILL


def names(folder):
    """All but the lock."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".hr_keras-lock")


def test_files_are_whole_or_not_there(tmp_path):
    path = tmp_path / "a" / "file.txt"
    files.write_atomically(path, "old")
    with pytest.raises(TypeError):
        files.write_atomically(path, 3)
    assert path.read_text() == "old"
    assert names(path.parent) == ["file.txt"]
    files.write_atomically(path, b"new")
    assert path.read_text() == "new"


def test_json_is_whole_finite_and_readable_by_all(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"α": [1, None]})
    assert json.loads(path.read_text()) == {"α": [1, None]}
    assert path.read_text().endswith("}\n")
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, [math.nan])
    assert json.loads(path.read_text()) == {"α": [1, None]}


def test_a_full_disk_keeps_the_file_that_was_there(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file.txt"
    files.write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_half_written_file_is_no_content_and_the_next_lock_removes_it(tmp_path):
    folder = tmp_path / "run"
    write_and_be_killed(folder / "protocol.json")
    (leftover,) = names(folder)
    assert leftover.endswith("protocol.json")
    assert not files.holds_anything(folder)
    with files.lock_folder(folder):
        assert not names(folder)
        assert not files.holds_anything(folder)  # nor is the lock content


def test_only_temporary_files_of_this_package_are_no_content(tmp_path):
    for name in (".notes", ".protocol.json.original", "hr_keras-"):
        (tmp_path / name).touch()
        assert files.holds_anything(tmp_path)
        with files.lock_folder(tmp_path):
            assert names(tmp_path) == [name]
        (tmp_path / name).unlink()


def test_one_process_at_a_time_and_a_killed_one_frees_the_folder(tmp_path):
    (tmp_path / ".hr_keras-being_written").touch()
    with files.lock_folder(tmp_path):  # within a process the calls may be nested
        (tmp_path / ".hr_keras-ours").touch()
        with files.lock_folder(tmp_path / ".." / tmp_path.name), files.lock_folder(tmp_path):
            assert names(tmp_path) == [".hr_keras-ours"]
        code = f"from hr_keras._core import files\nfiles.lock_folder({str(tmp_path)!r}).__enter__()"
        process = in_another_process(code, stderr=subprocess.PIPE, text=True)
        assert "another process is at work in" in process.communicate()[1]
    with used_by_another_process(tmp_path):
        (tmp_path / ".hr_keras-of_another").touch()
        with (
            pytest.raises(ValueError, match="another process is at work in"),
            files.lock_folder(tmp_path),
        ):
            pass
        assert names(tmp_path) == [".hr_keras-of_another"]
    with files.lock_folder(tmp_path):
        assert not names(tmp_path)


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def without(*_, **__):
        raise OSError(errno.ENOLCK, "No locks available")

    (tmp_path / ".hr_keras-of_another").touch()
    monkeypatch.setattr(filelock.FileLock, "acquire", without)
    with files.lock_folder(tmp_path):
        assert names(tmp_path) == [".hr_keras-of_another"]


def test_links_to_nothing_are_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "gone").symlink_to(tmp_path / "nothing")
    for name in ("loop", "gone"):
        lock = files.lock_folder(tmp_path / name)
        with pytest.raises(ValueError, match="link to itself or to nothing"), lock:
            pass


def test_a_file_in_place_of_the_folder_is_for_the_caller_to_report(tmp_path):
    path = tmp_path / "file"
    path.write_text("content")
    with files.lock_folder(path):
        assert path.read_text() == "content"
