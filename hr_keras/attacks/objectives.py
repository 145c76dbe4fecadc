"""What an attack maximises: one number for each example, computed from the logits.

An objective is maximised through one of two routes:

- `"logits"`: a *surrogate* whose gradient is a positive multiple of the objective's gradient,
  example by example, and neither vanishes nor rounds where the softmax saturates (see
  `closed_forms`). Iterates are compared by a *score* that increases with the objective and
  saturates no more than the surrogate.
- `"probabilities"`: the published pipeline, automatic differentiation through the float32
  softmax clipped to [1e-7, 1 − 1e-7]. Its gradient is exactly zero once the logit gap
  exceeds 16.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import keras
from keras import ops

from hr_keras._core import information
from hr_keras._core.checks import check_choice
from hr_keras.attacks import closed_forms
from hr_keras.attacks.closed_forms import dlr, logit_difference, margin, targeted_dlr
from hr_keras.attacks.closed_forms import hard_labels as hard_labels

__all__ = [
    "ROUTES",
    "Identifier",
    "KerasObjective",
    "Objective",
    "Route",
    "TargetedObjective",
    "dlr",
    "get",
    "logit_difference",
    "margin",
    "targeted_dlr",
]

Route = Literal["logits", "probabilities"]
"""What the gradient goes through: `"logits"`, exact, or `"probabilities"`, as published."""
ROUTES: tuple[Route, ...] = ("logits", "probabilities")
"""Both routes."""


@dataclass(frozen=True)
class Objective:
    """Holds a per-example objective in the forms that attacks need.

    Args:
        name: Name in logs and tables.
        value: `(labels, log_probabilities) -> (n,)`, the objective itself, in nats.
        surrogate: `(labels, logits) -> (n,)`, whose gradient has the direction of the
            objective's gradient. Its value has no meaning.
        increasing: `(labels, logits) -> (n,)`, an increasing function of the objective
            that does not saturate.
    """

    name: str
    value: Callable[[Any, Any], Any]
    surrogate: Callable[[Any, Any], Any]
    increasing: Callable[[Any, Any], Any]

    def through(self, route: Route, labels: Any, logits: Any) -> Any:
        """Computes `(n,)` to differentiate through one of the `ROUTES`."""
        if route == "logits":
            return self.surrogate(labels, logits)
        return self.value(labels, _published_log_probabilities(logits))

    def score(self, route: Route, labels: Any, logits: Any) -> Any:
        """Computes `(n,)` to compare the iterates of one example: greater is a better attack."""
        if route == "logits":
            return self.increasing(labels, logits)
        return self.through(route, labels, logits)


@dataclass(frozen=True)
class KerasObjective:
    """Makes a Keras loss or a callable `(labels, logits) -> (n,)` an objective.

    A Keras loss made with `from_logits=True`, and any callable, receives logits. Any other
    Keras loss receives probabilities. Keras' own losses receive class numbers or distributions,
    whichever each of them needs; everything else receives the labels unchanged.

    Args:
        name: Name in logs and tables.
        function: `(labels, outputs) -> (n,)`.
        takes_probabilities: Whether `outputs` are probabilities.
    """

    name: str
    function: Callable[[Any, Any], Any]
    takes_probabilities: bool

    def through(self, route: Route, labels: Any, logits: Any) -> Any:
        """Computes `(n,)` to differentiate through one of the `ROUTES`."""
        outputs = logits
        if route == "probabilities":
            outputs = _published_log_probabilities(logits)
            if self.takes_probabilities:
                outputs = ops.exp(outputs)
        elif self.takes_probabilities:
            outputs = ops.softmax(logits)
        values = self.function(labels, outputs)
        if len(values.shape) != 1:
            raise ValueError(
                f"An objective must return one value for each example, shape (n,). "
                f"Received: objective {self.name!r} returning shape {tuple(values.shape)}"
            )
        return values

    def score(self, route: Route, labels: Any, logits: Any) -> Any:
        """Computes `(n,)` to compare the iterates of one example: greater is a better attack."""
        return self.through(route, labels, logits)


@dataclass(frozen=True)
class TargetedObjective:
    """Holds an objective that leads from the label to one other class.

    Args:
        name: Name in logs and tables.
        function: `(labels, targets, logits) -> (n,)`.
    """

    name: str
    function: Callable[[Any, Any, Any], Any]

    def through(self, route: Route, labels: Any, targets: Any, logits: Any) -> Any:
        """Computes `(n,)` to differentiate through one of the `ROUTES`."""
        if route == "probabilities":
            logits = _published_log_probabilities(logits)
        return self.function(labels, targets, logits)

    def score(self, route: Route, labels: Any, targets: Any, logits: Any) -> Any:
        """Computes `(n,)` to compare the iterates of one example: greater is a better attack."""
        return self.through(route, labels, targets, logits)


AnyObjective: TypeAlias = Objective | KerasObjective
# What users may pass: a name, a Keras loss, a callable, or an objective.
Identifier: TypeAlias = str | keras.losses.Loss | Callable[[Any, Any], Any] | AnyObjective
"""What attacks take for an objective: its name, a Keras loss or a callable, see `get`."""


def get(identifier: Any) -> AnyObjective:
    """Makes an objective from its name, a Keras loss or a callable.

    Args:
        identifier: `"ce"` (cross-entropy), `"hr"` (conditional entropy + cross-entropy;
            with soft labels + the Rényi term for α = 1.6), `"margin"`, `"dlr"` (see
            `closed_forms`), a `keras.losses.Loss`, a callable `(labels, logits) -> (n,)`, or an
            objective, which is returned unchanged.

    Returns:
        An `Objective` or a `KerasObjective`.

    Raises:
        ValueError: For anything else.

    Example:
        ```python
        from hr_keras.attacks import objectives

        objective = objectives.get("hr")
        values = objective.score("logits", np.array([0]), np.array([[8.0, 1.0, 3.0]], "float32"))
        ```
    """
    if isinstance(identifier, (Objective, KerasObjective)):
        return identifier
    if any(identifier is one for one in (targeted_dlr, logit_difference)) or isinstance(
        identifier, TargetedObjective
    ):
        raise ValueError(
            "This objective leads to a class that the attack must choose: use "
            "APGD(epsilon, 'targeted_dlr') or FAB(epsilon); of one's own class, 'margin' with "
            f"targeted=True. Received: {identifier!r}"
        )
    if isinstance(identifier, type) and issubclass(identifier, keras.losses.Loss):
        name = identifier.__name__
        raise ValueError(
            f"`objective` must be a loss, not its class: pass {name}(), or "
            f"{name}(from_logits=True) to attack through the logits. Received: {identifier!r}"
        )
    if isinstance(identifier, str):
        return _BY_NAME[check_choice("objective", identifier, _BY_NAME)]
    if isinstance(identifier, keras.losses.Loss):
        from_logits = identifier.get_config().get("from_logits", False)
        return KerasObjective(identifier.name, _with_labels_for(identifier), not from_logits)
    if getattr(identifier, "__module__", "").startswith("keras."):
        raise ValueError(
            "A loss function of Keras does not say whether it takes logits: pass an instance of "
            "the class, for example keras.losses.SparseCategoricalCrossentropy(from_logits=True). "
            f"Received: {identifier!r}"
        )
    if callable(identifier):
        return KerasObjective(getattr(identifier, "__name__", "objective"), identifier, False)
    raise ValueError(
        f"`objective` must be one of {tuple(_BY_NAME)}, a Keras loss or a callable "
        f"(labels, logits) -> (n,). Received: {identifier!r}"
    )


def check_objective(identifier: Any, targeted: bool) -> Any:
    """Returns what the field `objective` of an attack holds: the name if it is one of ours.

    Raises:
        ValueError: If it is no objective, or one that makes no sense with `targeted`.
    """
    objective = get(identifier)
    if targeted and objective.name == "dlr":
        raise ValueError(
            "`targeted` must be False with objective='dlr', whose gradient is 0 towards the "
            "class of the third highest logit: use 'margin'. Received: targeted=True"
        )
    return objective.name if objective in _BY_NAME.values() else identifier


def check_route(through: Any) -> Route:
    """Returns the route, or raises a ValueError unless it is one of `ROUTES`."""
    check_choice("through", through, ROUTES)
    return through


def _with_labels_for(loss: keras.losses.Loss) -> Callable[[Any, Any], Any]:
    """Returns `loss.call`, with labels of the kind that one of Keras' own losses needs."""
    if not type(loss).__module__.startswith("keras."):
        return loss.call
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return lambda labels, outputs: loss.call(hard_labels(labels), outputs)

    def call(labels: Any, outputs: Any) -> Any:
        if len(labels.shape) == 1:
            labels = ops.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
        return loss.call(labels, outputs)

    return call


def _published_log_probabilities(logits: Any) -> Any:
    return information.log_probabilities(ops.softmax(logits))


def _hr_value(labels: Any, log_probabilities: Any) -> Any:
    return information.hr_per_example(labels, log_probabilities, alpha=1.6)


def _for_soft_labels_too(
    closed_form: Callable[[Any, Any], Any], value: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    """Extends a closed form, which is for one class, by the objective for soft labels."""

    def extended(labels: Any, logits: Any) -> Any:
        exact = closed_form(hard_labels(labels), logits)
        if len(labels.shape) == 1:
            return exact
        labels = ops.cast(labels, logits.dtype)
        soft = value(labels, ops.log_softmax(logits, axis=-1))
        return ops.where(ops.max(labels, axis=-1) >= 1.0, exact, soft)

    return extended


_CE = _for_soft_labels_too(closed_forms.ce_surrogate, information.cross_entropy)
_BY_NAME = {
    "ce": Objective("ce", information.cross_entropy, _CE, _CE),
    "hr": Objective(
        "hr",
        _hr_value,
        _for_soft_labels_too(closed_forms.hr_surrogate, _hr_value),
        _for_soft_labels_too(closed_forms.log_hr, _hr_value),
    ),
    "margin": Objective("margin", margin, margin, margin),
    "dlr": Objective("dlr", dlr, dlr, dlr),
}

TARGETED_DLR = TargetedObjective("targeted_dlr", targeted_dlr)
LOGIT_DIFFERENCE = TargetedObjective("targeted", logit_difference)
