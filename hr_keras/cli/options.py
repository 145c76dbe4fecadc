"""Choices and options that the commands share, and the application they belong to."""

import dataclasses
import enum
import functools
import inspect
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from hr_keras._core.checks import ATTACK_NAMES, NORMS, STRATEGIES
from hr_keras._core.runtime import import_tensorflow
from hr_keras.experiments.methods import METHODS

if TYPE_CHECKING:
    from hr_keras.experiments.plan import Plan
    from hr_keras.experiments.protocol import Protocol

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train with the HR loss, attack, and see which robustness numbers can be believed.",
)


def _enum(name: str, *values: str) -> Any:
    return enum.Enum(name, {value: value for value in values}, type=str)


# Closed choices, as typer shows them. Tests compare them with the modules that define them:
# importing these would load TensorFlow before the help is shown.
Preset = _enum("Preset", "quick", "paper-mnist", "paper-cifar10", "paper-svhn")
Model = _enum("Model", "mnist_cnn", "resnet8")
Optimizer = _enum("Optimizer", "sgd", "adam")
Method = _enum("Method", *METHODS)
Strategy = _enum("Strategy", *STRATEGIES)
Norm = _enum("Norm", *NORMS)
AttackName = _enum("AttackName", *ATTACK_NAMES)
Baseline = Annotated[
    Optional[Method],  # type: ignore[valid-type]
    typer.Option(help="Method that differences refer to; by default the first."),
]
Wait = Annotated[
    float,
    typer.Option(help="Seconds that --strategy multiworker waits for the other processes."),
]

DATA_HELP = (
    "mnist10k (ships with this package), mnist, fashion_mnist, cifar10, svhn_cropped, or the path "
    "of an .npz file."
)
DATA_DIR_HELP = (
    "Folder with files of the data set, or with data sets of tensorflow-datasets. By default that "
    "of Keras' downloads, then that of tensorflow-datasets."
)


@dataclasses.dataclass
class Options:
    """Options of every experiment; the help of each command lists them."""

    preset: Annotated[
        Optional[Preset],  # type: ignore[valid-type]
        typer.Option(help="Protocol; by default that of the run folder, or quick for a new one."),
    ] = None
    data: Annotated[
        Optional[list[str]], typer.Option(help=f"{DATA_HELP} Repeat for several data sets.")
    ] = None
    data_label: Annotated[
        Optional[str],
        typer.Option(
            help='What tables and figures call the data. A label such as "CIFAR-10, recompressed" '
            "puts the paper's results for CIFAR-10 beside them."
        ),
    ] = None
    model: Annotated[
        Optional[Model],  # type: ignore[valid-type]
        typer.Option(help="Network."),
    ] = None
    method: Annotated[
        Optional[list[Method]],  # type: ignore[valid-type]
        typer.Option(help="What to train with; repeat for several. By default ce and hr."),
    ] = None
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
    learning_rate_of: Annotated[
        Optional[list[str]],
        typer.Option(
            metavar="METHOD=RATE",
            help="Learning rate of one method in place of that of all; repeat for several.",
        ),
    ] = None
    learning_rates_from: Annotated[
        Optional[pathlib.Path],
        typer.Option(help="Folder of `hr-keras tune`: each method gets the rate it chose."),
    ] = None
    attack_every: Annotated[
        Optional[int],
        typer.Option(help="Attack the validation split after every so many epochs of training."),
    ] = None
    label_noise: Annotated[
        Optional[float],
        typer.Option(
            help="Share of the training and validation labels that are replaced by another class; "
            "test labels stay as they are."
        ),
    ] = None
    optimizer: Annotated[
        Optional[Optimizer],  # type: ignore[valid-type]
        typer.Option(help="With Keras' defaults, but for the learning rate."),
    ] = None
    train_epsilon: Annotated[
        Optional[float],
        typer.Option(help="ε of the attack in adversarial training, pixels in 0 … 1."),
    ] = None
    train_steps: Annotated[
        Optional[int], typer.Option(help="Steps of the attack in pgd_at and trades.")
    ] = None
    seed: Annotated[Optional[int], typer.Option(help="Seed of the first realization.")] = None
    strategy: Annotated[
        Optional[Strategy],  # type: ignore[valid-type]
        typer.Option(
            help="tf.distribute strategy. For multiworker run the same command in every process, "
            "each with its TF_CONFIG, and share the output folder."
        ),
    ] = None
    wait: Wait = 600.0
    jobs: Annotated[
        Optional[int],
        typer.Option(
            help="Models to train at once, each in a process with its share of the cores; by "
            "default as many as cores (1 with GPUs). The share changes the last bits of results, "
            "so an interrupted model resumes with the same share only."
        ),
    ] = None
    output: Annotated[
        Optional[pathlib.Path],
        typer.Option(
            help="Run folder, or a folder of run folders; runs/… by default. Results in it are "
            "used: nothing is trained twice."
        ),
    ] = None
    data_dir: Annotated[Optional[pathlib.Path], typer.Option(help=DATA_DIR_HELP)] = None

    def plan(self, make: Callable[..., "Plan"], **own: Any) -> "Plan":
        """The runs that are meant: `make` is `plan_runs`, or another experiment's."""
        names = ("data_label", "model", "realizations", "epochs", "learning_rate", "optimizer",
                 "attack_every", "label_noise", "seed", "strategy")  # fmt: skip
        changes = {name: get_value(getattr(self, name)) for name in names} | own
        return make(self.output, get_value(self.preset), tuple(self.data or ()), **changes)

    @property
    def methods(self) -> tuple[str, ...] | None:
        """Names of the methods; `None` for those of the folder or preset."""
        return tuple(map(get_value, self.method)) if self.method else None

    def read_learning_rates(self) -> tuple[tuple[str, float], ...] | None:
        """The learning rates of single methods; `None` for those of the folder.

        Raises:
            ValueError: For a text that is not `METHOD=RATE`, and a folder without a search.
        """
        rates: dict[str, float] = {}
        if self.learning_rates_from is not None:
            from hr_keras.experiments.results.learning_rates import read_rates

            rates |= dict(read_rates(self.learning_rates_from))
        for text in self.learning_rate_of or ():
            name, _, rate = text.partition("=")
            try:
                rates[name] = float(rate)
            except ValueError:
                raise ValueError(
                    f"`--learning-rate-of` must be METHOD=RATE, such as hr=0.02. Received: {text!r}"
                ) from None
        return tuple(rates.items()) or None

    def plan_table(self, make: Optional[Callable[..., "Plan"]] = None, **own: Any) -> "Plan":
        """The runs of a table, or those of `make`, with every option."""
        from hr_keras.experiments.plan import plan_runs

        plan = self.plan(
            make or plan_runs,
            alpha=self.alpha,
            methods=self.methods,
            learning_rates=self.read_learning_rates(),
            train_epsilon=self.train_epsilon,
            train_steps=self.train_steps,
            **own,
        )
        if self.learning_rates_from is not None:
            from hr_keras.experiments.results.learning_rates import check_search

            for run in plan.runs:
                check_search(self.learning_rates_from, run.protocol)
        return plan


def check_baseline(baseline: Any) -> Callable[["Protocol"], Any]:
    """A check of a protocol: that the baseline is one of its methods."""
    from hr_keras.experiments.results.tables import choose_baseline

    return lambda protocol: choose_baseline(protocol, get_value(baseline))


def get_value(choice: Any) -> Any:
    """Returns the value of a choice; anything else as it is."""
    return choice.value if isinstance(choice, enum.Enum) else choice


def add_command(function: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of `Options`, given to it as one value, and its own after."""
    own = list(inspect.signature(function).parameters.values())[1:]
    names = {option.name for option in own}
    shared = [o for o in inspect.signature(Options).parameters.values() if o.name not in names]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        options = Options(**{option.name: values.pop(option.name) for option in shared})
        import_tensorflow()
        function(options, **values)

    parameters = [option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in shared + own]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in parameters}
    app.command()(command)
    return command
