"""What every experiment's command does: train, measure, draw."""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import typer

from hr_keras._core.rendering import show_progress
from hr_keras.cli.options import Options
from hr_keras.experiments import workers

if TYPE_CHECKING:
    from hr_keras.experiments.plan import Plan
    from hr_keras.experiments.protocol import Protocol
    from hr_keras.experiments.run_folder import RunFolder


def run_experiment(
    options: Options,
    plan: "Plan",
    write: Callable[[list["RunFolder"]], str],
    check: Callable[["Protocol"], Any] = lambda protocol: None,
    measure: Callable[["RunFolder"], None] = lambda folder: None,
    with_page: bool = False,
) -> None:
    """Trains what is missing, measures what is asked for, then draws from what is saved.

    `check` raises before the training where `write` would raise after it. `with_page` also writes
    the page for browsers.
    """
    from rich.console import Console

    from hr_keras import training
    from hr_keras._core.files import lock_folder
    from hr_keras._core.logits import check_backend
    from hr_keras.cli.markdown import print_markdown
    from hr_keras.experiments import train
    from hr_keras.experiments.run_folder import RunFolder

    check_backend()
    for run in plan.runs:
        check(run.protocol)
    protocol = plan.runs[0].protocol
    with stop_with_a_line():
        strategy = training.get_strategy(protocol.strategy, options.wait)
    is_chief = training.is_chief(strategy)
    console = Console(quiet=not is_chief)
    jobs = workers.check_jobs(train.choose_jobs(protocol) if options.jobs is None else options.jobs)
    with contextlib.ExitStack() as stack:
        stack.enter_context(stop_with_a_line())
        if is_chief:  # it alone writes
            for path in dict.fromkeys((plan.folder, *(run.path for run in plan.runs))):
                stack.enter_context(lock_folder(path))
            plan.create()
        training.from_chief(0, strategy)  # the folders exist
        folders = [RunFolder(run.path) for run in plan.runs]
        _train(console, folders, options.data_dir, jobs)
        for folder in folders:  # in every worker: they share the examples
            measure(folder)
        if is_chief:
            text = write(folders)
            print_markdown(console, text)
            console.print()
            if with_page:
                print_page(console, plan.folder, words="More in")
            console.print(f"Tables, pictures, models and results: {plan.folder}", markup=False)
    training.from_chief(0, strategy)  # a worker that ends earlier would end the chief too


def print_page(
    console: Any,
    folders: pathlib.Path | list[pathlib.Path],
    output: pathlib.Path | None = None,
    words: str = "Page for a browser:",
) -> None:
    """Writes the page for browsers, and prints its path; see `hr_keras.report.write_report`."""
    from hr_keras.report import write_report

    path = write_report(folders, output)
    console.print(f"{words} {path}", markup=False, soft_wrap=True)


def _train(
    console: Any, folders: list["RunFolder"], data_dir: pathlib.Path | None, jobs: int
) -> None:
    from hr_keras.experiments import train

    models = [
        ((folder.path, method, realization), folder.protocol.epochs)
        for folder in folders
        for realization in range(folder.protocol.realizations)
        for method in folder.protocol.methods
    ]
    with show_progress(console, models) as on_epoch:
        for folder in folders:

            def report(
                method: str, realization: int, done: int, path: pathlib.Path = folder.path
            ) -> None:
                on_epoch((path, method, realization), done)

            train.train_folder(folder, data_dir, report, jobs)


@contextlib.contextmanager
def stop_with_a_line() -> Iterator[None]:
    """Ends the block with a line at Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        message = "stopped. Finished work is kept; run the same command again to resume."
        print(f"\nhr-keras: {message}", file=sys.stderr)
        raise typer.Exit(130) from None
