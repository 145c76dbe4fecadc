"""A Keras image classifier as a torch module with the same weights, for the libraries of torch."""

import numpy as np
import torch
from keras import layers
from torch.nn import functional


class InTorch(torch.nn.Module):
    """Walks the layers of a functional Keras model, in inference; images `(n, channels, h, w)`."""

    def __init__(self, model):
        super().__init__()
        self._steps, self._output = [], model.output._keras_history.operation.name
        for layer in model.layers:
            if isinstance(layer, layers.InputLayer):
                self._input = layer.name
                continue
            sources = [
                t._keras_history.operation.name for t in layer._inbound_nodes[0].input_tensors
            ]
            module = _module(layer)
            self.add_module(layer.name, module)
            self._steps.append((layer.name, sources, module))

    def forward(self, images):
        values = {self._input: images}
        for name, sources, module in self._steps:
            values[name] = module(*(values[source] for source in sources))
        return values[self._output]


def _module(layer):
    for kind, make in _MODULES.items():
        if isinstance(layer, kind):
            return make(layer)
    raise ValueError(f"No torch module for the layer {layer.name!r}, a {type(layer).__name__}.")


class _Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.forward = function


class _Convolution(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        kernel, *bias = layer.get_weights()
        self.weight = _parameter(kernel.transpose(3, 2, 0, 1))
        self.bias = _parameter(bias[0]) if bias else None
        self.padding, self.strides, self.size = layer.padding, layer.strides, kernel.shape[:2]
        self.activation = _activation(layer)

    def forward(self, x):
        if self.padding == "same":  # TensorFlow pads the end more where the sides differ
            sides = zip(x.shape[2:], self.size, self.strides, strict=True)
            total = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in sides]
            (top, left), (height, width) = (t // 2 for t in total), total
            x = functional.pad(x, (left, width - left, top, height - top))
        return self.activation(functional.conv2d(x, self.weight, self.bias, self.strides))


class _Dense(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        kernel, bias = layer.get_weights()
        self.weight, self.bias = _parameter(kernel.T), _parameter(bias)
        self.activation = _activation(layer)

    def forward(self, x):
        return self.activation(functional.linear(x, self.weight, self.bias))


def _batch_normalization(layer):
    scale, offset, mean, variance = layer.get_weights()
    module = torch.nn.BatchNorm2d(len(scale), eps=layer.epsilon)
    for tensor, value in (
        (module.weight, scale),
        (module.bias, offset),
        (module.running_mean, mean),
        (module.running_var, variance),
    ):
        tensor.data = torch.from_numpy(np.array(value))
    return module.requires_grad_(False)


def _activation(layer):
    name = layer.activation.__name__
    if name not in ("relu", "linear"):
        raise ValueError(f"No torch function for the activation {name!r} of {layer.name!r}.")
    return torch.relu if name == "relu" else (lambda x: x)


def _parameter(array):
    # No gradient for it: attacks want that of the images alone.
    return torch.nn.Parameter(torch.from_numpy(np.ascontiguousarray(array)), requires_grad=False)


_MODULES = {
    layers.Conv2D: _Convolution,
    layers.Dense: _Dense,
    layers.BatchNormalization: _batch_normalization,
    layers.ReLU: lambda layer: torch.nn.ReLU(),
    layers.Add: lambda layer: _Function(torch.add),
    layers.MaxPooling2D: lambda layer: torch.nn.MaxPool2d(layer.pool_size, layer.strides),
    layers.GlobalAveragePooling2D: lambda layer: _Function(lambda x: x.mean(dim=(2, 3))),
    # Keras flattens with the channels last
    layers.Flatten: lambda layer: _Function(lambda x: x.permute(0, 2, 3, 1).flatten(1)),
}
