"""Loss and gradient norm of 50 steps against the trainers of others, on a CPU.

    python perf/peers/agreement.py [--peers trl torch …] [--write docs/agreement.md]

A tiny Llama and its teacher, trained for a moment on generated sums, so that
probabilities spread over (0, 1); float32; rows of up to 49 tokens with masked prompts
and padding; the same batches, AdamW and constant rate for all. The case list is
`agreement_cases.py`. Every peer runs in an environment of its own, made on the first
use: TRL and LLaMA-Factory in their own trainer classes, the functions published by GEM
and PSFT, read from their repositories, in a plain torch loop. A peer that cannot be
installed is
named and left out.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from agreement_cases import CASES, LENGTH, LORA, ROWS, STEPS, Case
from agreement_ours import flat, train
from environments import FOLDER, interpreter, published_file

from targetsft_jax.data.chat import encode
from targetsft_jax.data.config import SyntheticConfig
from targetsft_jax.data.synthetic import make_record
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.peft import save_adapter
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import init_params
from targetsft_jax.models.lora import Lora, init_adapters

WORKERS = Path(__file__).parent

_TORCH = "torch==2.13.0"
PACKAGES = {
    "trl": ["trl==1.16.0", _TORCH, "peft==0.21.2"],
    "llamafactory": ["llamafactory==0.9.5", _TORCH],
    "torch": ["trl==1.16.0", _TORCH, "peft==0.21.2"],
}
# Their wheels on PyPI need a CUDA build of torch, and images or sound are not trained.
WITHOUT = {"llamafactory": ["torchvision", "torchaudio"]}
REPOSITORIES = {
    "gem": ("liziniu/GEM", "e5b1430979fa12bf8ab7398b2ccc71dff795bbee"),
    "psft": ("zwhong714/PSFT", "569b1ba114b9262a8a5cec84ca1a008e97effd0c"),
}
FILES = {
    "gem": ["sft_trainer.py"],
    "psft": [
        "verl/verl/trainer/ppo/core_algos.py",
        "verl/verl/utils/torch_functional.py",
    ],
}
PEERS = [*PACKAGES, *REPOSITORIES]

# One thread: the models are too small for two.
ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

# Width and layers.
SIZES = {"student": (64, 2), "teacher": (96, 2)}
PADDED = 320
"""Rows of the embedding of the student with a padded vocabulary."""


def main() -> None:
    """Print the tables, or write them into a page of the documentation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peers", nargs="+", default=PEERS, choices=PEERS)
    parser.add_argument("--environments", type=Path, default=FOLDER)
    parser.add_argument(
        "--write", type=Path, help="page whose block `agreement` is replaced"
    )
    options = parser.parse_args()
    cases = [case for case in CASES if case.peer in options.peers]
    with tempfile.TemporaryDirectory() as folder:
        problem = Path(folder)
        write_problem(problem)
        cases, theirs, versions = _train_peers(problem, cases, options.environments)
        ours = _work(Path(sys.executable), "ours", problem, [c.row() for c in cases])
    text = tables(cases, ours, theirs, versions)
    if options.write is None:
        print(text)
    else:
        replace_block(options.write, "agreement", text)


def write_problem(problem: Path) -> None:
    """Write models, adapters and rows: student, teacher, padded, adapter, rows.npz."""
    _write_rows(problem)
    tokenizer = byte_tokenizer()
    sft = Case("ours", "nll", {"name": "sft"}).row()
    for seed, name in enumerate(SIZES):
        config = _architecture(name, len(tokenizer))
        folder = problem / f"initial_{name}"
        save_pretrained(
            folder,
            config,
            init_params(config, jax.random.key(seed)),
            tokenizer=tokenizer,
        )
        # Two passes for the teacher would change its role only: one is enough.
        rate = 3e-3 if name == "student" else 6e-3
        _, params = train(problem, sft | {"student": folder.name}, learning_rate=rate)
        save_pretrained(problem / name, config, params, tokenizer=tokenizer)
    _write_padded(problem, tokenizer)
    _write_adapter(problem, sft)


def _write_rows(problem: Path) -> None:
    """Tokens [S, B, L + 1], mask of the trained labels [S, B, L], lengths [S, B].

    Sums of one to three digits, so that micro-batches differ in their tokens.
    """
    tokenizer = byte_tokenizer()
    tokens = np.full((STEPS * ROWS, LENGTH + 1), tokenizer.pad_token_id, np.int32)
    mask = np.zeros((STEPS * ROWS, LENGTH), bool)
    lengths = np.zeros(STEPS * ROWS, np.int32)
    for index in range(STEPS * ROWS):
        digits = 1 + (index * 7919) % 3
        record = make_record(SyntheticConfig(digits=digits), index)
        example = encode(record, tokenizer)
        n = lengths[index] = len(example.tokens)
        tokens[index, :n] = example.tokens
        mask[index, : n - 1] = example.loss_mask[1:]
    shape = (STEPS, ROWS)
    np.savez(
        problem / "rows.npz",
        tokens=tokens.reshape(*shape, -1),
        mask=mask.reshape(*shape, -1),
        lengths=lengths.reshape(shape),
    )


def _architecture(name: str, vocab_size: int) -> DecoderConfig:
    width, layers = SIZES[name]
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=3 * width,
        num_layers=layers,
        num_heads=4,
        num_kv_heads=2,
        max_position_embeddings=2 * LENGTH,
        tie_word_embeddings=True,
        qkv_bias=False,
        model_type="llama",
    )


def _write_padded(problem: Path, tokenizer: Any) -> None:
    """The student with random rows behind those of the tokenizer."""
    from targetsft_jax.checkpoints.open import open_model
    from targetsft_jax.parallel.mesh import make_mesh

    mesh = make_mesh(devices=jax.devices()[:1])
    params = jax.device_get(open_model(problem / "student").load(mesh, "float32"))
    table = params["embed"]
    rows = np.random.default_rng(0).normal(
        0, table.std(), (PADDED - len(table), table.shape[1])
    )
    params["embed"] = np.concatenate([table, rows.astype(np.float32)])
    save_pretrained(
        problem / "padded",
        _architecture("student", PADDED),
        params,
        tokenizer=tokenizer,
    )


def _write_adapter(problem: Path, sft: dict[str, Any]) -> None:
    """Train adapters for 50 steps, and export them for PEFT."""
    lora = Lora(**LORA)
    config = _architecture("student", len(byte_tokenizer()))
    initial = init_adapters(config, lora, jax.random.key(2))
    np.savez(problem / "adapters.npz", **flat(initial))
    _, adapters = train(problem, sft | {"adapter": True})
    np.savez(problem / "adapters.npz", **flat(adapters))
    base = str(problem / "student")
    save_adapter(problem / "adapter", config, adapters, lora, base=base)


def _train_peers(
    problem: Path, cases: Sequence[Case], folder: Path
) -> tuple[list[Case], list[Any], dict[str, str]]:
    """Cases that ran, their series, and versions by peer; absent peers are printed."""
    kept: list[Case] = []
    results: list[Any] = []
    versions: dict[str, str] = {}
    for peer in dict.fromkeys(case.peer for case in cases):
        mine = [case for case in cases if case.peer == peer]
        rows = [case.row() for case in mine]
        try:
            packages = PACKAGES.get(peer, PACKAGES["torch"])
            python = interpreter(folder, packages, without=WITHOUT.get(peer, ()))
            versions[peer] = _versions(peer, python)
            for path in FILES.get(peer, ()):
                text = published_file(folder, *REPOSITORIES[peer], path)
                (problem / Path(path).name).write_text(text, encoding="utf-8")
        except subprocess.CalledProcessError as error:
            print(f"{peer} is left out: {error}", file=sys.stderr)
            continue
        worker = peer if peer in PACKAGES else "torch"
        kept += mine
        results += _work(python, worker, problem, rows)
    return kept, results, versions


def _work(python: Path, worker: str, problem: Path, rows: Sequence[dict]) -> list[Any]:
    """Run a worker in a process and return the JSON list in its last line."""
    script = WORKERS / f"agreement_{worker}.py"
    process = subprocess.run(
        [python, script, problem],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        env=os.environ | ENVIRONMENT,
    )
    if process.returncode:
        output = f"{process.stdout[-2000:]}{process.stderr[-4000:]}"
        sys.exit(f"{script.name} failed:\n{output}")
    return json.loads(process.stdout.strip().splitlines()[-1])


def _versions(peer: str, python: Path) -> str:
    """Name and version of a peer and of what it runs on."""
    code = (
        "from importlib.metadata import version as v; print(*(f'{n} {v(n)}' for n in "
        "{names}), sep=', ')"
    )
    names = {
        "trl": ("trl", "peft", "transformers", "torch"),
        "llamafactory": ("llamafactory", "transformers", "torch"),
    }.get(peer, ("transformers", "torch"))
    command = code.replace("{names}", repr(names))
    text = subprocess.run(
        [python, "-c", command], capture_output=True, text=True, check=True
    ).stdout.strip()
    if peer in REPOSITORIES:
        repository, commit = REPOSITORIES[peer]
        text = f"{repository} @ {commit[:7]}, {text}"
    return text


def tables(
    cases: Sequence[Case],
    ours: Sequence[dict[str, list[float]]],
    theirs: Sequence[dict[str, list[float]]],
    versions: dict[str, str],
) -> str:
    """Markdown: versions, agreeing cases, differing cases."""
    triples = list(zip(cases, ours, theirs))
    same = [(a, b) for case, a, b in triples if not case.differs]
    today = datetime.date.today().isoformat()
    lines = [
        f"{today}, {platform.machine()}, Python {platform.python_version()}; ours: "
        f"jax {version('jax')}, optax {version('optax')}. Peers:",
        "",
        *(f"* `{peer}`: {text}" for peer, text in versions.items()),
        "",
        "| method | peer | micro-batches | loss | gradient norm | remark |",
        "|---|---|---:|---:|---:|---|",
    ]
    lines += [
        f"| `{case.target['name']}` | {_peer(case)} | {case.accumulation} "
        f"| {_difference(a, b, 'loss'):.1e} | {_difference(a, b, 'grad_norm'):.1e} "
        f"| {case.remark} |"
        for case, a, b in triples
        if not case.differs
    ]
    first, largest = (
        [
            max(_difference(a, b, name, steps) for a, b in same)
            for name in ("loss", "grad_norm")
        ]
        for steps in (1, STEPS)
    )
    lines += [
        "",
        f"Largest of these: {largest[0]:.1e} and {largest[1]:.1e}; in the first step "
        f"alone {first[0]:.1e} and {first[1]:.1e}.",
        "",
        "Cases that differ, with theirs / ours in the first step:",
        "",
        "| method | peer | micro-batches | loss, step 1 | gradient norm, step 1 "
        "| loss, largest difference | remark |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    lines += [
        f"| `{case.target['name']}` | {_peer(case)} | {case.accumulation} "
        f"| {b['loss'][0] / a['loss'][0]:.4f} "
        f"| {b['grad_norm'][0] / a['grad_norm'][0]:.4f} "
        f"| {_difference(a, b, 'loss'):.1e} | {case.remark} |"
        for case, a, b in triples
        if case.differs
    ]
    return "\n".join(lines)


def _peer(case: Case) -> str:
    return f"{case.peer}, `{case.objective}`"


def _difference(ours: dict, theirs: dict, name: str, steps: int = STEPS) -> float:
    """Largest difference over the first steps, relative to theirs."""
    a, b = np.array(ours[name])[:steps], np.array(theirs[name])[:steps]
    if a.shape != b.shape:
        sys.exit(f"{name} has {len(a)} and {len(b)} steps; expected equal numbers")
    return float(np.max(np.abs(a - b) / np.abs(b)))


def replace_block(page: Path, name: str, text: str) -> None:
    """Replace the text between the two marks of a block of a page."""
    mark, close = f"<!-- {name} -->", "<!-- end -->"
    before, _, rest = page.read_text(encoding="utf-8").partition(mark)
    _, end, after = rest.partition(close)
    if not end:
        sys.exit(f"{page} has no block {mark} … {close}; add one")
    page.write_text(f"{before}{mark}\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
