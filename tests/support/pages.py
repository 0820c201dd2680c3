"""A small page of random models, for tests of the page without any model."""

import numpy as np

import targetsft_jax as tsft
from targetsft_jax.inspection.page_data import FORMAT, PADDING, PageData
from targetsft_jax.inspection.rounding import rounded

WORDS = ("The", " answer", " is", " 4", " 7", "\n", " apples", " £", "é", "<b>", " 𝛾")
STOPS = [round(0.05 * k, 2) for k in range(21)]
CURVE = [k / 100 for k in range(101)]


def page_data(
    rows: int = 3,
    length: int = 14,
    prompt: int = 4,
    vocabulary: int = 60,
    top: int = 5,
    roles: tuple[str, ...] = ("student", "teacher", "reference", "before"),
    seed: int = 0,
) -> PageData:
    """A page of `rows` rows of `length` tokens, of which `prompt` are not trained."""
    token, labels, logits = random_logits(rows, length, prompt, vocabulary, roles, seed)
    trained = np.zeros((rows, length), np.uint8)
    trained[:, prompt:] = 1
    arrays = {
        "token": token.reshape(-1),
        "token_id": np.arange(vocabulary, dtype=np.int32) + 100,
        "trained": trained.reshape(-1),
        **_statistics(logits, labels, top),
    }
    methods = _methods(logits, labels, arrays)
    texts = ["<|im_start|>"] + [
        WORDS[i % len(WORDS)] + ("" if i < len(WORDS) else str(i))
        for i in range(vocabulary - 1)
    ]
    header = {
        "format": FORMAT,
        "title": "random models",
        "provenance": {
            "config": "random.yaml",
            **{role: None for role in ("teacher", "reference", "before")},
            **{role: f"random {role}" for role in roles},
            "rows": f"the first {rows} examples of random.jsonl",
            "versions": {"targetsft_jax": tsft.__version__},
            "created": "2026-01-01 00:00 UTC",
        },
        "vocabulary_size": vocabulary,
        "texts": texts,
        "special": [0],
        "rows": [
            {"source": f"random.jsonl:{r + 1}", "first": r * length, "count": length}
            for r in range(rows)
        ],
        "roles": list(roles),
        "top": top,
        "eta_stops": STOPS if "teacher" in roles else [],
        "methods": methods,
        "default_method": "target_sft" if "teacher" in roles else "dft",
        "default_eta": 0.5,
        "curve": _curve(),
    }
    page = PageData(header, arrays)
    page.check()
    return page


def random_logits(
    rows: int = 3,
    length: int = 14,
    prompt: int = 4,
    vocabulary: int = 60,
    roles: tuple[str, ...] = ("student", "teacher", "reference", "before"),
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Tokens, labels, and logits per role of the page of the same arguments."""
    random = np.random.default_rng(seed)
    token = random.integers(1, vocabulary, (rows, length)).astype(np.int32)
    token[:, 0] = 0  # the control token
    labels = token[:, prompt:].reshape(-1)
    return token, labels, _logits(random, labels, vocabulary, roles)


def _logits(random, labels, vocabulary, roles):
    """Correlated logits with some confident labels and some doubted ones."""
    shared = random.normal(0, 2, (len(labels), vocabulary))
    likely = random.normal(4, 4, len(labels))
    shared[np.arange(len(labels)), labels] += likely
    return {
        role: (shared + random.normal(0, 1.5, shared.shape)).astype(np.float32)
        for role in roles
    }


def _log_softmax(z):
    z = z.astype(np.float64)
    return z - np.logaddexp.reduce(z, axis=-1, keepdims=True)


def _statistics(logits, labels, top):
    logs = {role: _log_softmax(z) for role, z in logits.items()}
    student = logs["student"]
    p = np.exp(student)
    order = np.argsort(-student, axis=-1)
    candidates = []
    for i, label in enumerate(labels):
        union = {int(k) for z in logs.values() for k in np.argsort(-z[i])[:top]}
        rest = sorted(union - {int(label)}, key=lambda k: -student[i, k])
        candidates.append([int(label), *rest])
    width = max(map(len, candidates))
    candidate = np.full((len(labels), width), PADDING, np.int32)
    for i, ids in enumerate(candidates):
        candidate[i, : len(ids)] = ids
    index = np.where(candidate < 0, 0, candidate)
    out = {"candidate": candidate}
    for role, log in logs.items():
        at = np.take_along_axis(log, index, -1)
        out[f"logprob_{role}"] = np.where(candidate < 0, 0, at)
    highest = np.exp(np.take_along_axis(student, order[:, :20], -1))
    highest /= highest.sum(-1, keepdims=True)
    out["entropy"] = -(p * student).sum(-1)
    out["top_entropy"] = -(highest * np.log(highest)).sum(-1)
    out["sum_squares"] = (p**2).sum(-1)
    if "before" in logs:
        out["entropy_before"] = -(np.exp(logs["before"]) * logs["before"]).sum(-1)
    if "teacher" in logs:
        t = np.exp(logs["teacher"])
        support = np.take_along_axis(t, order[:, :top], -1)
        out["kl_teacher"] = (t * (logs["teacher"] - student)).sum(-1)
        out["teacher_on_support"] = support.sum(-1)
        out["teacher_entropy"] = -(t * logs["teacher"]).sum(-1)
        stops = [
            np.logaddexp.reduce((1 - eta) * student + eta * logs["teacher"], axis=-1)
            for eta in STOPS
        ]
        out["logz_eta"] = np.stack(stops, axis=-1)
    beta = 0.7
    out["logz_gem"] = np.logaddexp.reduce(student / beta, axis=-1)
    return {
        name: rounded(x.astype(np.float32), 16) if x.dtype.kind == "f" else x
        for name, x in out.items()
    }


def _methods(logits, labels, arrays):
    """Entries of methods of every kind; adds their arrays."""
    teacher = {"kind": "mix", "alpha": 0.0, "beta": 1.0, "other": "teacher"}
    table = [
        ("sft", "1", "0", {}, None),
        ("dft", "p_y", "0", {}, None),
        ("eaft", "H̃", "0", {"top_k": 20}, None),
        ("label_smoothing", "1 − λ", "λ", {"smoothing": 0.1}, {"kind": "uniform"}),
        (
            "gem",
            "1",
            "−1",
            {"beta": 0.7},
            {"kind": "mix", "alpha": 1 / 0.7, "beta": 0.0, "other": None}
            | {"normaliser": "logz_gem"},
        ),
        ("kd", "0", "1", {}, teacher | {"normaliser": None}),
        ("reverse_kl", "0", "max r", {}, {"kind": "scores"}),
        ("target_sft", "p_y", "1 − p_y", {"eta": 0.5}, {"kind": "eta_mix"}),
    ]
    entries = []
    for name, label, other, hyper, alternative in table:
        entry = {
            "name": name,
            "label_formula": label,
            "alternative_formula": other,
            "source": "https://arxiv.org/abs/2606.11189",
            "hyper": hyper,
            "refusal": None,
            "alternative": alternative,
        }
        if name in ("kd", "reverse_kl", "target_sft") and "teacher" not in logits:
            entry |= {"refusal": "the configuration has no teacher (teacher.path)"}
            entries.append(entry | {"alternative": None})
            continue
        inputs = {"teacher_logits": logits["teacher"]} if "teacher" in logits else {}
        target = tsft.target(name, logits["student"], labels, **hyper, **inputs)
        arrays[f"a_{name}"] = np.asarray(target.label_weight)
        if alternative is not None:
            arrays[f"b_{name}"] = np.asarray(target.alternative_weight)
        if name == "target_sft":
            entry["alternative"] = {"kind": "eta_mix", "other": "teacher"}
        if name == "reverse_kl":
            entry["alternative"] = {"kind": "scores", "array": "logt_reverse_kl"}
            index = np.maximum(arrays["candidate"], 0)
            t = np.log(np.asarray(target.alternative.probabilities) + 1e-37)
            at = np.maximum(np.take_along_axis(t, index, -1), -100)
            at = np.where(arrays["candidate"] < 0, 0, at)
            arrays["logt_reverse_kl"] = at.astype(np.float32)
        entries.append(entry)
    entries.append(
        {
            "name": "cft",
            "label_formula": "c",
            "alternative_formula": "0",
            "source": "https://arxiv.org/abs/2510.10974",
            "hyper": {},
            "refusal": "the rows have no critical_mask",
            "alternative": None,
        }
    )
    return entries


def _curve():
    """SFT and DFT, by hand: g_y = −a (1 − p), and Q = p − g."""
    p = np.array(CURVE)
    other = 0.6 * (1 - p)
    methods = {}
    for name, a in (("sft", np.ones_like(p)), ("dft", p)):
        methods[name] = {
            "label_gradient": (-a * (1 - p)).tolist(),
            "other_gradient": (a * other).tolist(),
            "label_target": (p + a * (1 - p)).tolist(),
            "other_target": (other - a * other).tolist(),
        }
    return {"p": p.tolist(), "methods": methods, "setting": "the other token has 60 %"}
