"""The command line: parse, build a protocol, run, print."""

import contextlib
import dataclasses
import functools
import inspect
import pathlib
import sys
from typing import Annotated, Optional

import typer

from hr_keras._core import progress, runtime
from hr_keras.experiments import jobs as processes

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train with the HR loss, attack, and say which robustness numbers can be believed.",
)


@dataclasses.dataclass
class _Options:
    """What every experiment can be asked for; the help of each command lists them."""

    preset: Annotated[
        Optional[str],
        typer.Option(
            help="quick (the default), paper-mnist, paper-cifar10 or paper-svhn. In a run folder, "
            "its own protocol counts instead."
        ),
    ] = None
    data: Annotated[
        Optional[list[str]],
        typer.Option(
            help="mnist10k (ships with this package), mnist, fashion_mnist, cifar10, "
            "svhn_cropped, or the path of an .npz file. Several: give it several times."
        ),
    ] = None
    model: Annotated[Optional[str], typer.Option(help="mnist_cnn or resnet8.")] = None
    realizations: Annotated[
        Optional[int], typer.Option(help="Independent repetitions; may grow from call to call.")
    ] = None
    alpha: Annotated[Optional[float], typer.Option(help="Order of the Rényi divergence, > 1.")] = (
        None
    )
    epochs: Annotated[Optional[int], typer.Option(help="Training epochs.")] = None
    learning_rate: Annotated[
        Optional[float], typer.Option(help="Of the optimizer, at the start.")
    ] = None
    seed: Annotated[Optional[int], typer.Option(help="Seed of the first realization.")] = None
    strategy: Annotated[
        Optional[str],
        typer.Option(
            help="auto, none, mirrored or multiworker (tf.distribute). multiworker: the same "
            "command in every process, each with its TF_CONFIG; the output folder is shared."
        ),
    ] = None
    jobs: Annotated[
        Optional[int],
        typer.Option(
            help="Models to train at once, each in a process with its share of the cores; by "
            "default as many as cores (1 with GPUs). The share changes the last bits of results: "
            "an interrupted model goes on with the same only."
        ),
    ] = None
    output: Annotated[
        Optional[pathlib.Path],
        typer.Option(
            help="Run folder, or a folder of run folders; runs/… by default. What is there is "
            "kept and used: a finished one is not trained again."
        ),
    ] = None
    data_dir: Annotated[
        Optional[pathlib.Path], typer.Option(help="Where tensorflow-datasets has its data.")
    ] = None

    def plan(self, make, **own):
        """The runs that are meant: `make` is `experiments.runs.plan`, or another's."""
        names = ("model", "realizations", "epochs", "learning_rate", "seed", "strategy")
        changes = {name: getattr(self, name) for name in names} | own
        return make(self.output, self.preset, tuple(self.data or ()), **changes)


def _command(function):
    """A command with the options of `_Options`, given to it as one value, and its own after."""
    own = list(inspect.signature(function).parameters.values())[1:]
    named = {option.name for option in own}
    shared = [o for o in inspect.signature(_Options).parameters.values() if o.name not in named]

    @functools.wraps(function)
    def command(**values):
        options = _Options(**{option.name: values.pop(option.name) for option in shared})
        runtime.import_tensorflow()
        return function(options, **values)

    parameters = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in shared + own]
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {option.name: option.annotation for option in parameters}
    return app.command()(command)


@app.callback(invoke_without_command=True)
def _app(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
):
    if version:
        from hr_keras import __version__

        print(__version__)
        raise typer.Exit


@_command
def table(
    options,
    attack: Annotated[
        Optional[list[str]],
        typer.Option(
            help="Also attack the trained models with this: standard (as AutoAttack's) or pgd; "
            "several times for several. Done once, then kept with the results."
        ),
    ] = None,
    examples: Annotated[
        Optional[int],
        typer.Option(help="How many test images --attack is for, the first; by default all."),
    ] = None,
):
    """Table 1: train on CE and on HR, attack both with FGSM, as published and exactly."""
    from hr_keras import outputs
    from hr_keras.attacks import worst_case
    from hr_keras.attacks._attack import check_count

    attacks = tuple(worst_case.check_attack_name(name) for name in attack or ())
    if examples is not None:
        check_count("examples", examples)
        if not attacks:
            raise ValueError("`examples` says how many to put under an `attack`: give one.")
    _publish(
        options,
        functools.partial(
            outputs.table, attacks=attacks, examples=examples, data_dir=options.data_dir
        ),
    )


@_command
def figure(
    options,
    accuracy: Annotated[
        Optional[list[float]],
        typer.Option(
            help="Validation accuracy to reach; may be given several times. By default 90, 95 "
            "and 99 % of what every run reaches."
        ),
    ] = None,
):
    """Figure 1: validation accuracy against epoch, and the epochs to reach an accuracy."""
    from hr_keras import outputs
    from hr_keras.experiments import convergence

    accuracies = tuple(accuracy or ())
    convergence.check_accuracies(accuracies)
    _publish(options, functools.partial(outputs.figure, accuracies=accuracies))


@_command
def confusion(
    options,
    epsilon: Annotated[
        float, typer.Option(help="Size of the CE attack, one of the protocol's.")
    ] = 0.1,
):
    """Semi-empirical confusion matrices under the CE attack, trained on CE and on HR."""
    from hr_keras import outputs
    from hr_keras.experiments.confusion import check_epsilon

    _publish(
        options,
        functools.partial(outputs.confusion, epsilon=epsilon, data_dir=options.data_dir),
        functools.partial(check_epsilon, epsilon=epsilon),
    )


@_command
def bounds(options):
    """Proposition 1 and Corollary 1 on the trained models: the error and what bounds it."""
    from hr_keras import outputs

    _publish(options, functools.partial(outputs.bounds, data_dir=options.data_dir))


@_command
def alpha(
    options,
    alpha: Annotated[
        Optional[list[float]],
        typer.Option(help="Order to try, > 1; several times for a grid. 1.1 to 4 by default."),
    ] = None,
    epsilon: Annotated[
        float, typer.Option(help="Size of the CE attack, one of the protocol's.")
    ] = 0.1,
):
    """The search for α, on the validation split: the test split is never looked at."""
    from hr_keras import outputs
    from hr_keras.experiments import alpha as search

    plan = options.plan(search.plan, alphas=tuple(alpha or ()))
    search.check_epsilon(plan.runs[0].protocol, epsilon)
    _make(options, plan, functools.partial(outputs.alpha, epsilon=epsilon), search.LOSSES)


@app.command()
def audit(
    model: Annotated[
        Optional[pathlib.Path],
        typer.Argument(help="A .keras file; none to draw again what the output folder holds."),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            help="mnist10k (ships with this package), mnist, fashion_mnist, cifar10, "
            "svhn_cropped, or the path of an .npz file."
        ),
    ] = "mnist10k",
    epsilon: Annotated[float, typer.Option(help="Size of the perturbation, pixels in 0 … 1.")] = (
        0.1
    ),
    norm: Annotated[str, typer.Option(help="What ε measures: linf or l2.")] = "linf",
    examples: Annotated[int, typer.Option(help="How many test images.")] = 200,
    attack: Annotated[
        Optional[list[str]],
        typer.Option(
            help="noise, fgsm, mifgsm, pgd, apgd, fab, square, fast or standard; may be given "
            "several times. By default noise, fgsm, pgd and fast."
        ),
    ] = None,
    other: Annotated[
        Optional[list[pathlib.Path]],
        typer.Option(
            help="A .keras file of another classifier, to carry adversarial examples over from; "
            "may be given several times."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the attacks.")] = 0,
    output: Annotated[
        Optional[pathlib.Path],
        typer.Option(help="Folder of the result; runs/audit_… by default."),
    ] = None,
    data_dir: Annotated[
        Optional[pathlib.Path], typer.Option(help="Where tensorflow-datasets has its data.")
    ] = None,
):
    """Audit a saved classifier: what attacks leave of it, and whether to believe that."""
    runtime.import_tensorflow()
    from rich.console import Console
    from rich.markdown import Markdown

    from hr_keras import outputs
    from hr_keras.audit import run as audits

    arguments = {} if attack is None else {"attacks": tuple(attack)}
    folder, result = audits.saved(
        output, model, data, epsilon, norm, examples=examples, seed=seed, data_dir=data_dir,
        others=tuple(other or ()), **arguments,
    )  # fmt: skip
    console = Console()
    console.print(Markdown(outputs.audit(folder, result)))
    console.print(f"\nText, pictures and audit.json: {folder}", markup=False)


def _publish(options, write, check=None):
    """`_make` for the runs of a table; `check(protocol)` raises where `write` would later."""
    from hr_keras.experiments import runs
    from hr_keras.experiments.protocol import LOSSES

    plan = options.plan(runs.plan, alpha=options.alpha)
    for run in plan.runs if check else ():
        check(run.protocol)
    _make(options, plan, write, LOSSES)


def _make(options, plan, write, losses):
    """Train what is missing, then draw from what is saved: `write(plan, results)` → Markdown."""
    from rich.console import Console
    from rich.markdown import Markdown

    from hr_keras import training
    from hr_keras._core.logits import check_backend
    from hr_keras.experiments import train_all

    check_backend()
    workers = training.get_strategy(plan.runs[0].protocol.strategy)
    chief = training.is_chief(workers)
    console = Console(quiet=not chief)
    jobs = options.jobs
    if jobs is None:
        jobs = train_all.default_jobs(plan.runs[0].protocol)
    processes.check(jobs)
    # The chief alone writes. What is wrong is said before the progress bar.
    with _stoppable(), train_all.opened(plan) if chief else contextlib.nullcontext():
        with progress.bar(console, plan, losses) as on_epoch:
            results = [
                train_all.run(*run, options.data_dir, functools.partial(on_epoch, k), losses, jobs)
                for k, run in enumerate(plan.runs)
            ]
        text = write(plan, results) if chief else None
    if chief:
        console.print(Markdown(text))
        console.print(f"\nTables, pictures, models and results: {plan.folder}", markup=False)
    training.from_chief(0, workers)  # a worker that left earlier would take the chief along


@contextlib.contextmanager
def _stoppable():
    """Ctrl-C ends the block with a line."""
    try:
        yield
    except KeyboardInterrupt:
        message = "stopped. What is done is kept; the same command goes on from there."
        print(f"\nhr-keras: {message}", file=sys.stderr)
        raise typer.Exit(130) from None


def main():
    """Entry point of `hr-keras`: what can go wrong ends with a line, not a traceback.

    The exit status is 2 where something must be changed, 1 where the same command goes on.
    """
    try:
        app()
    except (ValueError, OSError) as error:
        print(f"hr-keras: {error}", file=sys.stderr)
        sys.exit(2)
    except processes.ProcessEnded as error:
        print(f"hr-keras: {error}", file=sys.stderr)
        sys.exit(1)
    except Exception as error:
        if type(error).__name__ != "UnavailableError":  # TensorFlow's, which may not be imported
            raise
        message = "another worker ended. What is done is kept; the same commands go on from there."
        print(f"hr-keras: {message}", file=sys.stderr)
        sys.exit(1)
