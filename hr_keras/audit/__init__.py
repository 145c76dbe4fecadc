"""Audit a saved classifier: its accuracy under attacks, and whether to believe it."""

import pathlib

from hr_keras._core.files import write_atomically, write_json
from hr_keras.audit.pictures import adversarial_pictures, security_curve
from hr_keras.audit.run import ATTACKS, WORST_CASE, audit, audit_file, read_audit
from hr_keras.audit.text import audit_markdown, audit_name

__all__ = ["ATTACKS", "WORST_CASE", "audit", "audit_file", "read_audit", "write_audit"]


def write_audit(folder, result):
    """Writes an audit as `audit.json`, `audit.md` and pictures.

    Args:
        folder: Folder to write to.
        result: From `audit`.

    Returns:
        The text, Markdown.
    """
    folder, name = pathlib.Path(folder), audit_name(result)
    text = audit_markdown(result)
    write_json(folder / "audit.json", result)
    write_atomically(folder / "audit.md", text)
    pictures = {"curve": security_curve(result, f"Security curve: {name}")}
    if result["pictures"]:
        title = f"Fooled at ε = {result['protocol']['epsilon']:g}: {name}"
        pictures["pictures"] = adversarial_pictures(result, title)
    for stem, contents in pictures.items():
        for ending, content in contents.items():
            write_atomically(folder / f"{stem}.{ending}", content)
    return text
