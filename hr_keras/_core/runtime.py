"""How TensorFlow starts in our processes, and what the last bits of a result depend on.

Importing this module imports neither Keras nor TensorFlow.
"""

import os
import platform
import tempfile


def count_processors() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def import_tensorflow(threads: int | None = None) -> None:
    """Imports TensorFlow and hides its first messages, which no setting silences.

    If the import fails, the messages are shown.

    Args:
        threads: Number of threads for one operation, and of operations at a time. TensorFlow
            must not have run an operation before. Default `None`: all cores.
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


def count_threads() -> int:
    """Returns how many threads TensorFlow uses for one operation: they change rounding."""
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads() or count_processors()


def collect_versions() -> dict[str, str | int]:
    """Returns the versions, the kind of machine and the threads that a result is made with."""
    import keras
    import numpy as np
    import tensorflow as tf

    from hr_keras import __version__

    return {
        "hr_keras": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": count_threads(),
    }
