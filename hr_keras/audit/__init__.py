"""Audit a saved classifier: its accuracy under attacks, and whether to believe it."""

from hr_keras.audit.report import write_audit
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
