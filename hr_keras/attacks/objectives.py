"""What an attack maximises: one number for each example, from the logits.

An objective is maximised through one of two routes:

- `"logits"`: a *surrogate* whose gradient is a positive multiple of the objective's,
  example by example, and neither vanishes nor rounds where the softmax saturates. An
  attack that uses the direction only loses nothing by it. Iterates are compared by a
  *score* that rises with the objective and saturates no more than the surrogate.
- `"probabilities"`: the published pipeline, automatic differentiation through the
  float32 softmax clipped to [1e-7, 1 − 1e-7]. Its gradient is exactly zero once the
  logit gap passes 16.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import ops

from hr_keras._core import information

ROUTES = ("logits", "probabilities")

# Takes the label's class out of a softmax, and leaves no infinity in a gradient.
_EXCLUDED = -1e30

# Keeps a quotient finite where several classes have the same logit.
_TINY = 1e-12


@dataclass(frozen=True)
class Objective:
    """A per-example objective.

    Attributes:
        name: what it is called in logs and tables.
        value: `(labels, log_probabilities) -> (n,)`, the objective itself, in nats.
        surrogate: `(labels, logits) -> (n,)`, whose gradient has the direction of the
            objective's; its value means nothing.
        increasing: `(labels, logits) -> (n,)`, an increasing function of the objective
            that does not saturate.
    """

    name: str
    value: Callable
    surrogate: Callable
    increasing: Callable

    def through(self, route, labels, logits):
        """`(n,)` to differentiate by one of the `ROUTES`; see the module's docstring."""
        if route == "logits":
            return self.surrogate(labels, logits)
        return self.value(labels, _published_log_probabilities(logits))

    def score(self, route, labels, logits):
        """`(n,)` to compare the iterates of one example by: greater is a better attack."""
        if route == "logits":
            return self.increasing(labels, logits)
        return self.through(route, labels, logits)


@dataclass(frozen=True)
class KerasObjective:
    """A Keras loss, or a callable `(labels, logits) -> (n,)`, differentiated as it stands.

    A Keras loss made with `from_logits=True`, and any callable, is given logits; any
    other Keras loss is given probabilities. Keras' own losses get class numbers or
    distributions as each of them wants, everything else the labels as they are.

    Attributes:
        name: what it is called in logs and tables.
        function: `(labels, outputs) -> (n,)`.
        takes_probabilities: whether `outputs` are probabilities.
    """

    name: str
    function: Callable
    takes_probabilities: bool

    def through(self, route, labels, logits):
        """`(n,)` to differentiate by one of the `ROUTES`; see the module's docstring."""
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

    def score(self, route, labels, logits):
        """`(n,)` to compare the iterates of one example by: greater is a better attack."""
        return self.through(route, labels, logits)


@dataclass(frozen=True)
class TargetedObjective:
    """An objective that leads from the label to one other class.

    Attributes:
        name: what it is called in logs and tables.
        function: `(labels, targets, logits) -> (n,)`.
    """

    name: str
    function: Callable

    def through(self, route, labels, targets, logits):
        """`(n,)` to differentiate by one of the `ROUTES`; see the module's docstring."""
        if route == "probabilities":
            logits = _published_log_probabilities(logits)
        return self.function(labels, targets, logits)

    def score(self, route, labels, targets, logits):
        """`(n,)` to compare the iterates of one example by: greater is a better attack."""
        return self.through(route, labels, targets, logits)


def get(identifier):
    """An objective from its name, a Keras loss, a callable, or an objective.

    Args:
        identifier: `"ce"` (cross-entropy), `"hr"` (conditional entropy + cross-entropy;
            with soft labels + the Rényi term for α = 1.6), `"margin"` (see `margin`),
            `"dlr"` (see `dlr`), a `keras.losses.Loss`, or a callable
            `(labels, logits) -> (n,)`.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(identifier, (Objective, KerasObjective, TargetedObjective)):
        return identifier
    if isinstance(identifier, str):
        if identifier in _BY_NAME:
            return _BY_NAME[identifier]
        nearest = difflib.get_close_matches(identifier, _BY_NAME, n=1, cutoff=0.3)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(
            f"`objective` must be one of {tuple(_BY_NAME)}, a Keras loss or a callable "
            f"(labels, logits) -> (n,).{hint} Received: {identifier!r}"
        )
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


def _with_labels_for(loss):
    """`loss.call`, with labels of the kind that one of Keras' own losses wants."""
    if not type(loss).__module__.startswith("keras."):
        return loss.call
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return lambda labels, outputs: loss.call(hard_labels(labels), outputs)

    def call(labels, outputs):
        if len(labels.shape) == 1:
            labels = ops.one_hot(labels, outputs.shape[-1], dtype=outputs.dtype)
        return loss.call(labels, outputs)

    return call


def hard_labels(labels):
    """Class numbers `(n,)`: the labels themselves, or the most probable class of each row."""
    if len(labels.shape) == 1:
        return ops.cast(labels, "int32")
    return ops.cast(ops.argmax(labels, axis=-1), "int32")


def margin(labels, logits):
    """max_{k≠y} z_k − z_y `(n,)`: positive where the example is not classified as y."""
    own, others = _own_and_others(hard_labels(labels), logits)
    return ops.max(others, axis=-1) - own


def dlr(labels, logits):
    """Difference of logits ratio: the margin over the gap from the 1st to the 3rd class.

    DLR = (max_{k≠y} z_k − z_y) / (z_π1 − z_π3), π the classes by falling logit

    Changes neither with the scale nor with a shift of the logits. With fewer than 3 classes
    there is no such gap: the margin.

    Args:
        labels: `(n,)` or `(n, classes)`, of which the most probable class counts.
        logits: `(n, classes)`.

    Returns:
        `(n,)`, at most 1.

    Source: Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an
        ensemble of diverse parameter-free attacks", eq. (6).
    """
    if logits.shape[-1] < 3:
        return margin(labels, logits)
    highest = ops.top_k(logits, 3)[0]
    return margin(labels, logits) / (highest[:, 0] - highest[:, 2] + _TINY)


def targeted_dlr(labels, targets, logits):
    """The DLR towards one class: `(z_t − z_y) / (z_π1 − (z_π3 + z_π4)/2)`.

    With fewer than 4 classes there is no such gap: z_t − z_y.

    Args:
        labels: `(n,)` or `(n, classes)`, of which the most probable class counts.
        targets: `(n,)`, the classes to be reached.
        logits: `(n, classes)`.

    Returns:
        `(n,)`.

    Source: Croce & Hein 2020, eq. (7).
    """
    difference = logit_difference(labels, targets, logits)
    if logits.shape[-1] < 4:
        return difference
    highest = ops.top_k(logits, 4)[0]
    return difference / (highest[:, 0] - (highest[:, 2] + highest[:, 3]) / 2 + _TINY)


def logit_difference(labels, targets, logits):
    """z_t − z_y `(n,)`: positive where the class `targets` is more probable than the label."""
    own, _ = _own_and_others(hard_labels(labels), logits)
    target, _ = _own_and_others(targets, logits)
    return target - own


def _published_log_probabilities(logits):
    return information.log_probabilities(ops.softmax(logits))


def _log_odds_against(labels, logits):
    """ℓ = logsumexp_{k≠y} z_k − z_y `(n,)`, and the logits of the other classes `(n, classes)`."""
    own, others = _own_and_others(labels, logits)
    return ops.logsumexp(others, axis=-1) - own, others


def _own_and_others(labels, logits):
    label = ops.one_hot(labels, logits.shape[-1], dtype="bool")
    own = ops.sum(ops.where(label, logits, 0.0), axis=-1)
    return own, ops.where(label, _EXCLUDED, logits)


def _ce_surrogate(labels, logits):
    """∇CE = u·∇ℓ with u = 1 − q(y) > 0: ℓ has the direction of CE."""
    hard = hard_labels(labels)
    log_odds, _ = _log_odds_against(hard, logits)
    return _where_soft(labels, information.cross_entropy, logits, log_odds)


def _hr_surrogate(labels, logits):
    """∇(CE + H) = u·([1 + (1 − u)(H(s) − ℓ)]∇ℓ + ∇H(s)), s the softmax over k ≠ y."""
    hard = hard_labels(labels)
    log_odds, others = _log_odds_against(hard, logits)
    entropy = information.conditional_entropy(ops.log_softmax(others, axis=-1))
    # The factor, at least 0.7, goes under H(s): beside ℓ it would be as large as the logit
    # gap, and overflow on the way back through a float16 model.
    factor = ops.stop_gradient(1.0 + ops.sigmoid(-log_odds) * (entropy - log_odds))
    surrogate = log_odds + entropy / factor
    return _where_soft(labels, _hr_value, logits, surrogate)


def _log_hr(labels, logits):
    """log(CE + H), from ℓ: a sum of positive terms, so that nothing rounds as both go to 0.

    With CE = softplus(ℓ), −log u = softplus(−ℓ) and H = h_b(u) + u·H(s):
    CE + H = CE·[2 − u + (u/CE)·(softplus(−ℓ) + H(s))].
    """
    log_odds, others = _log_odds_against(hard_labels(labels), logits)
    entropy = information.conditional_entropy(ops.log_softmax(others, axis=-1))
    minus_log_u = ops.softplus(-log_odds)
    # log softplus(ℓ) → ℓ, where softplus itself underflows
    log_ce = ops.where(log_odds < -15.0, log_odds, ops.log(ops.softplus(log_odds) + 1e-30))
    share = ops.exp(-minus_log_u - log_ce)
    factor = 2.0 - ops.exp(-minus_log_u) + share * (minus_log_u + entropy)
    return _where_soft(labels, _hr_value, logits, log_ce + ops.log(factor))


def _where_soft(labels, value, logits, surrogate):
    """A closed form where the label is one class, the objective itself where it is soft."""
    if len(labels.shape) == 1:
        return surrogate
    labels = ops.cast(labels, logits.dtype)
    soft = value(labels, ops.log_softmax(logits, axis=-1))
    return ops.where(ops.max(labels, axis=-1) >= 1.0, surrogate, soft)


def _hr_value(labels, log_probabilities):
    return information.hr_per_example(labels, log_probabilities, alpha=1.6)


_BY_NAME = {
    "ce": Objective("ce", information.cross_entropy, _ce_surrogate, _ce_surrogate),
    "hr": Objective("hr", _hr_value, _hr_surrogate, _log_hr),
    "margin": Objective("margin", margin, margin, margin),
    "dlr": Objective("dlr", dlr, dlr, dlr),
}

TARGETED_DLR = TargetedObjective("targeted_dlr", targeted_dlr)
LOGIT_DIFFERENCE = TargetedObjective("targeted", logit_difference)
