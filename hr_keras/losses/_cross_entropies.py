"""Cross-entropies that HR is compared with: thin shells of `hr_keras._core.cross_entropies`."""

from typing import Any

import keras

from hr_keras._core import cross_entropies
from hr_keras._core.checks import check_number
from hr_keras.losses._batch_loss import BatchLoss, Reduction


@keras.saving.register_keras_serializable(package="hr_keras")
class EntropyRegularizedCrossEntropy(BatchLoss):
    """Computes cross-entropy plus a multiple of the entropy of the softmax, in nats.

    ```
    loss = Σ_i w_i (CE_i + λ·H_i)
    ```

    with H as in `HRLoss`. λ = 1 is the HR loss for α → 1. λ > 0 makes decisions more certain.
    λ < 0 is the confidence penalty, which makes them less certain.

    Args:
        weight: λ, a finite number of either sign. Default 1.
        from_logits: As in `HRLoss`.
        reduction: As in `HRLoss`.
        name: Name of the loss. Default `"entropy_regularized_cross_entropy"`.
        dtype: As in `HRLoss`.
        ignore_class: As in `HRLoss`.

    References:
        - Pereyra et al. 2017, "Regularizing Neural Networks by Penalizing Confident Output
          Distributions"
        - Grandvalet & Bengio 2004, "Semi-supervised Learning by Entropy Minimization"

    Example:

    ```python
    from hr_keras.losses import EntropyRegularizedCrossEntropy

    model.compile("sgd", loss=EntropyRegularizedCrossEntropy(weight=-0.1))
    model.fit(x_train, y_train, verbose=0)
    ```
    """

    def __init__(
        self,
        weight: float = 1.0,
        from_logits: bool = False,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "entropy_regularized_cross_entropy",
        dtype: str | None = None,
        ignore_class: int | None = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype, ignore_class)
        self.weight = check_number("weight", weight)

    def _per_example(self, labels: Any, log_q: Any) -> Any:
        return cross_entropies.entropy_regularized(labels, log_q, self.weight)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "weight": self.weight}


@keras.saving.register_keras_serializable(package="hr_keras")
class SmoothedCrossEntropy(BatchLoss):
    """Computes cross-entropy with label smoothing, in nats.

    ```
    loss = −Σ_i w_i Σ_y [(1−s)·p_i(y) + s/classes] · log q_i(y)
    ```

    the values of Keras' `CategoricalCrossentropy(label_smoothing=s)`, also for class numbers.

    Args:
        smoothing: s, from 0 to 1. Default 0.1.
        from_logits: As in `HRLoss`.
        reduction: As in `HRLoss`.
        name: Name of the loss. Default `"smoothed_cross_entropy"`.
        dtype: As in `HRLoss`.
        ignore_class: As in `HRLoss`.

    References:
        - Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision"

    Example:

    ```python
    from hr_keras.losses import SmoothedCrossEntropy

    model.compile("sgd", loss=SmoothedCrossEntropy(smoothing=0.1))
    model.fit(x_train, y_train, verbose=0)
    ```
    """

    def __init__(
        self,
        smoothing: float = 0.1,
        from_logits: bool = False,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "smoothed_cross_entropy",
        dtype: str | None = None,
        ignore_class: int | None = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype, ignore_class)
        self.smoothing = check_number("smoothing", smoothing, least=0, most=1)

    def _per_example(self, labels: Any, log_q: Any) -> Any:
        return cross_entropies.smoothed(labels, log_q, self.smoothing)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "smoothing": self.smoothing}


@keras.saving.register_keras_serializable(package="hr_keras")
class FocalCrossEntropy(BatchLoss):
    """Computes the focal loss, which gives less weight to examples that are right, in nats.

    ```
    loss = −Σ_i w_i Σ_y p_i(y) · (1 − q_i(y))^γ · log q_i(y)
    ```

    the values of Keras' `CategoricalFocalCrossentropy(alpha=1, gamma=γ)`, also for class numbers.
    γ = 0 is cross-entropy.

    Args:
        gamma: γ, at least 0. Default 2.
        from_logits: As in `HRLoss`.
        reduction: As in `HRLoss`.
        name: Name of the loss. Default `"focal_cross_entropy"`.
        dtype: As in `HRLoss`.
        ignore_class: As in `HRLoss`.

    References:
        - Lin et al. 2017, "Focal Loss for Dense Object Detection"

    Example:

    ```python
    from hr_keras.losses import FocalCrossEntropy

    model.compile("sgd", loss=FocalCrossEntropy(gamma=2.0))
    model.fit(x_train, y_train, verbose=0)
    ```
    """

    def __init__(
        self,
        gamma: float = 2.0,
        from_logits: bool = False,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "focal_cross_entropy",
        dtype: str | None = None,
        ignore_class: int | None = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype, ignore_class)
        self.gamma = check_number("gamma", gamma, least=0)

    def _per_example(self, labels: Any, log_q: Any) -> Any:
        return cross_entropies.focal(labels, log_q, self.gamma)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "gamma": self.gamma}


@keras.saving.register_keras_serializable(package="hr_keras")
class GeneralizedCrossEntropy(BatchLoss):
    """Computes the generalized cross-entropy, which is robust to wrong labels.

    ```
    loss = Σ_i w_i Σ_y p_i(y) · (1 − q_i(y)^order) / order
    ```

    the values of Keras' `CategoricalGeneralizedCrossEntropy(q=order)`, also for distributions and
    logits. order → 0 is cross-entropy, 1 the probability of the wrong classes.

    Args:
        order: Greater than 0, at most 1. Default 0.7, the value of the source.
        from_logits: As in `HRLoss`.
        reduction: As in `HRLoss`.
        name: Name of the loss. Default `"generalized_cross_entropy"`.
        dtype: As in `HRLoss`.
        ignore_class: As in `HRLoss`.

    References:
        - Zhang & Sabuncu 2018, "Generalized Cross Entropy Loss for Training Deep Neural Networks
          with Noisy Labels"

    Example:

    ```python
    from hr_keras.losses import GeneralizedCrossEntropy

    model.compile("sgd", loss=GeneralizedCrossEntropy(order=0.7))
    model.fit(x_train, y_train, verbose=0)
    ```
    """

    def __init__(
        self,
        order: float = 0.7,
        from_logits: bool = False,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "generalized_cross_entropy",
        dtype: str | None = None,
        ignore_class: int | None = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype, ignore_class)
        self.order = check_number("order", order, above=0, most=1)

    def _per_example(self, labels: Any, log_q: Any) -> Any:
        return cross_entropies.generalized(labels, log_q, self.order)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "order": self.order}


@keras.saving.register_keras_serializable(package="hr_keras")
class ReverseCrossEntropy(BatchLoss):
    """Computes the reverse cross-entropy, in nats.

    ```
    loss = −Σ_i w_i Σ_y (1 − p_i(y))/(classes − 1) · log softmax(−z_i)(y)
    ```

    where z are the logits. The source trains a network with logits −z on the reversed label, which
    is 0 for the true class and equal for all others. It negates the logits to predict and where it
    is attacked. Here the negation is in the loss. The classifier is then that of the source and it
    predicts by argmax, so metrics, callbacks and attacks need nothing special. With two classes
    the loss is cross-entropy.

    Args:
        from_logits: As in `HRLoss`.
        reduction: As in `HRLoss`.
        name: Name of the loss. Default `"reverse_cross_entropy"`.
        dtype: As in `HRLoss`.
        ignore_class: As in `HRLoss`.

    References:
        - Pang, Du, Dong & Zhu 2018, "Towards Robust Detection of Adversarial Examples"

    Example:

    ```python
    from hr_keras.losses import ReverseCrossEntropy

    model.compile("sgd", loss=ReverseCrossEntropy())
    model.fit(x_train, y_train, verbose=0)
    ```
    """

    def __init__(
        self,
        from_logits: bool = False,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "reverse_cross_entropy",
        dtype: str | None = None,
        ignore_class: int | None = None,
    ) -> None:
        super().__init__(from_logits, reduction, name, dtype, ignore_class)

    def _per_example(self, labels: Any, log_q: Any) -> Any:
        return cross_entropies.reverse(labels, log_q)
