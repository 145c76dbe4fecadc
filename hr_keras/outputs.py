"""What each command leaves behind: texts and pictures, written from saved results."""

import dataclasses
import pathlib

from hr_keras import plots, report
from hr_keras._core.files import write_atomically
from hr_keras.experiments import alpha as alpha_experiment
from hr_keras.experiments import bounds as bounds_experiment
from hr_keras.experiments import confusion as confusion_experiment
from hr_keras.experiments import convergence, strong
from hr_keras.experiments import table as table_experiment


def table(plan, results, attacks=(), examples=None, data_dir=None):
    """Write Table 1 and Figure 1 of each run, and one table of all where there are several.

    Args:
        plan: a `runs.Plan`.
        results: of `experiments.train_all.run`, a list for each run.
        attacks: names of stronger attacks, see `experiments.strong`; the models of results
            that lack one are put under it.
        examples: how many test images these attack; `None`: all.
        data_dir: where tensorflow-datasets has its data.

    Returns:
        The table of all as Markdown.
    """
    for attack in attacks:
        results = [
            [
                strong.completed(run.protocol, one, attack, examples, run.folder, data_dir)
                for one in saved
            ]
            for run, saved in zip(plan.runs, results, strict=True)
        ]
    tables = [
        table_experiment.of(run.protocol, saved)
        for run, saved in zip(plan.runs, results, strict=True)
    ]
    notes = [
        report.unfinished_markdown(strong.unfinished(saved), len(saved))
        + report.versions_markdown(saved)
        for saved in results
    ]
    for run, one, saved, note in zip(plan.runs, tables, results, notes, strict=True):
        _table(run.folder, [one], note)
        _figure(run, saved)
    return _table(plan.folder, tables, "".join(dict.fromkeys(notes)))


def _table(folder, tables, note):
    text = report.table_markdown(tables) + note
    _write(folder, "table", md=text, csv=report.table_csv(tables), json=report.table_json(tables))
    _write(folder, "claims", csv=report.claims_csv(tables))
    if any(table.strong for table in tables):
        _write(folder, "strong", csv=report.strong_csv(tables))
    else:  # of fewer realizations
        (folder / "strong.csv").unlink(missing_ok=True)
    return text


def _figure(run, results):
    title = f"FGSM with CE on the validation split: {_name(run)}"
    _write(run.folder, "figure", **plots.accuracy_against_epoch(results, title))


def figure(plan, results, accuracies=()):
    """Write Figure 1 of each run, and the epochs to reach validation accuracies.

    Args:
        plan, results: as in `table`.
        accuracies: to reach; see `experiments.convergence`.

    Returns:
        The latter as Markdown.
    """
    texts = []
    for run, saved in zip(plan.runs, results, strict=True):
        rows = convergence.convergence(saved, run.protocol.dataset, accuracies)
        _figure(run, saved)
        texts.append(_rows(run.folder, "convergence", report.convergence_markdown(run, rows), rows))
    return "\n".join(texts)


def confusion(plan, results, epsilon=0.1, data_dir=None):
    """Write the confusion matrices of each run, and their distances from the identity.

    Args:
        plan, results: as in `table`.
        epsilon: size of the CE attack.
        data_dir: where tensorflow-datasets has its data.

    Returns:
        The distances as Markdown.
    """
    texts = []
    for run, saved in zip(plan.runs, results, strict=True):
        found = confusion_experiment.confusions(run, saved, epsilon, data_dir)
        title = f"Mean softmax on the test images, FGSM with CE at ε = {epsilon:g}: {_name(run)}"
        _write(run.folder, "confusion", **plots.confusion_matrices(found, title))
        texts.append(_rows(run.folder, "confusion", report.confusion_markdown(run, found), found))
    return "\n".join(texts)


def bounds(plan, results, data_dir=None):
    """Write the bounds of each run.

    Args:
        plan, results: as in `table`.
        data_dir: where tensorflow-datasets has its data.

    Returns:
        The bounds as Markdown.
    """
    texts = []
    for run, saved in zip(plan.runs, results, strict=True):
        upper = bounds_experiment.upper_bounds(run, saved, data_dir)
        lower = bounds_experiment.lower_bounds(run, saved, data_dir)
        title = f"Probability of error and its upper bound: {_name(run)}"
        text = report.bounds_markdown(run, upper, lower)
        _write(run.folder, "bounds", **plots.error_bounds(saved, upper, title))
        _write(
            run.folder,
            "bounds",
            md=text,
            csv=report.rows_csv(upper),
            json=report.to_json(
                {
                    "upper": list(map(dataclasses.asdict, upper)),
                    "lower": list(map(dataclasses.asdict, lower)),
                }
            ),
        )
        texts.append(text)
    return "\n".join(texts)


def alpha(plan, results, epsilon=0.1):
    """Write what each α of a search gives, and which one is chosen.

    Args:
        plan: from `experiments.alpha.plan`.
        results: of `experiments.train_all.run`, a list for each run.
        epsilon: size of the CE attack.

    Returns:
        The same as Markdown.
    """
    found = alpha_experiment.candidates(plan, results, epsilon)
    protocol = plan.runs[0].protocol
    title = f"The search for α: {_name(plan.runs[0])}"
    _write(plan.folder, "alpha", **plots.alpha_search(found, title))
    text = report.alpha_markdown(protocol, alpha_experiment.RULE, found)
    return _rows(plan.folder, "alpha", text, found)


def audit(folder, result):
    """Write an audit as `audit.json`, text and pictures.

    Args:
        folder: where to.
        result: the dict of `audit.audit`.

    Returns:
        The text, Markdown.
    """
    folder, name = pathlib.Path(folder), report.audit_name(result)
    text = report.audit_markdown(result)
    _write(folder, "audit", md=text, json=report.to_json(result))
    _write(folder, "curve", **plots.security_curve(result, f"Security curve: {name}"))
    if result["pictures"]:
        title = f"Fooled at ε = {result['protocol']['epsilon']:g}: {name}"
        _write(folder, "pictures", **plots.adversarial_pictures(result, title))
    return text


def _rows(folder, stem, text, rows):
    """Write a text and the rows of a dataclass behind it; returns the text."""
    content = report.to_json(list(map(dataclasses.asdict, rows)))
    _write(folder, stem, md=text, csv=report.rows_csv(rows), json=content)
    return text


def _write(folder, stem, **contents):
    for ending, content in contents.items():
        write_atomically(folder / f"{stem}.{ending}", content)


def _name(run):
    return pathlib.PurePath(run.protocol.dataset).stem
