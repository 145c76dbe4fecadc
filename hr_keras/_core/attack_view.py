"""How attacks see a model: one output, one attacked input, a mean of passes, straight through."""

from typing import Any

import keras
import numpy as np
from keras import ops

from hr_keras._core.checks import check_count
from hr_keras._core.inputs import Inputs
from hr_keras._core.logits import check_backend, classifier_output, input_spec
from hr_keras._core.passes import MeanOfPasses, single_pass
from hr_keras._core.straight_through import find_layer, passed_straight_through


def attack_view(
    model: keras.Model,
    output: str | int | None = None,
    attacked_input: str | None = None,
    eot: int = 1,
    straight_through: Any = (),
) -> keras.Model:
    """Shows a model to attacks as a classifier of one attacked input and one output.

    ```
    gradient = 1/eot · Σ_k ∇L(z_k, y),   decision = argmax Σ_k softmax(z_k),   k = 1 … eot
    ```

    z_k are the logits of pass k, found behind a softmax of the chosen output. The view shares
    the weights of the model. Every attack takes it as a model, and so do `evaluation`,
    `diagnostics` and `audit`. Make a view once: code is compiled for each.

    With `attacked_input`, `images` are a dict of arrays by the names of the inputs, or a tuple in
    the order of `model.inputs`. Adversarial images come back in the same form, with the other
    inputs unchanged. ε and `bounds` are those of the attacked input. Datasets of several inputs
    are not read: pass arrays.

    Args:
        model: A Keras model. Call a subclassed model once before.
        output: Which output is attacked: its name (that of the last layer, or the key of a dict),
            or its position. Default `None`: the model has one.
        attacked_input: Name of the input that is attacked, of a functional model with several.
            Default `None`: the model has one.
        eot: Passes that a gradient and a decision are averaged over ("expectation over
            transformation"), for a model that draws random numbers; 20 in AutoAttack's `rand`. It
            multiplies the cost. Default 1.
        straight_through: A layer of the model, its name, or several: its forward pass is exact
            and its gradient that of the identity (BPDA), for preprocessing without a gradient.
            The layer must return one tensor of the shape that it takes. Default: none.

    Returns:
        A `keras.Model` for inference. It can be saved and audited as a file.

    Raises:
        ValueError: If an argument is not as described, or what is chosen is no classifier.

    References:
        - Athalye, Carlini & Wagner 2018, "Obfuscated Gradients Give a False Sense of Security"
        - Croce & Hein 2020, "Reliable evaluation of adversarial robustness" (`rand`)

    Example:
        ```python
        from hr_keras.attacks import PGD
        from hr_keras.models import attack_view

        noise = keras.layers.GaussianNoise(0.1, name="noise")
        noisy = keras.Sequential([keras.Input((28, 28, 1)), noise, model])
        view = attack_view(noisy, eot=3, straight_through="noise")
        adversarial = PGD(0.1, n_iter=2)(view, images, labels)
        ```
    """
    check_backend()
    if not isinstance(model, keras.Model):
        raise ValueError(f"`model` must be a keras.Model. Received: {type(model).__name__}")
    eot = check_count("eot", eot)
    several = isinstance(straight_through, (tuple, list))
    chosen = tuple(straight_through) if several else (straight_through,)
    names = tuple(find_layer(model, layer).name for layer in chosen)
    view = AttackView(model, output, attacked_input, names)
    return view if eot == 1 else MeanOfPasses(view, eot)


@keras.saving.register_keras_serializable(package="hr_keras")
class AttackView(keras.Model):
    """See `attack_view`, which makes it."""

    def __init__(
        self,
        model: keras.Model,
        chosen_output: str | int | None = None,
        attacked_input: str | None = None,
        straight_through: tuple[str, ...] = (),
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name or f"{model.name}_view", **kwargs)
        self.model = model
        self.chosen_output = chosen_output
        self.attacked_input = attacked_input
        self.straight_through = tuple(straight_through)
        self.built = True
        if attacked_input is not None and attacked_input not in self._inputs():
            raise ValueError(
                f"`attacked_input` must be one of the inputs {list(self._inputs())} of a "
                "functional model (keras.Model(inputs, model(inputs)) makes one of any model). "
                f"Received: attacked_input={attacked_input!r}"
            )
        if len(self._inputs()) == 1:
            self.attacked_input = None
        if classifier_output(self).fixed_batch is not None:
            raise ValueError(
                "`model` must take any number of examples. Received: model "
                f"{model.name!r} of fixed batch size {classifier_output(self).fixed_batch}"
            )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if training:
            raise ValueError("A view is for inference: train the model it was made of.")
        layers = [find_layer(self.model, name) for name in self.straight_through]
        with passed_straight_through(layers):
            outputs = self.model(inputs, training=False)
        return outputs if self.chosen_output is None else self._choose(outputs)

    def _choose(self, outputs: Any) -> Any:
        if isinstance(outputs, dict):
            named = dict(outputs)
        else:
            outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
            names = getattr(self.model, "output_names", None) or range(len(outputs))
            named = dict(zip(names, outputs, strict=True))
            if isinstance(self.chosen_output, int):
                named.update(enumerate(outputs))
        if self.chosen_output not in named:
            raise ValueError(
                f"`output` must be one of the outputs {list(named)} of model {self.model.name!r}. "
                f"Received: output={self.chosen_output!r}"
            )
        return named[self.chosen_output]

    def _inputs(self) -> dict[str, Any]:
        """Returns the inputs of a functional model by name, in the order of `model.inputs`."""
        tensors = getattr(self.model, "inputs", None) or []
        names = [tensor.name for tensor in tensors]
        if len(tensors) > 1 and isinstance(self.model.input, dict):
            names = sorted(self.model.input)
        return dict(zip(names, tensors, strict=True))

    def attacked_spec(self) -> tuple[int | None, tuple[int | None, ...], str]:
        """Returns `input_spec` of the attacked input."""
        if self.attacked_input is None:
            return input_spec(self.model)
        tensor = self._inputs()[self.attacked_input]
        return tensor.shape[0], tuple(tensor.shape[1:]), tensor.dtype

    def fill(self, images: Any) -> Any:
        """Returns inputs of the model for a tensor of images: zeros in place of the others."""
        others = [
            ops.zeros((ops.shape(images)[0], *(size or 1 for size in tensor.shape[1:])))
            for name, tensor in self._inputs().items()
            if name != self.attacked_input
        ]
        return images if self.attacked_input is None else self.join(images, others)

    def join(self, images: Any, others: Any) -> Any:
        """Returns the inputs of the model, in its own form."""
        import tensorflow as tf

        if self.attacked_input is None:
            return images
        remaining = iter(others)
        joined = {
            # The compiled steps of attacks do not know the shapes of other inputs.
            name: images
            if name == self.attacked_input
            else tf.ensure_shape(next(remaining), (None, *tensor.shape[1:]))
            for name, tensor in self._inputs().items()
        }
        return joined if isinstance(self.model.input, dict) else list(joined.values())

    def split(self, images: Any) -> tuple[Any, tuple[np.ndarray, ...]]:
        """Returns the attacked input and the others, in the order of `model.inputs`."""
        if self.attacked_input is None:
            return images, ()
        inputs = self._inputs()
        is_list = isinstance(images, (tuple, list)) and len(images) == len(inputs)
        named = dict(zip(inputs, images, strict=True)) if is_list else images
        if not (isinstance(named, dict) and set(named) == set(inputs)):
            received = list(named) if isinstance(named, dict) else type(images).__name__
            raise ValueError(
                f"`images` must be a dict with the inputs {list(inputs)}, or a tuple of "
                f"{len(inputs)} arrays in this order. Received: {received}"
            )
        attacked = named[self.attacked_input]
        others = {name: np.asarray(named[name]) for name in inputs if name != self.attacked_input}
        for name, other in others.items():
            wanted = (len(attacked), *inputs[name].shape[1:])
            sizes = zip(wanted, other.shape, strict=False)
            if len(wanted) != other.ndim or any(size not in (None, n) for size, n in sizes):
                raise ValueError(
                    f"Input {name!r} must have shape {wanted}, as many examples as "
                    f"{self.attacked_input!r}. Received: {other.shape}"
                )
        return attacked, tuple(others.values())

    def with_attacked(self, images: Any, attacked: Any) -> Any:
        """Returns `images`, in their form, with another attacked input.

        If it has one axis more in front, of several ε, the other inputs are repeated along it.
        """
        if self.attacked_input is None:
            return attacked
        names = list(self._inputs())
        named = images if isinstance(images, dict) else dict(zip(names, images, strict=True))
        if np.ndim(attacked) > np.ndim(named[self.attacked_input]):
            named = {k: np.broadcast_to(v, (len(attacked), *np.shape(v))) for k, v in named.items()}
        named = {**named, self.attacked_input: attacked}
        return named if isinstance(images, dict) else type(images)(named[name] for name in names)

    def get_config(self) -> dict[str, Any]:
        model = keras.saving.serialize_keras_object(self.model)
        return {**super().get_config(), "model": model, **self.view_config()}

    def view_config(self) -> dict[str, Any]:
        """Returns how the model is seen, apart from the model."""
        own = ("chosen_output", "attacked_input", "straight_through")
        return {name: getattr(self, name) for name in own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "AttackView":
        config = {**config, "model": keras.saving.deserialize_keras_object(config["model"])}
        return cls(**config)


def split_inputs(model: keras.Model, images: Any) -> tuple[Any, tuple[np.ndarray, ...]]:
    """Returns what is attacked of `images`, and the other inputs of a view that has some."""
    if isinstance(images, Inputs):
        return images.attacked, images.others
    view = single_pass(model)[0]
    return view.split(images) if isinstance(view, AttackView) else (images, ())


def gather_inputs(model: keras.Model, images: Any) -> Any:
    """Returns a dict or tuple of inputs for a view that has several as `Inputs`."""
    view = single_pass(model)[0]
    if not (isinstance(view, AttackView) and isinstance(images, (dict, tuple, list))):
        return images
    attacked, others = view.split(images)
    return Inputs(np.asarray(attacked), others) if view.attacked_input else images


def join_inputs(model: keras.Model, images: Any, others: Any) -> Any:
    """Returns the inputs of a model: `images`, with the `others` of a view that has some."""
    view = single_pass(model)[0]
    return view.join(images, others) if hasattr(view, "join") else images


def with_attacked(model: keras.Model, images: Any, attacked: Any) -> Any:
    """Returns `images` with another attacked input; see `AttackView.with_attacked`."""
    view = single_pass(model)[0]
    return view.with_attacked(images, attacked) if isinstance(view, AttackView) else attacked
