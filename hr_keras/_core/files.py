"""Files that are either whole or not there, in folders that one process at a time writes to."""

import contextlib
import os
import pathlib
import tempfile

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_TEMPORARY = ".hr_keras-"  # what begins so is ours, and nobody's work

_mine = set()  # folders that this process has to itself


def write_atomically(path, content):
    """Write `content` to `path` so that a reader sees the old file or the new, never a part.

    Args:
        path: where to; its folder is made if missing.
        content: bytes, or text to be encoded as UTF-8.
    """
    data = content.encode() if isinstance(content, str) else content
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path):
    """A file to write in place of `path`, which it becomes if the block ends well.

    It is in the same folder, and is flushed to the disk and then renamed. If anything fails on
    the way, what was there stays.

    Args:
        path: what to replace; its folder is made if missing.

    Example:
        >>> with files.replacing("model.keras") as temporary:
        ...     model.save(temporary)
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The end of the name stays: Keras goes by it.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY, suffix=f"-{path.name}")
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        _flush(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would hide results from others
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _flush(path):
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def holds_anything(folder):
    """Whether a folder holds more than what a killed process has left half written."""
    return any(not path.name.startswith(_TEMPORARY) for path in pathlib.Path(folder).iterdir())


@contextlib.contextmanager
def exclusive(folder):
    """Keep other processes that call this out of a folder until the block ends.

    However this process ends, the folder is free again. What killed processes have left half
    written there is removed. Within a process the calls may be nested. Where the system or the
    file system has no locks, nothing happens.

    Args:
        folder: made if missing.

    Raises:
        ValueError: if another process has it.
    """
    folder = pathlib.Path(folder)
    with contextlib.suppress(FileExistsError):  # a file: the caller will say what it wanted
        folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    if fcntl is None or folder in _mine:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)  # the folder itself: a lock leaves no file behind
    try:
        if _lock(descriptor, folder):
            _mine.add(folder)
            for path in folder.glob(f"{_TEMPORARY}*"):
                path.unlink()
        yield
    finally:
        _mine.discard(folder)
        os.close(descriptor)


def _lock(descriptor, folder):
    """Whether the folder is locked now; a ValueError where another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(
            f"another process is at work in {folder}. Wait until it has ended, or choose another "
            "output folder; nothing there was changed."
        ) from None
    except OSError:  # some network file systems have no locks
        return False
    return True
