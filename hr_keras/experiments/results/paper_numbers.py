"""The paper's Table 1, and how a protocol differs from the paper's."""

from hr_keras.experiments.methods import get_method
from hr_keras.experiments.protocol import PAPER_PRESETS, PRESETS, Protocol

# The paper's columns of Table 1: (method, attack).
PAPER_COLUMNS = (("ce", "fgsm_ce"), ("hr", "fgsm_ce"), ("hr", "fgsm_hr"), ("ce", "fgsm_hr"))
# Test accuracy, mean over 5 realizations, one number for each of these columns.
_PAPER = {
    "MNIST": {
        0.0: (0.985, 0.986, 0.986, 0.985),
        0.1: (0.907, 0.945, 0.977, 0.977),
        0.25: (0.852, 0.861, 0.974, 0.972),
    },
    "CIFAR-10": {
        0.0: (0.656, 0.685, 0.685, 0.656),
        0.1: (0.296, 0.337, 0.324, 0.288),
        0.25: (0.282, 0.320, 0.306, 0.271),
    },
    "SVHN": {
        0.0: (0.865, 0.901, 0.901, 0.865),
        0.1: (0.797, 0.836, 0.835, 0.801),
        0.25: (0.672, 0.704, 0.698, 0.674),
    },
}


def find_paper_accuracy(
    dataset: str | None, method: str, attack: str, epsilon: float
) -> float | None:
    """Returns the test accuracy in the paper's Table 1; `None` where it has none.

    Args:
        dataset: The paper's name of the data set, see `Protocol.paper_dataset`.
        method: `"ce"` or `"hr"`.
        attack: `"none"`, `"fgsm_ce"` or `"fgsm_hr"`.
        epsilon: Size of the attack.
    """
    attack = "fgsm_ce" if attack == "none" else attack
    values = _PAPER.get(dataset or "", {}).get(epsilon)
    if values is None or (method, attack) not in PAPER_COLUMNS:
        return None
    return values[PAPER_COLUMNS.index((method, attack))]


def describe_changes(protocol: Protocol) -> str:
    """Says how the training differs from the paper's for this data set; empty if it does not."""
    preset = PRESETS[PAPER_PRESETS[protocol.paper_dataset or ""]]
    names = (
        "model", "alpha", "epochs", "batch_size", "optimizer", "learning_rate", "schedule",
        "mean_image", "realizations", "label_noise",
    )  # fmt: skip
    changes = [
        f"{name.replace('_', ' ')} {getattr(protocol, name)} (paper: {getattr(preset, name)})"
        for name in names
        if getattr(protocol, name) != getattr(preset, name)
    ]
    own = dict(protocol.learning_rates)
    changes += [
        f"learning rate of {get_method(name).label} {own[name]} (paper: {preset.learning_rate})"
        for name in ("ce", "hr")
        if own.get(name, preset.learning_rate) != preset.learning_rate
    ]
    return ", ".join(changes)
