"""Problems to a score: what is asked, what counts, and what is kept of it."""

import jax
import numpy as np
import pytest

from targetsft_jax.data.config import SyntheticConfig
from targetsft_jax.data.records import Problem, problems
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.evaluation import evaluate as benchmark_module
from targetsft_jax.evaluation.evaluate import benchmark
from targetsft_jax.generation.generate import Completion
from targetsft_jax.models import decoder
from targetsft_jax.models.config import DecoderConfig

# Eight rows more than the tokenizer has tokens.
CONFIG = DecoderConfig(
    vocab_size=272,
    hidden_size=16,
    intermediate_size=24,
    num_layers=1,
    num_heads=2,
    num_kv_heads=1,
)
SETTINGS = {
    "samples": 3,
    "max_new_tokens": 6,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
}
ASKED = [
    Problem([{"role": "user", "content": "1+1=?"}], "2", "a"),
    Problem(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "9+1=?"},
        ],
        "10",
        "b",
    ),
]


@pytest.fixture
def answers(monkeypatch):
    """A model that says what it is told to; what it was asked is kept."""
    asked = {}

    def says(*texts: tuple[str, bool]) -> dict:
        tokenizer = byte_tokenizer()

        def generate(config, params, prompts, **options):
            asked.update(options, prompts=prompts, params=params)
            made = [Completion(tokenizer(t)["input_ids"], end) for t, end in texts]
            return [made[:3], made[3:]]

        monkeypatch.setattr(benchmark_module, "generate", generate)
        return asked

    return says


def test_what_is_cut_off_or_silent_is_wrong(answers):
    answers(
        ("1+1=2\n#### 2", True),
        ("#### 3", True),
        # Right, but it did not end there.
        ("#### 2", False),
        ("nothing to say", True),
        ("#### 10", True),
        ("#### 10", True),
    )
    score, kept = benchmark(CONFIG, {}, ASKED, byte_tokenizer(), seed=0, **SETTINGS)
    assert [row.correct for row in kept] == [[True, False, False], [False, True, True]]
    assert score.average_at_k == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert score.pass_at_k == 1
    assert score.no_answer == pytest.approx(1 / 6)
    assert score.truncated == pytest.approx(1 / 6)
    assert (score.problems, score.k) == (2, 3)
    assert [(row.id, row.answer) for row in kept] == [("a", "2"), ("b", "10")]
    assert kept[0].responses == ["1+1=2\n#### 2", "#### 3", "#### 2"]


def test_prompts_are_the_chat_templates_and_end_where_the_assistant_speaks(answers):
    asked = answers(*[("", True)] * 6)
    tokenizer = byte_tokenizer()
    benchmark(CONFIG, "params", ASKED, tokenizer, seed=4, batch_size=2, **SETTINGS)
    assert [tokenizer.decode(ids) for ids in asked["prompts"]] == [
        "<|user|>1+1=?<|assistant|>",
        "<|system|>Be brief.<|user|>9+1=?<|assistant|>",
    ]
    assert asked["stop_ids"] == [tokenizer.eos_token_id]
    # Rows that are no tokens must not be sampled.
    assert asked["vocab_size"] == 264
    assert asked["params"] == "params" and asked["batch_size"] == 2
    assert asked["key"] == jax.random.key(4)
    assert {key: asked[key] for key in SETTINGS} == SETTINGS


def test_equal_seeds_sample_equally_and_others_do_not():
    """With a real, untrained model and generated problems."""
    params = decoder.init_params(CONFIG, jax.random.key(0))
    asked = problems(SyntheticConfig(digits=2), "heldout", 2)

    def run(seed):
        return benchmark(CONFIG, params, asked, byte_tokenizer(), seed=seed, **SETTINGS)

    (score, one), (_, same), (_, other) = run(1), run(1), run(2)
    assert one == same
    assert [a.responses for a in one] != [a.responses for a in other]
    assert np.isfinite(score.average_at_k) and score.problems == 2
    assert [a.answer for a in one] == [problem.answer for problem in asked]
