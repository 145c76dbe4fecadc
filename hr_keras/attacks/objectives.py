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
from typing import Any, Literal

import keras
from keras import ops

from hr_keras._core import information
from hr_keras._core.checks import check_choice
from hr_keras.attacks import closed_forms

Route = Literal["logits", "probabilities"]
ROUTES: tuple[Route, ...] = ("logits", "probabilities")

# Keeps a quotient finite where several classes have the same logit.
_TINY = 1e-12


@dataclass(frozen=True)
class Objective:
    """A per-example objective.

    Attributes:
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
    """A Keras loss, or a callable `(labels, logits) -> (n,)`, differentiated automatically.

    A Keras loss made with `from_logits=True`, and any callable, receives logits. Any other
    Keras loss receives probabilities. Keras' own losses receive class numbers or distributions,
    whichever each of them needs; everything else receives the labels unchanged.

    Attributes:
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
    """An objective that leads from the label to one other class.

    Attributes:
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


AnyObjective = Objective | KerasObjective
# What users may pass: a name, a Keras loss, a callable, or an objective.
Identifier = str | keras.losses.Loss | Callable[[Any, Any], Any] | AnyObjective


def get(identifier: Any) -> AnyObjective:
    """Returns an objective from its name, a Keras loss, a callable, or an objective.

    Args:
        identifier: `"ce"` (cross-entropy), `"hr"` (conditional entropy + cross-entropy;
            with soft labels + the Rényi term for α = 1.6), `"margin"` (see `margin`),
            `"dlr"` (see `dlr`), a `keras.losses.Loss`, or a callable
            `(labels, logits) -> (n,)`.

    Raises:
        ValueError: For anything else.
    """
    if isinstance(identifier, (Objective, KerasObjective)):
        return identifier
    if isinstance(identifier, str):
        return _BY_NAME[check_choice("objective", identifier, _BY_NAME)]
    if isinstance(identifier, keras.losses.Loss):
        from_logits = identifier.get_config().get("from_logits", False)
        return KerasObjective(identifier.name, _with_labels_for(identifier), not from_logits)
    if getattr(identifier, "__module__", "").startswith("keras."):
        raise ValueError(
            "A loss function of Keras does not say whether it takes logits: pass the class, for "
            "example keras.losses.SparseCategoricalCrossentropy(from_logits=True). "
            f"Received: {identifier!r}"
        )
    if callable(identifier):
        return KerasObjective(getattr(identifier, "__name__", "objective"), identifier, False)
    raise ValueError(
        f"`objective` must be one of {tuple(_BY_NAME)}, a Keras loss or a callable "
        f"(labels, logits) -> (n,). Received: {identifier!r}"
    )


def check_objective(identifier: Any, targeted: bool) -> Any:
    """Returns what the field `objective` of an attack holds, see `get`: the name of ours.

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


def hard_labels(labels: Any) -> Any:
    """Returns class numbers `(n,)`: the labels, or the most probable class of each row."""
    if len(labels.shape) == 1:
        return ops.cast(labels, "int32")
    return ops.cast(ops.argmax(labels, axis=-1), "int32")


def margin(labels: Any, logits: Any) -> Any:
    """Computes max_{k≠y} z_k − z_y `(n,)`: positive where the example is not classified as y."""
    own, others = closed_forms.label_and_other_logits(hard_labels(labels), logits)
    return ops.max(others, axis=-1) - own


def dlr(labels: Any, logits: Any) -> Any:
    """Computes the difference of logits ratio: the margin over the gap of 1st and 3rd class.

    DLR = (max_{k≠y} z_k − z_y) / (z_π1 − z_π3), π the classes by falling logit

    It changes neither with the scale nor with a shift of the logits. With fewer than 3 classes
    there is no such gap: the result is the margin.

    Args:
        labels: `(n,)` or `(n, classes)`, of which the most probable class counts.
        logits: `(n, classes)`.

    Returns:
        `(n,)`, at most 1.

    References:
        - Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of
          diverse parameter-free attacks", eq. (6)
    """
    if logits.shape[-1] < 3:
        return margin(labels, logits)
    highest = ops.top_k(logits, 3)[0]
    return margin(labels, logits) / (highest[:, 0] - highest[:, 2] + _TINY)


def targeted_dlr(labels: Any, targets: Any, logits: Any) -> Any:
    """Computes the DLR towards one class: `(z_t − z_y) / (z_π1 − (z_π3 + z_π4)/2)`.

    With fewer than 4 classes there is no such gap: the result is z_t − z_y.

    Args:
        labels: `(n,)` or `(n, classes)`, of which the most probable class counts.
        targets: `(n,)`, the classes to reach.
        logits: `(n, classes)`.

    Returns:
        `(n,)`.

    References:
        - Croce & Hein 2020, eq. (7); see `dlr`
    """
    difference = logit_difference(labels, targets, logits)
    if logits.shape[-1] < 4:
        return difference
    highest = ops.top_k(logits, 4)[0]
    return difference / (highest[:, 0] - (highest[:, 2] + highest[:, 3]) / 2 + _TINY)


def logit_difference(labels: Any, targets: Any, logits: Any) -> Any:
    """Computes z_t − z_y `(n,)`: positive where the target is more probable than the label."""
    own, _ = closed_forms.label_and_other_logits(hard_labels(labels), logits)
    target, _ = closed_forms.label_and_other_logits(targets, logits)
    return target - own


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
