"""The commands that compare methods fairly: a learning rate for each, and labels with noise."""

from typing import Annotated, Optional

import typer

from hr_keras.cli.options import Baseline, Options, add_command, check_baseline, get_value
from hr_keras.cli.run import run_experiment


@add_command
def tune(
    options: Options,
    learning_rate: Annotated[
        Optional[list[float]],
        typer.Option(
            help="Learning rate to try; repeat for a grid. By default 0.3, 1, 3 and 10 times that "
            "of the preset."
        ),
    ] = None,
) -> None:
    """A learning rate for each method, chosen on the validation split from one grid."""
    from hr_keras.experiments.results import learning_rates

    if options.learning_rate_of or options.learning_rates_from:
        raise ValueError(
            "A search chooses the learning rates: `--learning-rate-of` and "
            "`--learning-rates-from` cannot be given."
        )
    plan = options.plan_table(learning_rates.plan_search, rates=tuple(learning_rate or ()))
    run_experiment(options, plan, lambda folders: learning_rates.write(folders, plan.folder))


@add_command
def compare(
    options: Options,
    accuracy: Annotated[
        Optional[list[float]],
        typer.Option(
            help="Validation accuracy without attack; repeat for several. By default 90, 95 and "
            "99 % of what every run reaches."
        ),
    ] = None,
    baseline: Baseline = None,
) -> None:
    """Methods at equal accuracy without attack, and how long the gradient of HR is."""
    from hr_keras.experiments.results import comparison, convergence

    accuracies = tuple(accuracy or ())
    convergence.check_accuracies(accuracies)
    run_experiment(
        options,
        options.plan_table(),
        lambda folders: comparison.write(folders, accuracies, get_value(baseline)),
        lambda protocol: comparison.check_baseline(protocol, get_value(baseline)),
    )


@add_command
def label_noise(
    options: Options,
    label_noise: Annotated[
        Optional[list[float]],
        typer.Option(
            help="Share of wrong training and validation labels; repeat for several. By default "
            "0, 0.2 and 0.4."
        ),
    ] = None,
    baseline: Baseline = None,
) -> None:
    """Train with wrong labels, a run folder for each share, and test with right ones."""
    from hr_keras.experiments.results import label_noise as slice_

    plan = options.plan_table(slice_.plan_series, shares=tuple(label_noise or ()))
    run_experiment(
        options,
        plan,
        lambda folders: slice_.write(folders, plan.folder, get_value(baseline)),
        check_baseline(baseline),
    )
