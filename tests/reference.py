"""The formulas once more, slowly and in float64, sharing no code with the package."""

import numpy as np


def softmax(logits):
    logits = np.asarray(logits, "float64")
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def log_softmax(logits):
    logits = np.asarray(logits, "float64")
    highest = logits.max(axis=-1, keepdims=True)
    return logits - highest - np.log(np.exp(logits - highest).sum(axis=-1, keepdims=True))


def one_hot(labels, classes):
    return np.eye(classes)[np.asarray(labels)]


def normalized(weights, n):
    return np.ones(n) / n if weights is None else np.asarray(weights, "float64") / np.sum(weights)


def entropies(log_q):
    rows = np.atleast_2d(log_q)
    return np.array([-sum(np.exp(b) * b for b in row if b > -np.inf) for row in rows])


def renyi(p, log_q, alpha, weights=None):
    """1/(α−1) log Σ_i w_i Σ_y p^α q^(1−α), summed example by example."""
    w = normalized(weights, len(p))
    terms = [
        np.log(w[i]) + alpha * np.log(a) + (1 - alpha) * b
        for i in range(len(p))
        for a, b in zip(p[i], log_q[i], strict=True)
        if a > 0 and w[i] > 0
    ]
    highest = max(terms)
    return (highest + np.log(sum(np.exp(t - highest) for t in terms))) / (alpha - 1)


def hr(p, log_q, alpha, weights=None):
    """Eq. (3): Σ w H + 1/(α−1) log Σ_i w_i Σ_y p^α q^(1−α)."""
    entropy = normalized(weights, len(p)) @ entropies(log_q)
    return entropy + renyi(p, log_q, alpha, weights)


def gradient(function, logits, step=1e-5):
    """Central differences in float64."""
    logits = np.array(logits, "float64")
    found = np.zeros_like(logits)
    for index in np.ndindex(*logits.shape):
        values = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[index] += sign * step
            values.append(function(moved))
        found[index] = (values[0] - values[1]) / (2 * step)
    return found


def hr_gradient(logits, p, alpha, weights=None):
    return gradient(lambda moved: hr(p, log_softmax(moved), alpha, weights), logits)


def cross_entropy(p, log_q):
    return -np.sum(p * log_q, axis=-1)


def smoothed(p, logits, smoothing):
    classes = np.shape(p)[-1]
    return cross_entropy((1 - smoothing) * p + smoothing / classes, log_softmax(logits))


def focal(p, logits, gamma):
    q = softmax(logits)
    return -np.sum(p * (1 - q) ** gamma * np.log(q), axis=-1)


def generalized(p, logits, order):
    return np.sum(p * (1 - softmax(logits) ** order) / order, axis=-1)


def reverse(p, logits):
    """As in its source: the label is reversed, and the network is trained on −logits."""
    reversed_labels = (1 - p) / (np.shape(p)[-1] - 1)
    return cross_entropy(reversed_labels, log_softmax(-np.asarray(logits)))


def logit_gradient(name, logits, label):
    """∂/∂logits of CE or CE + H by its closed form in float64, scaled to size 1."""
    log_q = log_softmax(logits)
    q = np.exp(log_q)
    gradient = q.copy()
    # q_y − 1 = −Σ_{k≠y} q_k, which does not cancel
    gradient[label] = -np.delete(q, label).sum()
    if name == "hr":
        gradient += -q * (log_q - (q * log_q).sum())
    return gradient / np.abs(gradient).max()
