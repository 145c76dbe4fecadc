"""Files that are written whole or not at all, and folders that one process at a time writes to."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import filelock

Path = str | os.PathLike[str]

_TEMPORARY = ".hr_keras-"  # the beginning of every file name that is not a result
_LOCK = f"{_TEMPORARY}lock"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes `content` to `path` so that a reader sees the old file or the new, never a part.

    Args:
        path: Where to write. The folder is made if missing.
        content: Bytes, or text, which is encoded as UTF-8.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, as all result files are written; see `write_atomically`.

    Raises:
        ValueError: If a number in `value` is not finite.
    """
    write_atomically(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
    """Yields a temporary file that replaces `path` if the block ends without an error.

    The temporary file is in the same folder. It is flushed to the disk and then renamed. If
    anything fails before that, `path` is unchanged.

    Args:
        path: The file to replace. Its folder is made if missing.

    Example:

    ```python
    from hr_keras._core import files

    with files.replacing(tmp_path / "model.keras") as temporary:
        model.save(temporary)
    ```
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Keras chooses a file format by the end of the name, so the end stays.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY, suffix=f"-{path.name}")
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would hide results from others
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def holds_anything(folder: Path, *names: str) -> bool:
    """Returns whether a folder holds more than our lock, half-written files and these names."""
    paths = pathlib.Path(folder).iterdir()
    return any(not path.name.startswith(_TEMPORARY) and path.name not in names for path in paths)


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keeps other processes that call this out of a folder until the block ends.

    The lock ends with the process, however the process ends. Half-written files of killed
    processes are removed. Within a process the calls may be nested. On file systems without
    locks, and for a `folder` that is a file, this does nothing.

    Args:
        folder: Made if missing.

    Raises:
        ValueError: If another process holds the lock, or the folder is a link to nothing.
    """
    folder = pathlib.Path(folder)
    with contextlib.suppress(FileExistsError):  # a file: the caller reports what it expected
        folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink() and not folder.exists():
        raise ValueError(
            f"{folder} is a link to itself or to nothing. Choose another output folder."
        )
    folder = folder.resolve()
    # One lock object per folder and process: it counts nested calls.
    lock = filelock.FileLock(folder / _LOCK, timeout=0, thread_local=False, is_singleton=True)
    if not _acquire(lock, folder):
        yield
        return
    try:
        if lock.lock_counter == 1:
            _remove_half_written(folder)
        yield
    finally:
        lock.release()


def _acquire(lock: filelock.BaseFileLock, folder: pathlib.Path) -> bool:
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ValueError(
            f"another process is at work in {folder}. Wait until it has ended, or choose another "
            "output folder. Nothing in the folder was changed."
        ) from None
    except (OSError, NotImplementedError):  # no locks there, or `folder` is a file
        return False
    return True


def _remove_half_written(folder: pathlib.Path) -> None:
    for path in folder.glob(f"{_TEMPORARY}*"):
        if path.name != _LOCK:
            path.unlink()
