"""The command line: parse, build a protocol, run, print."""

import contextlib
import os
import pathlib
import sys
import tempfile
from typing import Annotated, Optional

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train with the HR loss, attack, and say which robustness numbers can be believed.",
)


@app.callback(invoke_without_command=True)
def _app(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
):
    if version:
        from hr_keras import __version__

        print(__version__)
        raise typer.Exit


@app.command()
def table(
    preset: Annotated[
        str, typer.Option(help="quick, or paper: its MNIST protocol, 1000 epochs.")
    ] = "quick",
    data: Annotated[
        Optional[str],
        typer.Option(
            help="mnist10k (ships with this package), mnist, fashion_mnist, cifar10, "
            "svhn_cropped, or the path of an .npz file."
        ),
    ] = None,
    model: Annotated[Optional[str], typer.Option(help="mnist_cnn or resnet8.")] = None,
    realizations: Annotated[
        Optional[int], typer.Option(help="Independent repetitions; may grow from call to call.")
    ] = None,
    alpha: Annotated[
        Optional[float], typer.Option(help="Order of the Rényi divergence, > 1.")
    ] = None,
    epochs: Annotated[Optional[int], typer.Option(help="Training epochs.")] = None,
    learning_rate: Annotated[Optional[float], typer.Option(help="Of plain SGD.")] = None,
    seed: Annotated[Optional[int], typer.Option(help="Seed of the first realization.")] = None,
    strategy: Annotated[
        Optional[str],
        typer.Option(
            help="auto, none, mirrored or multiworker (tf.distribute). multiworker: the same "
            "command in every process, each with its TF_CONFIG; the output folder is shared."
        ),
    ] = None,
    output: Annotated[
        Optional[pathlib.Path], typer.Option(help="Run folder; runs/… by default.")
    ] = None,
    data_dir: Annotated[
        Optional[pathlib.Path], typer.Option(help="Where tensorflow-datasets has its data.")
    ] = None,
):
    """Table 1: train on CE and on HR, attack both with FGSM, as published and exactly."""
    from rich.console import Console
    from rich.markdown import Markdown

    _import_tensorflow_quietly()
    from hr_keras import distribution
    from hr_keras.experiments import protocol as protocols
    from hr_keras.experiments import table as experiment
    from hr_keras.logits import check_backend

    check_backend()
    protocol = protocols.from_preset(
        preset,
        dataset=data,
        model=model,
        realizations=realizations,
        alpha=alpha,
        epochs=epochs,
        learning_rate=learning_rate,
        seed=seed,
        strategy=strategy,
    )
    folder = output or pathlib.Path("runs") / protocol.name
    workers = distribution.get_strategy(protocol.strategy)
    chief = distribution.is_chief(workers)
    console = Console(quiet=not chief)
    if chief:  # what is wrong is said before the progress bar
        experiment.open_folder(folder, protocol)
    with _progress(console, protocol) as on_epoch:
        results = experiment.run(protocol, folder, data_dir, on_epoch)
    if chief:
        console.print(Markdown(_write_table(folder, protocol, results)))
        console.print(f"\nTables, figure, models and results: {folder}", markup=False)
    distribution.from_chief(0, workers)  # a worker that left earlier would take the chief along


def _write_table(folder, protocol, results):
    """Write the table in every format, and the figure; returns the table as Markdown."""
    from hr_keras import plots, report
    from hr_keras.experiments import table as experiment
    from hr_keras.files import write_atomically

    cells = experiment.cells(results)
    text = report.table_markdown(protocol, cells)
    write_atomically(folder / "table.md", text)
    write_atomically(folder / "table.csv", report.table_csv(cells))
    write_atomically(folder / "table.json", report.table_json(protocol, cells))
    title = f"FGSM with CE on the validation split: {pathlib.PurePath(protocol.dataset).stem}"
    write_atomically(folder / "figure.png", plots.accuracy_against_epoch(results, title))
    return text


def main():
    """Entry point of `hr-keras`: a usage error ends with a line, not a traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"hr-keras: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if type(error).__name__ != "UnavailableError":  # TensorFlow's, which may not be imported
            raise
        message = "another worker ended. What is done is kept; the same commands go on from there."
        print(f"hr-keras: {message}", file=sys.stderr)
        sys.exit(1)


def _import_tensorflow_quietly():
    """Keep TensorFlow's start-up messages, which no setting silences, off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryFile() as messages:
        stderr = os.dup(2)
        os.dup2(messages.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            messages.seek(0)
            os.write(stderr, messages.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


@contextlib.contextmanager
def _progress(console, protocol):
    """A progress bar over all epochs, with the time left; yields `on_epoch` for the experiment."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("epochs,"),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting", total=2 * protocol.realizations * protocol.epochs)

        def on_epoch(index, loss, done):
            before = (2 * index + (loss == "hr")) * protocol.epochs
            progress.update(
                task,
                completed=before + done,
                description=f"realization {index + 1}/{protocol.realizations}, {loss.upper()}",
            )

        try:
            yield on_epoch
        except KeyboardInterrupt:
            message = "stopped. What is done is kept; the same command goes on from there."
            print(f"\nhr-keras: {message}", file=sys.stderr)
            raise typer.Exit(130) from None
