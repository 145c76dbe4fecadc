"""What each command leaves behind: texts and pictures, written from saved results."""

import pathlib

from hr_keras import plots, report
from hr_keras.experiments import table as experiment
from hr_keras.files import write_atomically


def table(plan, results):
    """Write Table 1 and Figure 1 of each run, and one table of all where there are several.

    Args:
        plan: a `runs.Plan`.
        results: of `experiments.table.run`, a list for each run.

    Returns:
        The table of all as Markdown.
    """
    tables = [experiment.of(run.protocol, r) for run, r in zip(plan.runs, results, strict=True)]
    for run, one, of_run in zip(plan.runs, tables, results, strict=True):
        _table(run.folder, [one])
        title = f"FGSM with CE on the validation split: {_name(run)}"
        _write(run.folder, "figure", png=plots.accuracy_against_epoch(of_run, title))
    return _table(plan.folder, tables)


def _table(folder, tables):
    text = report.table_markdown(tables)
    _write(folder, "table", md=text, csv=report.table_csv(tables), json=report.table_json(tables))
    _write(folder, "claims", csv=report.claims_csv(tables))
    return text


def _write(folder, stem, **contents):
    for ending, content in contents.items():
        write_atomically(folder / f"{stem}.{ending}", content)


def _name(run):
    return pathlib.PurePath(run.protocol.dataset).stem
