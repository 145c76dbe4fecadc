"""Training under every synchronous `tf.distribute` strategy."""

from hr_keras.training.multi_worker import fit
from hr_keras.training.strategy import (
    STRATEGIES,
    any_worker,
    check_name,
    from_chief,
    get_strategy,
    is_chief,
    is_multi_worker,
)

__all__ = [
    "STRATEGIES",
    "any_worker",
    "check_name",
    "fit",
    "from_chief",
    "get_strategy",
    "is_chief",
    "is_multi_worker",
]
