"""The commands."""

import pathlib
import sys
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from hr_keras._core.checks import check_bounds, check_count, check_epsilons
from hr_keras._core.pixel_bounds import widest
from hr_keras._core.runtime import import_tensorflow
from hr_keras.cli.options import (
    DATA_DIR_HELP,
    DATA_HELP,
    AttackName,
    Baseline,
    Norm,
    Options,
    Strategy,
    Wait,
    add_command,
    app,
    check_baseline,
    get_value,
)
from hr_keras.cli.run import print_page, run_experiment, stop_with_a_line

if TYPE_CHECKING:
    from hr_keras.experiments.run_folder import RunFolder


@add_command
def table(
    options: Options,
    attack: Annotated[
        Optional[list[AttackName]],
        typer.Option(
            help="Also attack the trained models with this, such as standard; repeat for several. "
            "Done once, then kept with the results."
        ),
    ] = None,
    examples: Annotated[
        Optional[int],
        typer.Option(help="Number of test images for --attack, the first; by default all."),
    ] = None,
    attack_epsilon: Annotated[
        Optional[list[float]],
        typer.Option(help="Size of --attack; repeat for several. By default the protocol's."),
    ] = None,
    baseline: Baseline = None,
) -> None:
    """Table 1: train with each method, attack with FGSM, as published and exactly."""
    from hr_keras.experiments.measure import measure_attack
    from hr_keras.experiments.results import accuracy_table, first_screen

    if examples is not None:
        check_count("examples", examples)
        if not attack:
            raise ValueError("`--examples` is the number of images for `--attack`: give one.")
    if attack_epsilon:
        check_epsilons(attack_epsilon)
        if not attack:
            raise ValueError("`--attack-epsilon` is the size of `--attack`: give one.")

    def measure(folder: "RunFolder") -> None:
        for name in attack or ():
            measure_attack(
                folder, name.value, examples, options.data_dir, tuple(attack_epsilon or ())
            )

    def write(folders: list["RunFolder"]) -> str:
        accuracy_table.write(folders, plan.folder, get_value(baseline))
        return first_screen.markdown(folders)

    plan = options.plan_table()
    run_experiment(
        options,
        plan,
        write,
        check_baseline(baseline),
        measure,
        with_page=True,
    )


@add_command
def figure(
    options: Options,
    accuracy: Annotated[
        Optional[list[float]],
        typer.Option(
            help="Validation accuracy to reach; repeat for several. By default 90, 95 and 99 % of "
            "what every run reaches."
        ),
    ] = None,
    baseline: Baseline = None,
) -> None:
    """Figure 1: validation accuracy against epoch, and the epochs to reach an accuracy."""
    from hr_keras.experiments.results import convergence

    accuracies = tuple(accuracy or ())
    convergence.check_accuracies(accuracies)
    run_experiment(
        options,
        options.plan_table(),
        lambda folders: convergence.write(folders, accuracies, get_value(baseline)),
        check_baseline(baseline),
    )


_Epsilon = Annotated[float, typer.Option(help="Size of the CE attack, one of the protocol's.")]


@add_command
def confusion(options: Options, epsilon: _Epsilon = 0.1) -> None:
    """Semi-empirical confusion matrices under the CE attack, for each method."""
    from hr_keras.experiments.results import confusion as slice_
    from hr_keras.experiments.results.tables import check_epsilon

    run_experiment(
        options,
        options.plan_table(),
        lambda folders: slice_.write(folders, epsilon),
        lambda protocol: check_epsilon(epsilon, protocol.epsilons),
    )


@add_command
def bounds(options: Options) -> None:
    """Proposition 1 and Corollary 1 on the trained models: the error and what bounds it."""
    from hr_keras.experiments.results import error_bound

    run_experiment(options, options.plan_table(), error_bound.write)


@add_command
def saturation(
    options: Options,
    examples: Annotated[
        Optional[int],
        typer.Option(help="Number of test images, the first; by default as before, or all."),
    ] = None,
) -> None:
    """FGSM against the scale of the logits: how much "robustness" a multiplication buys."""
    from hr_keras.experiments.confidence import measure_saturation
    from hr_keras.experiments.results import saturation as slice_

    if examples is not None:
        check_count("examples", examples)
    run_experiment(
        options,
        options.plan_table(),
        slice_.write,
        slice_.check_epsilons,
        lambda folder: measure_saturation(folder, examples, options.data_dir),
    )


@add_command
def alpha(
    options: Options,
    alpha: Annotated[
        Optional[list[float]],
        typer.Option(help="Order to try, > 1; repeat for a grid. By default 1.1 to 4."),
    ] = None,
    epsilon: _Epsilon = 0.1,
) -> None:
    """The search for α, on the validation split: the test split is never used."""
    from hr_keras.experiments.results import alpha_search
    from hr_keras.experiments.results.tables import check_epsilon

    refused = ("method", "train_epsilon", "train_steps", "learning_rate_of", "learning_rates_from")
    if any(getattr(options, name) is not None for name in refused):
        names = [f"`--{name.replace('_', '-')}`" for name in refused]
        raise ValueError(
            f"The search for α trains HR only: {', '.join(names[:-1])} and {names[-1]} cannot be "
            "given."
        )
    plan = options.plan(alpha_search.plan_search, alphas=tuple(alpha or ()))
    run_experiment(
        options,
        plan,
        lambda folders: alpha_search.write(folders, plan.folder, epsilon),
        lambda protocol: check_epsilon(epsilon, protocol.attack_epsilons),
    )


@app.command()
def audit(
    model: Annotated[
        Optional[pathlib.Path],
        typer.Argument(help="A .keras or .h5 file; none to draw what the output folder holds."),
    ] = None,
    data: Annotated[str, typer.Option(help=DATA_HELP)] = "mnist10k",
    epsilon: Annotated[
        Optional[float],
        typer.Option(help="Size of the perturbation in the unit of --bounds; by default a tenth."),
    ] = None,
    bounds: Annotated[
        tuple[float, float],
        typer.Option(
            metavar="LOW HIGH",
            help="Pixel range that the model was made for, such as 0 255; images are scaled to it.",
        ),
    ] = (0.0, 1.0),
    norm: Annotated[Norm, typer.Option(help="What ε measures.")] = Norm.linf,
    examples: Annotated[int, typer.Option(help="Number of test images.")] = 200,
    attack: Annotated[
        Optional[list[AttackName]],
        typer.Option(help="Repeat for several. By default noise, fgsm, pgd and fast."),
    ] = None,
    other: Annotated[
        Optional[list[pathlib.Path]],
        typer.Option(
            help="File of another classifier, whose adversarial examples are tried on "
            "this one; repeat for several."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the attacks.")] = 0,
    output: Annotated[
        Optional[pathlib.Path],
        typer.Option(
            help="Folder of the result; runs/audit_… by default. An edited model_card.md in it is "
            "overwritten: keep yours elsewhere."
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(help="Use the finished examples of an interrupted audit, or start again."),
    ] = True,
    strategy: Annotated[
        Strategy,
        typer.Option(
            help="tf.distribute strategy over whose devices the examples are spread. For "
            "multiworker run the same command in every process."
        ),
    ] = Strategy.none,
    wait: Wait = 600.0,
    data_dir: Annotated[Optional[pathlib.Path], typer.Option(help=DATA_DIR_HELP)] = None,
) -> None:
    """Audit a saved classifier: accuracy under attacks, and whether to believe it."""
    import_tensorflow()
    from rich.console import Console

    from hr_keras import audit as audits
    from hr_keras import training
    from hr_keras.audit.report import format_brief
    from hr_keras.cli.markdown import print_markdown

    attacks = tuple(map(get_value, attack or ())) or audits.ATTACKS
    with stop_with_a_line():
        devices = training.get_strategy(get_value(strategy), wait)
        if model is not None:
            if epsilon is None:
                epsilon = 0.1 * widest(check_bounds(bounds))
            folder, result = audits.audit_file(
                model, data, epsilon, get_value(norm), attacks, examples, seed, bounds, data_dir,
                tuple(other or ()), output, progress=sys.stderr.isatty(), resume=resume,
                strategy=get_value(strategy),
            )  # fmt: skip
        elif output is not None and (found := audits.read_audit(output)) is not None:
            folder, result = output, found
        else:
            raise ValueError("A model file to audit, or the folder of an audit, must be given.")
        if training.is_chief(devices):
            audits.write_audit(folder, result)
            console = Console()
            print_markdown(console, format_brief(result))
            console.print()
            print_page(console, folder, words="More in")
            console.print(f"Text, pictures, model_card.md and audit.json: {folder}", markup=False)
        training.from_chief(0, devices)  # a worker that ends earlier would end the chief too


@app.command()
def report(
    folders: Annotated[
        list[pathlib.Path],
        typer.Argument(
            help="Run folders, folders of run folders, searches for α, or audits.",
            metavar="FOLDER...",
        ),
    ],
    output: Annotated[
        Optional[pathlib.Path],
        typer.Option(
            help="The file; by default report.html in the folder, or here if there are several."
        ),
    ] = None,
) -> None:
    """One HTML page from saved results: what to believe, tables, figures and their data."""
    from rich.console import Console

    print_page(Console(), folders, output)
