"""What a result was made with."""

import platform

from hr_keras._core import startup


def versions():
    """Versions, and what else the last bits of a result depend on, a dict."""
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
        "threads": threads(),
    }


def threads():
    """How many threads TensorFlow has for one operation: on a CPU, sums round by it."""
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads() or startup.processors()
