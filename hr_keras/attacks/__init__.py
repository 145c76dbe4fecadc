"""Attacks are frozen values: `attack(model, images, labels)` makes adversarial images."""

from hr_keras.attacks import objectives
from hr_keras.attacks._attack import Attack
from hr_keras.attacks._iterative import IterativeAttack
from hr_keras.attacks._task import Outcome, State, Task
from hr_keras.attacks.apgd import APGD
from hr_keras.attacks.fab import FAB
from hr_keras.attacks.fgsm import FGSM
from hr_keras.attacks.noise import Noise
from hr_keras.attacks.pgd import PGD, MomentumPGD
from hr_keras.attacks.square import Square
from hr_keras.attacks.transfer import Transfer
from hr_keras.attacks.worst_case import WorstCase, fast, standard

__all__ = [
    "APGD",
    "FAB",
    "FGSM",
    "PGD",
    "Attack",
    "IterativeAttack",
    "MomentumPGD",
    "Noise",
    "Outcome",
    "Square",
    "State",
    "Task",
    "Transfer",
    "WorstCase",
    "fast",
    "objectives",
    "standard",
]
