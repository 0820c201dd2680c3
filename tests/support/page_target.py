"""T and Q of a page at its candidates, as a reader of the page computes them."""

import numpy as np


def entry_of(page, name):
    """Header entry of a method."""
    return next(m for m in page.header["methods"] if m["name"] == name)


def log_alternative(page, name, eta=None):
    """log T [M, C] of a method, float64; None without an alternative."""
    arrays = {k: x.astype(np.float64) for k, x in page.arrays.items()}
    alternative = entry_of(page, name)["alternative"]
    if alternative is None:
        return None
    p = arrays["logprob_student"]
    if alternative["kind"] == "uniform":
        return np.full(p.shape, -np.log(page.header["vocabulary_size"]))
    if alternative["kind"] == "scores":
        return arrays[alternative["array"]]
    if alternative["kind"] == "eta_mix":
        stops = page.header["eta_stops"]
        eta = page.header["default_eta"] if eta is None else eta
        normaliser = arrays["logz_eta"][:, stops.index(eta)]
        mixed = (1 - eta) * p + eta * arrays["logprob_teacher"]
        return mixed - normaliser[:, None]
    other = alternative["other"]
    mixed = alternative["alpha"] * p
    if other is not None:
        mixed = mixed + alternative["beta"] * arrays[f"logprob_{other}"]
    if alternative["normaliser"] is not None:
        mixed = mixed - arrays[alternative["normaliser"]][:, None]
    return mixed


def induced(page, name, eta=None):
    """Q [M, C] of a method at the candidates; NaN at padding."""
    arrays = {k: x.astype(np.float64) for k, x in page.arrays.items()}
    p = np.exp(arrays["logprob_student"])
    label = np.arange(p.shape[1]) == 0
    gradient = arrays[f"a_{name}"][:, None] * (p - label)
    log = log_alternative(page, name, eta)
    if log is not None:
        gradient += arrays[f"b_{name}"][:, None] * (p - np.exp(log))
    return np.where(page.arrays["candidate"] < 0, np.nan, p - gradient)
