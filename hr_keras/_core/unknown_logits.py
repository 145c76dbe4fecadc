"""What is said wherever an accuracy under attack is shown of a model whose logits are not known."""

import warnings
from collections.abc import Mapping

MARK = "†"
NOTE = (
    "The model's logits are not known, so that attacks use the logarithms of its probabilities, "
    "whose gradient may vanish: true accuracy under attack may be far lower, under `standard` too."
)


def warn_of_unknown_logits(model_name: str) -> None:
    """Warns that accuracy under attack may be too high."""
    warnings.warn(f"{NOTE} Received: model {model_name!r}", stacklevel=4)


def format_accuracies(clean: float, attacked: Mapping[str, float], logits_known: bool) -> str:
    """Formats accuracies, a line each, with the mark and the note if the logits are not known."""
    mark = "" if logits_known else MARK
    lines = [f"{clean:.3f} clean"]
    lines += [f"{accuracy:.3f}{mark} {name}" for name, accuracy in attacked.items()]
    return "\n".join(lines if logits_known else [*lines, f"{MARK} {NOTE}"])
