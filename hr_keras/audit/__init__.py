"""Audit a saved classifier: what attacks leave of its accuracy, and whether to believe that."""

from hr_keras.audit.run import ATTACKS, WORST_CASE, audit, read, saved

__all__ = ["ATTACKS", "WORST_CASE", "audit", "read", "saved"]
