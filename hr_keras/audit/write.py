"""An audit as files in a folder."""

import pathlib

from hr_keras._core.files import Path, write_atomically
from hr_keras._core.rendering import render_figure
from hr_keras.audit.model_card import format_model_card
from hr_keras.audit.report import draw_curve, draw_pictures, find_name, format_audit
from hr_keras.audit.result import AuditResult

__all__ = ["write_audit"]


def write_audit(folder: Path, result: AuditResult) -> str:
    """Writes an audit as `audit.json`, `audit.md`, `model_card.md` and pictures.

    The model card begins with the block of metadata that Hugging Face reads.

    Args:
        folder: Folder to write to. Files of these names in it are overwritten, also a model card
            that was edited; pictures of an earlier audit are deleted.
        result: From `audit` or `read_audit`.

    Returns:
        The text, Markdown.

    Example:
        ```python
        from hr_keras import audit

        result = audit.audit(model, x_test[:4], y_test[:4], epsilon=0.1, attacks="noise")
        text = audit.write_audit("my_audit", result)
        ```
    """
    folder, name, text = pathlib.Path(folder), find_name(result), format_audit(result)
    write_atomically(folder / "audit.json", result.to_json())
    write_atomically(folder / "audit.md", text)
    write_atomically(folder / "model_card.md", format_model_card(result))
    figures = {"curve": draw_curve(result, f"Security curve: {name}")}
    if result.pictures:
        title = f"Fooled at ε = {result.protocol.epsilon:g}: {name}"
        figures["pictures"] = draw_pictures(result, title)
    else:
        for path in (folder / "pictures.png", folder / "pictures.svg"):
            path.unlink(missing_ok=True)
    for stem, figure in figures.items():
        for ending, content in render_figure(figure).items():
            write_atomically(folder / f"{stem}.{ending}", content)
    return text
