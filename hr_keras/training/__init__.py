"""Training under every synchronous `tf.distribute` strategy, and adversarial training."""

from hr_keras._core.checks import STRATEGIES
from hr_keras.training.adversarial import MART, TRADES, AdversarialTraining
from hr_keras.training.multi_worker import fit
from hr_keras.training.strategy import (
    any_worker,
    check_strategy,
    find_worker,
    from_chief,
    get_strategy,
    is_chief,
    is_multi_worker,
)

__all__ = [
    "MART",
    "STRATEGIES",
    "TRADES",
    "AdversarialTraining",
    "any_worker",
    "check_strategy",
    "find_worker",
    "fit",
    "from_chief",
    "get_strategy",
    "is_chief",
    "is_multi_worker",
]
