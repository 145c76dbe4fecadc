"""Catastrophic overfitting: a model that withstands a single step and nothing else."""

from hr_keras._core.finding import Finding
from hr_keras.diagnostics.finding import format_percent, judge

WONG = "Wong, Rice & Kolter 2020, 'Fast is better than free: Revisiting adversarial training'"
# Share of the correct examples that withstand a single step and not PGD. Ordinary networks
# and those of PGD training stay below a third; with the overfitting it is near 1.
OVERFITTING = 0.5


def catastrophic_overfitting(clean: float, single_step: float, pgd: float) -> Finding:
    """Compares accuracy under a single step with accuracy under PGD.

    Args:
        clean: Accuracy without an attack, greater than 0.
        single_step: Accuracy under a single step.
        pgd: Accuracy under PGD.
    """
    share = (single_step - pgd) / clean
    meaning = (
        f"{format_percent(max(share, 0.0))} of the examples that the model has right withstand "
        "a single step and not PGD"
    )
    if share > OVERFITTING:
        meaning += (
            ": accuracy under FGSM says nothing here. After adversarial training with a single "
            "step this is catastrophic overfitting: use the weights of an earlier epoch, more "
            "steps, or a smaller step"
        )
    return judge("catastrophic_overfitting", share, OVERFITTING, f"{meaning}.", WONG, "warning")
