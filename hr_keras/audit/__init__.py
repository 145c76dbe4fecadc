"""Audit a saved classifier: its accuracy under attacks, and whether to believe it."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hr_keras.audit.result import (
        WORST_CASE,
        AuditedAttack,
        AuditedModel,
        AuditProtocol,
        AuditResult,
        AuditRow,
        EncodedImage,
        Picture,
        read_audit,
    )
    from hr_keras.audit.run import ATTACKS, audit, audit_file
    from hr_keras.audit.write import write_audit

__all__ = [
    "ATTACKS",
    "WORST_CASE",
    "AuditProtocol",
    "AuditResult",
    "AuditRow",
    "AuditedAttack",
    "AuditedModel",
    "EncodedImage",
    "Picture",
    "audit",
    "audit_file",
    "read_audit",
    "write_audit",
]

_MODULES = {"write": ("write_audit",), "run": ("ATTACKS", "audit", "audit_file")}


def __getattr__(name: str) -> Any:  # a saved audit is read without TensorFlow
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = [module for module, names in _MODULES.items() if name in names]
    return getattr(importlib.import_module(f"{__name__}.{(homes or ['result'])[0]}"), name)
