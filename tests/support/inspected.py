"""Pages of tiny models, and the dense logits that they were measured from."""

import functools
import json
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest

from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.inspection import measure_rows
from targetsft_jax.inspection.assemble import page_of
from targetsft_jax.inspection.command import read_config
from targetsft_jax.inspection.models import Selection, load_models, page_tokenizer
from targetsft_jax.inspection.page_data import PageData
from targetsft_jax.inspection.rows import read_rows
from targetsft_jax.models.chunked_logits import head_logits
from targetsft_jax.models.decoder import apply, head

from . import rig

OTHER = replace(rig.OTHER, model_type="llama", qkv_bias=False)
MODELS = {
    "student": rig.STUDENT,
    "teacher": OTHER,
    "before": rig.STUDENT,
    "reference": rig.STUDENT,
}
EXACT = {"MANTISSA_BITS": 23, "LOG_BITS": 23, "LOG_STEP": 2.0**-23}
ROWS = [("17 + 25", "17 + 25 = 42"), ("Is π > 3?", "Yes: π ≈ 3.14"), ("2·3", "6")]


@dataclass(frozen=True)
class Measured:
    """A page, and what it was measured from.

    Attributes:
        page: the page.
        logits: role -> [M, V] f64 logits of the trained tokens, from dense products.
        labels: [M] trained tokens.
    """

    page: PageData
    logits: dict
    labels: np.ndarray


def keys_of(models: dict, rows_file, **more) -> list[str]:
    """Command line of a configuration with these models and rows."""
    keys = {
        "student.path": models["student"],
        "teacher.path": models["teacher"],
        "reference.path": models["reference"],
        "data.source": "jsonl",
        "data.path": rows_file,
        "data.max_length": 512,
    }
    return rig.command(keys | {k.replace("__", "."): v for k, v in more.items()})


def measure(arguments: list[str], selection: Selection | None = None) -> Measured:
    """The page of a configuration, and the dense logits of its models."""
    selection = selection or Selection()
    config = read_config(arguments)
    tokenizer = page_tokenizer(config, selection)
    rows = read_rows(config.data, tokenizer, 20)
    models = load_models(config, selection)
    names = {"config": "tests", **{role: role for role in models.roles}}
    with pytest.MonkeyPatch.context() as patch:
        # Without rounding, so that an error of rounding size is one of the page.
        for name, value in EXACT.items():
            patch.setattr(measure_rows, name, value)
        page = page_of(config, rows, models, tokenizer, names)
    # One batch, padded behind: no token depends on what follows it.
    length = max(len(example.tokens) for example in rows.examples)
    tokens = np.stack(
        [np.pad(x.tokens, (0, length - len(x.tokens))) for x in rows.examples]
    )
    mask = np.stack(
        [np.pad(x.loss_mask, (0, length - len(x.tokens))) for x in rows.examples]
    )[:, 1:]
    logits = {}
    for role, model in models.stored.items():
        params = models.params[role]
        hidden = _apply(model.config, params, tokens)
        dense = head_logits(model.config, hidden, head(params)[: len(tokenizer)])
        logits[role] = np.asarray(dense, np.float64)[:, :-1][mask]
    return Measured(page, logits, tokens[:, 1:][mask])


@functools.partial(jax.jit, static_argnums=0)
def _apply(config, params, tokens):
    return apply(config, params, tokens)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict:
    """Role -> folder of a tiny model whose predictions are not uniform."""
    folder = tmp_path_factory.mktemp("inspected")
    random = np.random.default_rng(0)
    for role, config in MODELS.items():
        # Noise instead of seeds, for each of which the initialization is compiled.
        params = jax.tree.map(
            lambda x: x + 0.05 * random.standard_normal(x.shape, np.float32),
            rig.params_of(config),
        )
        save_pretrained(folder / role, config, params, tokenizer=byte_tokenizer())
    return {role: folder / role for role in MODELS}


@pytest.fixture(scope="session")
def rows_file(tmp_path_factory):
    """A file of conversations with a critical mask per trained byte."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = []
    for number, (question, answer) in enumerate(ROWS):
        count = len(answer.encode()) + 1
        mask = [(number + i) % 2 for i in range(count)]
        turns = [("user", question), ("assistant", answer)]
        messages = [{"role": role, "content": text} for role, text in turns]
        lines.append(json.dumps({"messages": messages, "critical_mask": mask}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="session")
def measured(models, rows_file) -> Measured:
    """A page with all four models."""
    selection = Selection(before=str(models["before"]))
    return measure(keys_of(models, rows_file, target__eta=0.3), selection)
