"""How far an experiment is, on the terminal."""

import contextlib


@contextlib.contextmanager
def bar(console, plan, losses):
    """A progress bar of Rich's over all epochs of all runs, with the time left.

    Yields `on_epoch(number of the run, realization, loss, epochs done)` for the experiment.
    """
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs,"),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    models = {
        (k, index, loss): run.protocol.epochs
        for k, run in enumerate(plan.runs)
        for index in range(run.protocol.realizations)
        for loss in losses
    }
    epochs = dict.fromkeys(models, 0)
    with Progress(*columns, console=console) as shown:
        task = shown.add_task("starting", total=sum(models.values()))

        def on_epoch(k, index, loss, done):
            epochs[k, index, loss] = done
            trained = sum(epochs[model] == total for model, total in models.items())
            description = f"{trained} of {len(models)} models,"
            shown.update(task, completed=sum(epochs.values()), description=description)

        yield on_epoch
