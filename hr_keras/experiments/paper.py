"""What the paper reports, as data: the one place for its numbers.

Source: "A novel loss to train DNNs": Table 1, section 3 (confusion matrices).
"""

DATASETS = {"mnist": "MNIST", "mnist10k": "MNIST", "cifar10": "CIFAR-10", "svhn_cropped": "SVHN"}
# The protocol preset that is the paper's, for each of its data sets.
PRESETS = {"MNIST": "paper-mnist", "CIFAR-10": "paper-cifar10", "SVHN": "paper-svhn"}

NOTES = {
    "mnist10k": "mnist10k is a sample of 10,000 MNIST digits, 8,000 to train and validate and "
    "2,000 to test; the paper has all 70,000."
}

# The paper's name of a column of Table 1: (trained on, attacked with).
COLUMNS = {"CE": ("ce", "ce"), "HR_CE": ("hr", "ce"), "HR": ("hr", "hr"), "CE_HR": ("ce", "hr")}

# Test accuracy, mean over 5 realizations: [data set][ε], a number a column, as in `COLUMNS`.
_TABLE_1 = {
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

# ‖I − C‖_F of the semi-empirical confusion matrices, by the loss trained on: MNIST, under the
# CE attack at ε = 0.1.
_CONFUSION_NORMS = {"ce": 0.40, "hr": 0.23}


def accuracy(dataset, epsilon, column):
    """Test accuracy in Table 1.

    Args:
        dataset: as `datasets.load` names it.
        epsilon: size of the attack.
        column: a key of `COLUMNS`.

    Returns:
        A number, or `None` where the paper has none.
    """
    row = _TABLE_1.get(DATASETS.get(dataset, ""), {}).get(epsilon)
    return None if row is None else row[list(COLUMNS).index(column)]


def confusion_norm(dataset, loss, epsilon):
    """‖I − C‖_F under the CE attack, or `None` where the paper has none."""
    reported = DATASETS.get(dataset) == "MNIST" and epsilon == 0.1
    return _CONFUSION_NORMS[loss] if reported else None
