"""Attacks: an attack is a value, `attack(model, images, labels)` → adversarial images."""

from hr_keras.attacks.fgsm import FGSM

__all__ = ["FGSM"]
