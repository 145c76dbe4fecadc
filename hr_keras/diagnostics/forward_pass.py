"""What a model does inside: gradients and branches in its forward pass, models that it contains."""

import itertools
import math
from typing import Any

import keras
import numpy as np

from hr_keras._core.attack_view import AttackView, join_inputs
from hr_keras._core.finding import Finding
from hr_keras._core.logits import classifier_output
from hr_keras._core.model_graph import CALLS
from hr_keras._core.passes import single_pass
from hr_keras.attacks import Task
from hr_keras.diagnostics.finding import ATHALYE, judge

_BRANCHES = ("If", "StatelessIf", "Case", "StatelessCase")
_LOOPS = ("While", "StatelessWhile")
_PRODUCTS = (
    "MatMul", "BatchMatMulV2", "Einsum", "Conv2D", "Conv3D", "DepthwiseConv2dNative",
    "Conv2DBackpropInput", "Conv3DBackpropInputV2",
)  # fmt: skip
# Products for each kernel; attention makes 1.5, and weights that two branches share 2.
_MOST_PRODUCTS = 4
# Transfer from each costs an attack of its own.
_MOST_MODELS = 2


def forward_pass(task: Task) -> Finding:
    """Checks whether the model computes gradients, branches or iterates when it classifies."""
    import tensorflow as tf

    model, _ = single_pass(task.model)

    @tf.function
    def step(images: Any, *others: Any) -> Any:
        return model(join_inputs(model, images, others), training=False)

    inputs = getattr(model, "inputs", None)
    batch = inputs[0].shape[0] if inputs else None  # a number for models of a fixed batch size
    arrays = (task.images, *task.others)
    specs = (tf.TensorSpec((batch, *array.shape[1:]), array.dtype) for array in arrays)
    traced = step.get_concrete_function(*specs).graph
    graph = traced.as_graph_def()
    functions = {one.signature.name: one.node_def for one in graph.library.function}
    nodes = list(itertools.chain(graph.node, *functions.values()))
    gradients = sum("gradient_tape/" in node.name or "gradients/" in node.name for node in nodes)
    branches = sum(node.op in _BRANCHES for node in nodes)
    meaning = (
        f"{gradients} operations of the model's forward pass belong to a gradient, and {branches} "
        "choose a branch"
    )
    recurrent = any(isinstance(layer, keras.layers.RNN) for layer in model._flatten_layers())
    kernels = sum(variable.shape.rank >= 2 for variable in traced.variables)
    countable = kernels and not recurrent
    passes = _count_products(graph.node, functions) / kernels if countable else 0.0
    repeats = passes if passes >= _MOST_PRODUCTS else 0.0
    if gradients:
        meaning += (
            ". It optimises the image before it decides, which gradient attacks do not see "
            "through: attack the network behind it, and transfer (`others`)"
        )
    elif repeats:
        often = "many times, in a loop" if repeats == math.inf else f"{repeats:.2g} times"
        meaning += (
            f". It uses its weights {often}: it may change the image, or vote, before it decides. "
            "Attack the network behind it, and transfer (`others`)"
        )
    elif branches:
        meaning += ". A gradient attack sees only the branch that an image takes"
    found = gradients + branches + min(repeats, 1e9)
    return judge("forward_pass", found, 0.0, f"{meaning}.", ATHALYE, "warning")


def _count_products(nodes: Any, functions: dict[str, Any]) -> float:
    """Counts matrix products and convolutions; infinitely many if one is in a loop."""
    count = 0.0
    for node in nodes:
        if node.op in _PRODUCTS:
            count += 1
        elif node.op in CALLS:
            count += _count_products(functions[node.attr["f"].func.name], functions)
        elif node.op in _LOOPS and _count_products(
            functions[node.attr["body"].func.name], functions
        ):
            count = math.inf
    return count


def find_inner_models(model: keras.Model, images: np.ndarray) -> tuple[keras.Model, ...]:
    """Returns the first classifiers inside a model that take its images and have its classes."""
    classes = classifier_output(model, images).num_classes
    model, _ = single_pass(model)
    while isinstance(model, AttackView):
        model = model.model
    found = (
        layer
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.Model) and _classifies(layer, images[:2], classes)
    )
    return tuple(itertools.islice(found, _MOST_MODELS))


def _classifies(model: keras.Model, images: np.ndarray, classes: int) -> bool:
    try:
        outputs = model(images, training=False)
        return outputs.shape[0] == len(images) and classifier_output(model).num_classes == classes
    except Exception:  # made for other inputs: any layer may fail in its way
        return False
