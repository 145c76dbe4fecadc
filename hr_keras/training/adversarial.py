"""Adversarial training inside `fit`: Keras models whose training step attacks the batch first."""

import numbers
from typing import Any

import keras
from keras import ops

from hr_keras._core.logits import classifier_output, logits_of
from hr_keras.attacks import Attack, _in_graph, closed_forms
from hr_keras.training._adversarial_model import AdversarialModel, find_labels, hard_labels

__all__ = ["MART", "TRADES", "AdversarialTraining"]


@keras.saving.register_keras_serializable(package="hr_keras")
class AdversarialTraining(AdversarialModel):
    """Trains a classifier on adversarial examples of every batch.

    ```
    loss = (1 − c)·L(y, f(x')) + c·L(y, f(x)),   x' = attack(x)
    ```

    with L the compiled loss, any Keras loss. `HRLoss` is one number for the adversarial batch,
    and one for the clean batch. Compile and fit this model as any other; `model` is then the
    trained classifier. Metrics in the logs are of adversarial images in training and of the
    images as they are in validation: for robust `val_…` keys use `FGSMCallback` or
    `AttackCallback`.

    `PGD(ε, n_iter=k)` is the training of Madry et al.,
    `PGD(ε, n_iter=1, step_size=1.25, random_start=True)` the fast one of Wong et al. The attack
    makes all of its `n_iter` steps on every example inside the compiled step, and
    trains on the last point. `stop_early`, `n_restarts` and `batch_size` have no effect. Its
    random numbers depend on its seed, on `optimizer.iterations` and on the row in the global
    batch: training resumes with the same bits, and replicas do not change it.

    While the attack runs, layers work as in training, as in the code of both papers: batch
    normalisation uses the statistics of the attacked batch, through which the gradient passes: it
    is that of the sum of the attack's objective over the batch. The moving statistics change once
    a step, in the training pass. For 0 < c < 1 clean and adversarial images make that pass
    together, and are normalised together (Kurakin et al.).

    If the attack makes a single step, `single_step_gap` is in the logs: how much higher accuracy
    under this attack is than under PGD with 10 steps. It is measured on the first batch of an
    epoch (of the validation data as `val_single_step_gap`) and after every 100 steps. A rise
    towards 1 is catastrophic overfitting; see `diagnostics.check`.

    Args:
        model: A Keras classifier that is built, `(n, ...)` → `(n, classes)`, of floating-point
            images. Under a strategy make both in its scope.
        attack: `FGSM`, `PGD`, `MomentumPGD` or a subclass of `PGD`, not targeted, with the
            `bounds` of the images. The others (`APGD`, `FAB`, `Noise`, `Square`, `Transfer`,
            `WorstCase`) are refused: they do not make the same number of gradient steps on every
            example.
        clean_weight: c, the share of the clean images in the loss, from 0 to 1. Default 0.0.
        name: Name of this model. Default `None`: `"robust_"` and the name of the classifier.
        warmup_steps: In so many first steps ε rises linearly to that of the attack. A large ε
            from the start may keep the accuracy at chance. Default 0.

    Raises:
        ValueError: If an argument is not as described; in `fit`, if images in an array leave
            `bounds`, or are not floating point. (In a data set, TensorFlow raises an
            `InvalidArgumentError` at the batch that leaves them, except in code compiled with
            XLA, which has no such checks and clips the images.)

    References:
        - Madry et al. 2018, "Towards Deep Learning Models Resistant to Adversarial Attacks"
        - Wong, Rice & Kolter 2020, "Fast is better than free: Revisiting adversarial training"
        - Kurakin, Goodfellow & Bengio 2017, "Adversarial Machine Learning at Scale"

    Example:

    ```python
    from hr_keras import HRLoss, attacks, training

    robust = training.AdversarialTraining(model, attacks.PGD(0.1, n_iter=3))
    robust.compile("adam", loss=HRLoss(alpha=1.6), metrics=["accuracy"])
    robust.fit(x_train, y_train, validation_data=(x_val, y_val), verbose=0)
    model.save(tmp_path / "robust.keras")  # the trained classifier, which needs nothing of ours
    ```
    """

    attacks_in_training_mode = True
    clean_weight: float

    def __init__(
        self,
        model: keras.Model,
        attack: Attack,
        clean_weight: float = 0.0,
        name: str | None = None,
        warmup_steps: int = 0,
    ) -> None:
        if not (isinstance(clean_weight, numbers.Real) and 0 <= clean_weight <= 1):
            raise ValueError(
                f"`clean_weight` must be a number from 0 to 1. Received: {clean_weight!r}"
            )
        super().__init__(model, attack, name, warmup_steps)
        self.clean_weight = float(clean_weight)

    def find_inputs(self, x: Any, y: Any, keys: Any) -> Any:
        if self.clean_weight == 1:
            return x
        adversarial = self.perturb(x, find_labels(y), keys)
        return adversarial if self.clean_weight == 0 else (x, adversarial)

    def combine(self, y: Any, clean: Any, adversarial: Any, sample_weight: Any) -> Any:
        of_clean, of_adversarial = (
            self.compute_loss(y=y, y_pred=outputs, sample_weight=sample_weight)
            for outputs in (clean, adversarial)
        )
        return self.clean_weight * of_clean + (1 - self.clean_weight) * of_adversarial

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "clean_weight": self.clean_weight}


class _WithDivergence(AdversarialModel):
    """What TRADES and MART share: β, and clean and adversarial images in every step."""

    beta: float

    def __init__(
        self,
        model: keras.Model,
        attack: Attack,
        beta: float,
        name: str | None = None,
        warmup_steps: int = 0,
    ) -> None:
        if not (isinstance(beta, numbers.Real) and 0 < beta < float("inf")):
            raise ValueError(f"`beta` must be a finite number greater than 0. Received: {beta!r}")
        super().__init__(model, attack, name, warmup_steps)
        output = classifier_output(model)
        if output.kind == "sigmoid" or output.is_single:
            raise ValueError(
                "`model` must return logits, or probabilities that sum to 1, of at least 2 "
                "classes: the KL divergence is between distributions. Received: model "
                f"{model.name!r}, which ends in a sigmoid or has one output"
            )
        self.beta = float(beta)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "beta": self.beta}


@keras.saving.register_keras_serializable(package="hr_keras")
class TRADES(_WithDivergence):
    """Trains a classifier on clean images, and to decide the same on adversarial ones.

    ```
    loss = L(y, f(x)) + β · mean_i KL(p(x_i) ‖ p(x'_i)),   x' ≈ argmax KL(p(x) ‖ p(x'))
    ```

    with L the compiled loss, any Keras loss, and p the softmax. The gradient passes through both
    p(x) and p(x'). The attack maximises the KL, not the loss of the labels. All else is as for
    `AdversarialTraining`; the metrics in the logs of the training are of adversarial images.

    Three things differ from the authors' code: the attack starts uniformly in the ball, not at
    normal noise of size 0.001; p(x) in the attack is computed once, not in every step; and clean
    and adversarial images are normalised together in one training pass, in which the
    moving statistics change once, not three times. As there, batch normalisation uses its
    moving statistics while the attack runs.

    Args:
        model: See `AdversarialTraining`.
        attack: `PGD`, or `MomentumPGD(random_start=True)`, with `objective="ce"`: the
            cross-entropy with p(x) in place of the label has the gradient of the KL. It must
            start at random, because that gradient is zero at x.
        beta: β, greater than 0. Default 6.0, the authors' for CIFAR-10 and MNIST.
        name: See `AdversarialTraining`.
        warmup_steps: See `AdversarialTraining`.

    Raises:
        ValueError: As `AdversarialTraining`.

    References:
        - Zhang et al. 2019, "Theoretically Principled Trade-off between Robustness and Accuracy",
          eq. (5), and github.com/yaodongyu/TRADES

    Example:

    ```python
    from hr_keras import attacks, training

    robust = training.TRADES(model, attacks.PGD(0.1, n_iter=3), beta=6.0)
    robust.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    robust.fit(x_train, y_train, verbose=0)
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        attack: Attack,
        beta: float = 6.0,
        name: str | None = None,
        warmup_steps: int = 0,
    ) -> None:
        steps = _in_graph.as_pgd(attack)
        if steps.objective != "ce" or not steps.random_start:
            raise ValueError(
                "`attack` must have objective='ce' and random_start=True: TRADES maximises the "
                "KL divergence from the clean prediction, which has no gradient at the clean "
                f"image. Received: {attack!r}"
            )
        super().__init__(model, attack, beta, name, warmup_steps)

    def find_inputs(self, x: Any, y: Any, keys: Any) -> Any:
        clean = ops.stop_gradient(ops.softmax(logits_of(self.model, x)))
        return x, self.perturb(x, clean, keys)

    def combine(self, y: Any, clean: Any, adversarial: Any, sample_weight: Any) -> Any:
        loss = self.compute_loss(y=y, y_pred=clean, sample_weight=sample_weight)
        log_p, log_q = map(self.log_probabilities, (clean, adversarial))
        divergence = self.mean(kl_divergence(log_p, log_q), y, sample_weight)
        return loss + self.beta * ops.cast(divergence, loss.dtype)


@keras.saving.register_keras_serializable(package="hr_keras")
class MART(_WithDivergence):
    """Trains a classifier on adversarial images, most on those it has wrong without an attack.

    ```
    loss = L(y, f(x')) + mean_i[ −log(1 − max_{k≠y} p_k(x'_i))
                                 + β·(1 − p_y(x_i))·KL(p(x_i) ‖ p(x'_i)) ]
    ```

    with L the compiled loss, any Keras loss, and p the softmax: with cross-entropy the first two
    terms are the paper's boosted cross-entropy. The attack maximises its own objective, in the
    paper the cross-entropy. All else is as for `AdversarialTraining`.

    Differences from the authors' code: all logarithms are exact (theirs adds 1e-4 to
    1 − p and 1e-12 to p); clean and adversarial images are normalised together in one training
    pass, in which the moving statistics change once; and the attack starts uniformly in
    the ball. As there, batch normalisation uses its moving statistics while the attack runs.

    Args:
        model: See `AdversarialTraining`.
        attack: See `AdversarialTraining`.
        beta: β (λ in the paper), greater than 0. Default 5.0, as in the paper.
        name: See `AdversarialTraining`.
        warmup_steps: See `AdversarialTraining`.

    Raises:
        ValueError: As `AdversarialTraining`.

    References:
        - Wang et al. 2020, "Improving Adversarial Robustness Requires Revisiting Misclassified
          Examples", eq. (8) to (11), and github.com/YisenWang/MART

    Example:

    ```python
    from hr_keras import attacks, training

    robust = training.MART(model, attacks.PGD(0.1, n_iter=3), beta=5.0)
    robust.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    robust.fit(x_train, y_train, verbose=0)
    ```
    """

    def __init__(
        self,
        model: keras.Model,
        attack: Attack,
        beta: float = 5.0,
        name: str | None = None,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(model, attack, beta, name, warmup_steps)

    def find_inputs(self, x: Any, y: Any, keys: Any) -> Any:
        return x, self.perturb(x, find_labels(y), keys)

    def combine(self, y: Any, clean: Any, adversarial: Any, sample_weight: Any) -> Any:
        loss = self.compute_loss(y=y, y_pred=adversarial, sample_weight=sample_weight)
        log_p, log_q = map(self.log_probabilities, (clean, adversarial))
        terms = mart_terms(hard_labels(y), log_p, log_q, self.beta)
        return loss + ops.cast(self.mean(terms, y, sample_weight), loss.dtype)


def kl_divergence(log_p: Any, log_q: Any) -> Any:
    """Computes KL(p ‖ q) of each example, `(n, classes)` → `(n,)`."""
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


def mart_terms(labels: Any, log_p: Any, log_q: Any, beta: float) -> Any:
    """Computes what MART adds to the loss of an adversarial example, `(n,)`.

    −log(1 − max_{k≠y} q_k) + β·(1 − p_y)·KL(p ‖ q)

    Args:
        labels: Class numbers `(n,)`.
        log_p: Log-probabilities of the clean images, `(n, classes)`.
        log_q: Those of the adversarial images.
        beta: β.
    """
    own, _ = closed_forms.split_logits(labels, log_p)
    _, wrong = closed_forms.split_logits(labels, log_q)
    _, others = closed_forms.split_logits(ops.argmax(wrong, axis=-1), log_q)
    boost = -ops.logsumexp(others, axis=-1)
    return boost - beta * ops.expm1(own) * kl_divergence(log_p, log_q)
