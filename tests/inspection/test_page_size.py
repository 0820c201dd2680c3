"""Size of a page of 12,000 trained tokens with 3 × 8 candidates."""

import numpy as np
from support.pages import page_data

from targetsft_jax.inspection.measure_rows import compact
from targetsft_jax.inspection.page import render
from targetsft_jax.inspection.page_data import PADDING, PageData

TOKENS, TOP, STOPS, VOCABULARY, SHOWN = 12_000, 8, 21, 49_152, 100
ROLES = ("student", "teacher", "before")


def random_page() -> PageData:
    """A page of distributions with some 2 nats of entropy that agree in part."""
    random = np.random.default_rng(0)
    scale = random.gamma(2, 1.5, (TOKENS, 1)).astype("f4")
    shape = (TOKENS, SHOWN)
    prior = -1.5 * np.log(np.arange(1, SHOWN + 1, dtype="f4"))
    shared = prior + scale * random.standard_normal(shape, "f4")
    logs = {}
    for role in ROLES:
        z = shared + 0.5 * scale * random.standard_normal(shape, "f4")
        logs[role] = z - np.log(np.exp(z).sum(-1, keepdims=True))
    assert 1.5 < -(np.exp(logs["student"]) * logs["student"]).sum(-1).mean() < 2.5
    best = [np.argpartition(-x, TOP)[:, :TOP] for x in logs.values()]
    label = (logs["student"] + random.gumbel(size=shape)).argmax(-1)
    ids = np.concatenate([label[:, None], *best], axis=-1)
    repeated = np.tril(ids[:, :, None] == ids[:, None, :], -1).any(-1)
    order = np.argsort(repeated, axis=-1, kind="stable")
    ids = np.take_along_axis(ids, order, -1)
    padding = np.take_along_axis(repeated, order, -1)
    # Frequencies of tokens as of words.
    names = np.exp(random.random(ids.shape) * np.log(VOCABULARY)).astype(np.int32)
    arrays = {"candidate": np.where(padding, PADDING, names).astype(np.int32)}
    for role, log in logs.items():
        at = np.take_along_axis(log, ids, -1)
        arrays[f"logprob_{role}"] = np.where(padding, 0, at).astype("f4")
    eta = np.linspace(0, 1, STOPS, dtype="f4")
    mixed = [np.exp((1 - e) * logs["student"] + e * logs["teacher"]) for e in eta]
    arrays["logz_eta"] = np.log(np.stack([m.sum(-1) for m in mixed], axis=-1))
    page = page_data(roles=ROLES)
    for name, small in page.arrays.items():
        if name.startswith("logt_"):
            arrays[name] = (arrays["logprob_teacher"] * 0.7).astype("f4")
        elif small.ndim == 1 and small.dtype == np.float32:
            constant = small.min() == small.max()
            values = np.full(TOKENS, small[0]) if constant else random.random(TOKENS)
            arrays[name] = values.astype("f4")
    # As many further methods with a weight per token as the library has.
    methods = list(page.header["methods"])
    for number in range(10):
        name = f"more_{number}"
        arrays[f"a_{name}"] = random.random(TOKENS).astype("f4")
        methods.append(methods[0] | {"name": name})
    arrays = compact(arrays)
    arrays |= {
        "token": names[:, 0].copy(),
        "token_id": np.arange(VOCABULARY, dtype=np.int32),
        "trained": np.ones(TOKENS, np.uint8),
    }
    header = page.header | {
        "vocabulary_size": VOCABULARY,
        "texts": [f" {random.integers(10**6):x}" for _ in range(VOCABULARY)],
        "rows": [{"source": "x.jsonl:1", "first": 0, "count": TOKENS}],
        "methods": methods,
    }
    return PageData(header, arrays)


def test_a_page_of_12000_tokens_has_less_than_5_mb() -> None:
    page = random_page()
    candidates = (page.arrays["candidate"] != PADDING).sum(-1)
    assert candidates.mean() > 12 and candidates.max() > 20
    size = len(render(page).encode())
    assert 3e6 < size < 5e6, size
