"""What a model is trained by: its loss, and how tables and pictures show it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hr_keras._core.checks import check_choice

if TYPE_CHECKING:
    import keras


def keep_model(model: Any, protocol: Any) -> Any:
    """Returns the model: what a method does that neither wraps nor changes it."""
    return model


@dataclass(frozen=True)
class Method:
    """One way to train a model.

    Args:
        name: Its name in files and on the command line, such as `"hr"`.
        label: Its name in tables and pictures, such as `"HR"`.
        colour: Its colour in pictures, `"#rrggbb"`.
        make_loss: Makes the Keras loss that the model is compiled with, from a `Protocol`.
        wrap_model: Makes the model that is compiled and trained, from the classifier and a
            `Protocol`; by default it is the classifier.
        finish_model: Makes the model that is measured and saved, from the trained classifier and
            a `Protocol`; by default it is the classifier.
        trains_as: Name of the method that trains in the same way. One learning rate is chosen for
            both, and with the same rate the model that the other one trained is used again. Empty
            for a method that trains in a way of its own.

    Example:

    ```python
    import dataclasses

    from hr_keras import HRLoss
    from hr_keras.experiments.methods import METHODS, get_method

    steep = dataclasses.replace(
        get_method("hr"),
        name="hr-4",
        label="HR, α = 4",
        colour="#009E73",
        make_loss=lambda protocol: HRLoss(alpha=4.0),
    )
    METHODS[steep.name] = steep  # a protocol may name it now
    del METHODS[steep.name]
    ```
    """

    name: str
    label: str
    colour: str
    make_loss: "Callable[[Any], keras.losses.Loss]"
    wrap_model: "Callable[[keras.Model, Any], keras.Model]" = keep_model
    finish_model: "Callable[[keras.Model, Any], keras.Model]" = keep_model
    trains_as: str = ""

    @property
    def is_adversarial(self) -> bool:
        """Whether the model is wrapped, for the attack that `train_epsilon` is the size of."""
        return self.wrap_model is not keep_model

    @property
    def makes_one_step(self) -> bool:
        """Whether the attack of its training makes a single step, not `train_steps`."""
        return self.wrap_model is _FAST

    @property
    def needs_own_rate(self) -> bool:
        """Whether only a learning rate of its own makes it differ from `trains_as`."""
        return bool(self.trains_as) and self.finish_model is keep_model


def _scale_logits(model: Any, protocol: Any) -> Any:
    from hr_keras.experiments.logit_scale import scale_logits

    return scale_logits(model, LOGIT_FACTOR)


def _make_loss(name: str, **arguments: Any) -> "keras.losses.Loss":
    """Makes a loss of this package, which must not be imported before there is one to make."""
    from hr_keras import losses

    loss: keras.losses.Loss = getattr(losses, name)(**arguments)
    return loss


def _make_cross_entropy(protocol: Any) -> "keras.losses.Loss":
    import keras

    return keras.losses.SparseCategoricalCrossentropy()


def _make_hr(protocol: Any) -> "keras.losses.Loss":
    return _make_loss("HRLoss", alpha=protocol.alpha)


def _train_on_pgd(kind: str, **steps: Any) -> "Callable[[keras.Model, Any], keras.Model]":
    """Wraps a model for adversarial training; without `steps` PGD makes the protocol's.

    Without the warm-up, training with Adam on digits at ε = 0.3 stays at chance.
    """

    def wrap(model: Any, protocol: Any) -> Any:
        from hr_keras import attacks, training

        attack = attacks.PGD(protocol.train_epsilon, **(steps or {"n_iter": protocol.train_steps}))
        return getattr(training, kind)(model, attack, warmup_steps=WARMUP_STEPS)

    return wrap


_FAST = _train_on_pgd("AdversarialTraining", n_iter=1, step_size=1.25)  # Wong et al. 2020
_PGD = _train_on_pgd("AdversarialTraining")
_TRADES = _train_on_pgd("TRADES")

WARMUP_STEPS = 300  # of adversarial training, in which ε rises
LOGIT_FACTOR = 16.0  # of `ce_scaled`: a power of 2, which rounds nothing

# The colours can be told apart with red-green blindness: Okabe & Ito's, then others.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("ce", "CE", "#0072B2", _make_cross_entropy),
        Method("hr", "HR", "#D55E00", _make_hr),
        Method(
            "ce_entropy", "CE + H", "#E69F00",
            lambda run: _make_loss("EntropyRegularizedCrossEntropy", weight=1.0),
        ),
        Method("renyi", "Rényi", "#009E73", lambda run: _make_loss("RenyiLoss", alpha=run.alpha)),
        Method(
            "confidence_penalty", "CE − 0.1 H", "#56B4E9",
            lambda run: _make_loss("EntropyRegularizedCrossEntropy", weight=-0.1),
        ),
        Method(
            "label_smoothing", "label smoothing", "#CC79A7",
            lambda run: _make_loss("SmoothedCrossEntropy", smoothing=0.1),
        ),
        Method("focal", "focal", "#661100", lambda run: _make_loss("FocalCrossEntropy", gamma=2.0)),
        Method(
            "gce", "GCE", "#F0E442", lambda run: _make_loss("GeneralizedCrossEntropy", order=0.7)
        ),
        Method("rce", "RCE", "#000000", lambda run: _make_loss("ReverseCrossEntropy")),
        # The null model: the decisions and the true robustness of CE, and more confidence.
        Method(
            "ce_scaled", f"CE × {LOGIT_FACTOR:g}", "#BBBBBB", _make_cross_entropy,
            finish_model=_scale_logits, trains_as="ce",
        ),
        # CE with steps as large as those of HR; it must be given such a learning rate.
        Method("ce_step", "CE with larger steps", "#CC3344", _make_cross_entropy, trains_as="ce"),
        # Adversarial training, with cross-entropy and with HR inside.
        Method("fgsm_rs", "FGSM-RS", "#7766FF", _make_cross_entropy, _FAST),
        Method("fgsm_rs_hr", "FGSM-RS, HR", "#0000FF", _make_hr, _FAST),
        Method("pgd_at", "PGD-AT", "#550055", _make_cross_entropy, _PGD),
        Method("pgd_at_hr", "PGD-AT, HR", "#663344", _make_hr, _PGD),
        Method("trades", "TRADES", "#AADD88", _make_cross_entropy, _TRADES),
        Method("trades_hr", "TRADES, HR", "#221199", _make_hr, _TRADES),
    )
}  # fmt: skip
"""All methods by name. Add your own before a protocol names it."""

BUILT_IN = tuple(METHODS)  # known in every process; what users add is known in theirs only


def get_method(name: str) -> Method:
    """Returns a method by its name.

    Args:
        name: One of `METHODS`.

    Raises:
        ValueError: For any other name.
    """
    return METHODS[check_choice("method", name, METHODS)]


def check_methods(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names of methods as a tuple.

    Args:
        names: Each one of `METHODS`.

    Raises:
        ValueError: If a name is unknown or given twice, or if there is none.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        get_method(name)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"`methods` must hold at least one name and none twice. Received: {names}")
    return names
