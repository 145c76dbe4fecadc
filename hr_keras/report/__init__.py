"""Text from saved results: Markdown, CSV and JSON. No model is ever needed here."""

from hr_keras._core.text import plain_text, rows_csv, to_json
from hr_keras.audit.text import audit_markdown, audit_name
from hr_keras.report.experiments import (
    alpha_markdown,
    bounds_markdown,
    confusion_markdown,
    convergence_markdown,
)
from hr_keras.report.table import (
    claims_csv,
    strong_csv,
    table_csv,
    table_json,
    table_markdown,
    unfinished_markdown,
    versions_markdown,
)

__all__ = [
    "alpha_markdown",
    "audit_markdown",
    "audit_name",
    "bounds_markdown",
    "claims_csv",
    "confusion_markdown",
    "convergence_markdown",
    "plain_text",
    "rows_csv",
    "strong_csv",
    "table_csv",
    "table_json",
    "table_markdown",
    "to_json",
    "unfinished_markdown",
    "versions_markdown",
]
