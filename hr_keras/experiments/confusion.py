"""Semi-empirical confusion matrices p(ŷ|y) under the CE attack, and how far from certainty."""

import dataclasses

import numpy as np

from hr_keras.attacks.objectives import ROUTES
from hr_keras.experiments import paper
from hr_keras.experiments.estimate import estimate
from hr_keras.experiments.measurements import completed
from hr_keras.experiments.protocol import LOSSES


@dataclasses.dataclass(frozen=True)
class Confusion:
    """The matrix of a loss under one attack, over the realizations.

    Attributes:
        dataset: as `datasets.load` names it.
        trained_on: `"ce"` or `"hr"`.
        through: route of the attack's gradient.
        epsilon: size of the attack.
        norm: mean of ‖I − C‖_F, classes without images left out: 0 for a classifier that is
            always right and certain of it.
        standard_error: of that mean; `None` for fewer than two realizations.
        realizations: how many.
        paper: the norm that the paper reports, or `None`.
        matrix: mean of C[ŷ, y] = p(ŷ|y), lists of rows; `None` for a class without images.
    """

    dataset: str
    trained_on: str
    through: str
    epsilon: float
    norm: float
    standard_error: float | None
    realizations: int
    paper: float | None
    matrix: list


def check_epsilon(protocol, epsilon):
    """A ValueError unless ε is one of the protocol's."""
    if epsilon not in protocol.epsilons:
        raise ValueError(
            f"ε must be one of the protocol's, {protocol.epsilons}. Received: {epsilon:g}"
        )


def confusions(run, results, epsilon=0.1, data_dir=None):
    """The matrices of both losses through both routes.

    Args:
        run: a `runs.Run`.
        results: of `experiments.train_all.run`.
        epsilon: size of the CE attack, one of the protocol's.
        data_dir: where tensorflow-datasets has its data, for results of an earlier version.

    Returns:
        A list of `Confusion`.

    Raises:
        ValueError: for another ε.
    """
    check_epsilon(run.protocol, epsilon)
    results = [completed(run.protocol, r, "confusion", run.folder, data_dir) for r in results]
    return [
        _confusion(run.protocol.dataset, results, loss, through, epsilon)
        for through in ROUTES
        for loss in LOSSES
    ]


def _confusion(dataset, results, loss, through, epsilon):
    matrices = [
        np.array(row["matrix"], "float64")  # None becomes NaN
        for result in results
        if result["loss"] == loss
        for row in result["confusion"]
        if (row["through"], row["epsilon"]) == (through, epsilon)
    ]
    norm = estimate(float(np.sqrt(np.nansum((np.eye(len(m)) - m) ** 2))) for m in matrices)
    mean = np.mean(matrices, axis=0)
    return Confusion(
        dataset=dataset,
        trained_on=loss,
        through=through,
        epsilon=epsilon,
        norm=norm.mean,
        standard_error=norm.standard_error,
        realizations=norm.realizations,
        paper=paper.confusion_norm(dataset, loss, epsilon),
        matrix=[[None if np.isnan(v) else round(v, 9) for v in row] for row in mean.tolist()],
    )
