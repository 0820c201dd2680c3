"""Maker of `tests/targets/golden/recent_n8.npz`: later methods in plain float64 numpy.

    PYTHONPATH=tests python -m support.golden_recent

The package is not imported. Each loss is its paper's formula, each gradient is derived
by hand and compared with central differences of the loss, in which factors that the
method detaches are constant. Inputs are those of `golden_targets`.

    loss__NAME      [N]      the published per-token loss
    grad__NAME      [N, V]   its gradient in the logits
    q__NAME         [N, V]   the target Q = p − gradient
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from support.golden_targets import inputs

PATH = Path(__file__).resolve().parents[1] / "targets" / "golden" / "recent_n8.npz"

Arrays = dict[str, np.ndarray]
Loss = Callable[[np.ndarray], np.ndarray]
"""Logits [N, V] -> loss [N], with its detached factors held constant."""


def golden() -> Arrays:
    """All arrays of the file by name."""
    source = inputs()
    logits = source["logits"]
    p = np.exp(_log_softmax(logits))
    arrays = {}
    for name, (loss, gradient) in _losses(source).items():
        _check(name, loss, gradient, logits)
        arrays[f"loss__{name}"] = loss(logits)
        arrays[f"grad__{name}"] = gradient
        arrays[f"q__{name}"] = p - gradient
    return arrays


def _losses(source: Arrays) -> dict[str, tuple[Loss, np.ndarray]]:
    """Loss and gradient [N, V] of each method."""
    logits, labels = source["logits"], source["labels"]
    tokens = np.arange(len(labels))
    log_p = _log_softmax(logits)
    p, log_p_y = np.exp(log_p), log_p[tokens, labels]
    pull = p.copy()
    pull[tokens, labels] -= 1

    def label(z: np.ndarray) -> np.ndarray:
        return _log_softmax(z)[tokens, labels]

    concentration = (p**2).sum(-1)
    losses: dict[str, tuple[Loss, np.ndarray]] = {
        "deft": (
            lambda z: (1 - np.exp(concentration * label(z))) / concentration,
            np.exp(concentration * log_p_y)[:, None] * pull,
        )
    }
    entropy = -(p * log_p).sum(-1)
    for beta in (1.0, 0.3):
        exponent = np.clip(np.exp(-(log_p_y + entropy) / beta), 0.1, 2)
        weight = np.exp(exponent * log_p_y)
        losses[f"idft_{beta:g}"] = (_weighted(weight, label), weight[:, None] * pull)
    weight = np.exp(source["ref_logp"])
    losses["prift"] = (_weighted(weight, label), weight[:, None] * pull)

    log_t = _log_softmax(source["teacher_logits"])
    losses["reverse_kl"] = (
        lambda z: _divergence(_log_softmax(z), log_t),
        _slope(log_p, log_t),
    )
    for beta in (0.1, 0.5, 0.9):
        mixture = np.log(beta * np.exp(log_t) + (1 - beta) * p)
        losses[f"jsd_{beta:g}"] = (
            _jensen_shannon(beta, log_t),
            (1 - beta) * _slope(log_p, mixture),
        )
    return losses


def _weighted(weight: np.ndarray, label: Loss) -> Loss:
    return lambda z: -weight * label(z)


def _jensen_shannon(beta: float, log_t: np.ndarray) -> Loss:
    """β KL(π_T ‖ M) + (1 − β) KL(p ‖ M), M = β π_T + (1 − β) p."""

    def loss(z: np.ndarray) -> np.ndarray:
        log_p = _log_softmax(z)
        mixture = np.log(beta * np.exp(log_t) + (1 - beta) * np.exp(log_p))
        of_teacher, of_student = (_divergence(x, mixture) for x in (log_t, log_p))
        return beta * of_teacher + (1 - beta) * of_student

    return loss


def _divergence(log_a: np.ndarray, log_b: np.ndarray) -> np.ndarray:
    """KL(a ‖ b) [N]."""
    return (np.exp(log_a) * (log_a - log_b)).sum(-1)


def _slope(log_p: np.ndarray, log_b: np.ndarray) -> np.ndarray:
    """p ∘ (log(p / b) − KL(p ‖ b)) [N, V]."""
    divergence = _divergence(log_p, log_b)[:, None]
    return np.exp(log_p) * (log_p - log_b - divergence)


def _check(name: str, loss: Loss, gradient: np.ndarray, logits: np.ndarray) -> None:
    """Raise ValueError for a gradient that central differences contradict."""
    step = 1e-5
    for column in range(logits.shape[1]):
        shift = np.zeros(logits.shape[1])
        shift[column] = step
        slope = (loss(logits + shift) - loss(logits - shift)) / (2 * step)
        error = np.abs(slope - gradient[:, column]).max()
        if error > 1e-8:
            raise ValueError(f"{name}: its gradient differs by {error:.1e}")


def _log_softmax(z: np.ndarray) -> np.ndarray:
    shifted = z - z.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


if __name__ == "__main__":
    np.savez(PATH, **golden())
