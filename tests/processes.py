"""Other processes that import this package, and these tests."""

import contextlib
import os
import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).parent


def environment(**variables):
    """What a process needs to import these files and the package that they test."""
    places = [str(TESTS), *map(str, TESTS.glob("[a-z]*/")), str(TESTS.parent)]
    path = os.pathsep.join([*places, os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path} | variables


def in_another_process(code, *arguments, **options):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment(), **options)


def output_of(code, *arguments):
    """What code prints in another process."""
    process = in_another_process(
        code, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    return printed


@contextlib.contextmanager
def used_by_another_process(folder):
    """A folder that another process has locked; the process is killed at the end of the block."""
    code = """if True:
        import sys, time
        from hr_keras._core import files
        with files.lock_folder(sys.argv[1]):
            print("in", flush=True)
            time.sleep(600)"""
    process = in_another_process(code, folder, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "in\n"
        yield
    finally:
        process.kill()
        process.communicate()
