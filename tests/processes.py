"""Other processes that import this package, and these tests."""

import contextlib
import os
import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).parent


def environment(**variables):
    """What a process needs to import these files and the package that they test."""
    places = [str(TESTS), str(TESTS / "training"), str(TESTS.parent)]
    path = os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path} | variables


def in_another_process(code, **options):
    return subprocess.Popen([sys.executable, "-c", code], env=environment(), **options)


@contextlib.contextmanager
def used_by_another_process(folder):
    """A folder that another process has locked; the process is killed at the end of the block."""
    code = f"""if True:
        import time
        from hr_keras._core import files
        with files.lock_folder({str(folder)!r}):
            print("in", flush=True)
            time.sleep(600)"""
    process = in_another_process(code, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "in\n"
        yield
    finally:
        process.kill()
        process.communicate()
