"""Label probe: groups of labels, and what models of known predictions measure."""

import dataclasses

import numpy as np
import pytest
from support import rig

from targetsft_jax.data.config import SyntheticConfig
from targetsft_jax.data.synthetic import is_computed, make_record
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.evaluation import label_probe as module
from targetsft_jax.evaluation.label_probe import BINS, probe_examples, probe_labels

NOISY = SyntheticConfig(label_noise=0.3)
# More than one batch of the probe, and not a multiple of it.
COUNT = 70


@pytest.fixture(scope="module")
def examples():
    return probe_examples(NOISY, COUNT, byte_tokenizer())


@pytest.fixture
def measure(examples, monkeypatch):
    def measure(predictions, prob):
        """Probe a model that predicts `predictions` [N, L], with p_y = prob."""
        batches = iter(range(0, COUNT, module._ROWS))

        def predict(config, vocab_size, dtype, params, tokens, is_real):
            first = next(batches)
            best = predictions[first : first + len(tokens), 1:]
            missing = len(tokens) - len(best)
            best = np.pad(best, ((0, missing), (0, 0)))
            return np.full(best.shape, prob, np.float32), best

        monkeypatch.setattr(module, "_predict", predict)
        return probe_labels(rig.STUDENT, {}, examples, vocab_size=300)

    return measure


def test_groups_count_the_characters_that_label_noise_replaced(measure, examples):
    clean = dataclasses.replace(NOISY, label_noise=0.0)
    corrupted = computed = 0
    for index in range(COUNT):
        noisy, true = (
            make_record(config, index).messages[-1]["content"]
            for config in (NOISY, clean)
        )
        corrupted += sum(a != b for a, b in zip(noisy, true))
        computed += sum(is_computed(true))
    probe = measure(examples.tokens, 1.0)
    assert probe["corrupted"]["tokens"] == corrupted > 0
    assert probe["clean"]["tokens"] == computed - corrupted > 0


def test_a_model_that_predicts_the_labels_has_memorised_them(measure, examples):
    probe = measure(examples.tokens, 1.0)
    assert probe["clean"]["accuracy"] == 1 and "memorised" not in probe["clean"]
    assert probe["corrupted"]["accuracy"] == 0
    assert probe["corrupted"]["memorised"] == 1
    assert probe["corrupted"]["label_prob"] == [0.0] * (BINS - 1) + [1.0]


def test_a_model_that_predicts_the_truth_has_memorised_nothing(measure, examples):
    probe = measure(examples.correct, 0.01)
    assert probe["clean"]["accuracy"] == probe["corrupted"]["accuracy"] == 1
    assert probe["corrupted"]["memorised"] == 0
    assert probe["corrupted"]["mean_label_prob"] == pytest.approx(0.01)
    assert probe["corrupted"]["label_prob"] == [1.0] + [0.0] * (BINS - 1)


def test_without_label_noise_no_label_is_corrupted():
    examples = probe_examples(SyntheticConfig(), 2, byte_tokenizer())
    params = rig.params_of(rig.STUDENT)
    probe = probe_labels(rig.STUDENT, params, examples, vocab_size=rig.VOCABULARY)
    assert list(probe) == ["clean"]
    assert sum(probe["clean"]["label_prob"]) == pytest.approx(1)
    assert 0 < probe["clean"]["mean_label_prob"] < 1
