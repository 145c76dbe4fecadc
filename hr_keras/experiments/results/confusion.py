"""Semi-empirical confusion matrices p(ŷ|y) under FGSM with CE, and how far from certainty."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hr_keras._core.rendering import ROUTE_LABELS, format_estimate, new_figure, render_figure
from hr_keras.experiments.results.tables import (
    NOTES,
    check_epsilon,
    describe_dataset,
    describe_errors,
    describe_protocol,
    join_sections,
    label_method,
    write_tables,
)
from hr_keras.experiments.run_folder import RunFolder
from hr_keras.experiments.statistics import summarize_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# ‖I − C‖_F in the paper, by method: MNIST, under the CE attack at ε = 0.1.
_PAPER_NORMS = {"ce": 0.40, "hr": 0.23}

_KEYS = ["dataset", "method", "through", "realization"]


def _select(folder: RunFolder, epsilon: float) -> pd.DataFrame:
    """The matrices at ε; without attack they are those of both routes."""
    check_epsilon(epsilon, folder.protocol.epsilons)
    found = folder.confusions()
    found = found[found["epsilon"] == epsilon]
    if epsilon == 0:
        found = pd.concat([found.assign(through=through) for through in ROUTE_LABELS])
    return found


def rows(folder: RunFolder, epsilon: float = 0.1) -> pd.DataFrame:
    """Returns ‖I − C‖_F for each method and route: 0 means always right, and certain of it.

    Columns: dataset, method, through, mean, standard_error, low, high, realizations, epsilon,
    paper. Classes without images are left out.

    Args:
        folder: A run folder.
        epsilon: Size of the attack, one of the protocol's.

    Raises:
        ValueError: For another ε.
    """
    found = _select(folder, epsilon)
    identity = (found["decision"] == found["label"]).astype("float64")
    squares = found.assign(square=(identity - found["probability"]) ** 2)
    norms = np.sqrt(squares.groupby(_KEYS, sort=False)["square"].sum()).rename("norm").reset_index()
    means = summarize_groups(norms, ["dataset", "method", "through"], "norm")
    is_mnist = folder.protocol.paper_dataset == "MNIST" and epsilon == 0.1
    paper = [_PAPER_NORMS.get(method) if is_mnist else None for method in means["method"]]
    return means.assign(epsilon=epsilon, paper=pd.Series(paper, dtype="float64"))


def markdown(folder: RunFolder, found: pd.DataFrame) -> str:
    """Returns the norms beside the paper's as Markdown.

    Args:
        folder: A run folder.
        found: From `rows`.
    """
    return join_sections(
        "# Confusion matrices under the CE attack at ε = "
        f"{found['epsilon'].iloc[0]:g}: {describe_dataset(folder)}",
        describe_protocol(folder.protocol),
        _layout(found),
        "C[ŷ, y] = p(ŷ|y) is the mean softmax on the attacked test images of class y. A norm of 0 "
        "means: always right, and certain of it.",
        describe_errors(int(found["realizations"].max())),
        NOTES.get(folder.protocol.dataset, ""),
    )


def _layout(found: pd.DataFrame) -> pd.DataFrame:
    lines = [
        {
            "trained with": label_method(row.method),
            "attacked": label,
            "‖I − C‖_F": format_estimate(row.mean, row.standard_error),
            "paper": "–" if pd.isna(row.paper) else f"{row.paper:.2f}",
        }
        for through, label in ROUTE_LABELS.items()
        for row in found[found["through"] == through].itertuples()
    ]
    return pd.DataFrame(lines)


def figure(folder: RunFolder, epsilon: float = 0.1) -> "Figure":
    """Draws the mean matrices: a column for each method, a row for each route of the attack.

    Args:
        folder: A run folder.
        epsilon: Size of the attack, one of the protocol's.
    """
    found, norms = _select(folder, epsilon), rows(folder, epsilon)
    methods = folder.protocol.methods
    drawn = new_figure(figsize=(0.6 + 4.2 * len(methods), 9.4))
    panels = drawn.subplots(len(ROUTE_LABELS), len(methods), squeeze=False)
    for row, through in enumerate(ROUTE_LABELS):
        for column, method in enumerate(methods):
            chosen = found[(found["method"] == method) & (found["through"] == through)]
            matrix = chosen.pivot_table(
                index="decision", columns="label", values="probability", dropna=False
            )
            norm = norms[(norms["method"] == method) & (norms["through"] == through)].iloc[0]
            image = _draw_matrix(panels[row, column], matrix.to_numpy(float), norm)
    drawn.colorbar(image, ax=panels, shrink=0.5, label="p(ŷ | y)")
    title = f"Mean softmax on the test images, FGSM with CE at ε = {epsilon:g}"
    drawn.suptitle(f"{title}: {folder.protocol.data_title}", parse_math=False)
    return drawn


def _draw_matrix(axes: "Axes", matrix: np.ndarray, norm: pd.Series) -> Any:
    classes = len(matrix)
    image = axes.imshow(matrix, cmap="cividis", vmin=0, vmax=1)
    if classes <= 12:
        for row, column in np.argwhere(matrix >= 0.005):
            value = matrix[row, column]
            text = f"{value:.2f}".removeprefix("0")
            colour = "black" if value > 0.55 else "white"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
        axes.set(xticks=range(classes), yticks=range(classes))
    text = f"‖I − C‖ = {norm['mean']:.2f}"
    if not np.isnan(norm["standard_error"]):
        text += f" ± {norm['standard_error']:.2f}"
    if not np.isnan(norm["paper"]):
        text += f" (paper: {norm['paper']:.2f})"
    axes.set(xlabel="true class y", ylabel="decision ŷ")
    route = ROUTE_LABELS[norm["through"]]
    axes.set_title(
        f"trained with {label_method(norm['method'])}, FGSM {route}\n{text}", fontsize=10
    )
    return image


def write(folders: list[RunFolder], epsilon: float = 0.1) -> str:
    """Writes the confusion matrices of each folder and their distances from the identity.

    Args:
        folders: Run folders.
        epsilon: Size of the attack, one of the protocols'.

    Returns:
        The distances as Markdown.
    """
    texts = []
    for folder in folders:
        found = rows(folder, epsilon)
        texts.append(markdown(folder, found))
        folder.write("confusion", **render_figure(figure(folder, epsilon)))
        caption = "Distance of the confusion matrices from the identity"
        tables = {f"{caption}: {folder.protocol.data_title}": _layout(found)}
        write_tables(folder.path, "confusion", texts[-1], found, tables)
    return "\n".join(texts)
