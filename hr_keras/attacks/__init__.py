"""Attacks: an attack is a value, `attack(model, images, labels)` → adversarial images."""

from hr_keras.attacks.ensemble import WorstCase
from hr_keras.attacks.fgsm import FGSM
from hr_keras.attacks.pgd import PGD, MomentumPGD

__all__ = ["FGSM", "PGD", "MomentumPGD", "WorstCase"]
