"""The page for browsers: one HTML file from saved results alone, without TensorFlow."""

import os
import pathlib
from collections.abc import Sequence

from hr_keras._core.files import Path, write_atomically
from hr_keras.report.page import render_page
from hr_keras.report.reading import read_folders

__all__ = ["write_report"]


def write_report(folders: Path | Sequence[Path], output: Path | None = None) -> pathlib.Path:
    """Writes one HTML file that needs no network, no server and no JavaScript.

    It begins with what to believe, with the published and the honest numbers side by side. Then
    come all tables and figures, with their data to download.

    Args:
        folders: One or more of: run folders, folders of run folders, searches for α, audits.
        output: The file. Default `None`: `report.html` in the folder, or in the current folder
            where there are several.

    Returns:
        The path of the file.

    Raises:
        ValueError: If a folder holds none of these or results of two protocols, or a file in it
            is damaged. Nothing is written then.

    Example:
        ```python
        from hr_keras import audit, report

        result = audit.audit(model, x_test[:4], y_test[:4], epsilon=0.1, attacks="noise")
        audit.write_audit(tmp_path / "audit", result)
        path = report.write_report(tmp_path / "audit")
        ```
    """
    paths = [folders] if isinstance(folders, (str, os.PathLike)) else list(folders)
    if not paths:
        raise ValueError("`folders` must hold at least one folder. Received: []")
    if output is None:
        output = pathlib.Path(paths[0] if len(paths) == 1 else ".") / "report.html"
    write_atomically(output, render_page(read_folders([pathlib.Path(path) for path in paths])))
    return pathlib.Path(output)
