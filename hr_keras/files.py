"""Files that are either whole or not there."""

import os
import pathlib
import tempfile


def write_atomically(path, content):
    """Write `content` to `path` so that a reader sees the old file or the new, never a part.

    The content goes to a temporary file in the same folder, is flushed to the disk and
    then renamed. If anything fails on the way, what was there stays.

    Args:
        path: where to; its folder is made if missing.
        content: bytes, or text to be encoded as UTF-8.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp's 0600 would hide results from others
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
