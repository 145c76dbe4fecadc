"""Training under every synchronous `tf.distribute` strategy."""

from hr_keras._core.checks import STRATEGIES
from hr_keras.training.multi_worker import fit
from hr_keras.training.strategy import (
    any_worker,
    check_strategy,
    from_chief,
    get_strategy,
    is_chief,
    is_multi_worker,
)

__all__ = [
    "STRATEGIES",
    "any_worker",
    "check_strategy",
    "fit",
    "from_chief",
    "get_strategy",
    "is_chief",
    "is_multi_worker",
]
