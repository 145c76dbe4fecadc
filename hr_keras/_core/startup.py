"""TensorFlow's start in a process of ours: quiet, with a share of the cores."""

import os
import tempfile


def processors():
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def import_tensorflow(threads=None):
    """Import TensorFlow and keep its first messages, which no setting silences, off the terminal.

    If the import fails, they are shown.

    Args:
        threads: how many TensorFlow may use for one operation, and for operations at a time;
            `None`: as many as there are cores. It must not have begun to work.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryFile() as messages:
        stderr = os.dup(2)
        os.dup2(messages.fileno(), 2)
        try:
            import tensorflow as tf
        except BaseException:
            messages.seek(0)
            os.write(stderr, messages.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
