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


def hr(p, log_q, alpha, weights=None):
    """Eq. (3): Σ w H + 1/(α−1) log Σ_i w_i Σ_y p^α q^(1−α), summed example by example."""
    n = len(p)
    w = np.ones(n) / n if weights is None else np.asarray(weights, "float64") / np.sum(weights)
    entropy, terms = 0.0, []
    for i in range(n):
        q = np.exp(log_q[i])
        entropy += w[i] * -sum(a * b for a, b in zip(q, log_q[i], strict=True) if a > 0)
        logs = [
            np.log(w[i]) + alpha * np.log(a) + (1 - alpha) * b
            for a, b in zip(p[i], log_q[i], strict=True)
            if a > 0 and w[i] > 0
        ]
        terms += logs
    highest = max(terms)
    renyi = (highest + np.log(sum(np.exp(t - highest) for t in terms))) / (alpha - 1)
    return entropy + renyi


def hr_gradient(logits, p, alpha, weights=None, step=1e-5):
    """Central differences of `hr` in float64 with respect to the logits."""
    logits = np.array(logits, "float64")
    gradient = np.zeros_like(logits)
    for index in np.ndindex(*logits.shape):
        values = []
        for sign in (1, -1):
            moved = logits.copy()
            moved[index] += sign * step
            values.append(hr(p, log_softmax(moved), alpha, weights))
        gradient[index] = (values[0] - values[1]) / (2 * step)
    return gradient


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
