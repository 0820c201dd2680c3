"""The ten published settings: cells of two comparisons, as `compare` would run them."""

import pytest

from targetsft_jax.experiments import grid
from targetsft_jax.experiments.declaration import read_comparison

STUDENTS = {
    "paper_math": {
        "numina_math_cot": (
            "Qwen/Qwen3-1.7B",
            "Qwen/Qwen2.5-Math-1.5B",
            "Qwen/Qwen2.5-Math-7B",
        ),
        "openr1_math": (
            "Qwen/Qwen3-1.7B",
            "Qwen/Qwen2.5-Math-1.5B",
            "Qwen/Qwen2.5-Math-7B",
        ),
    },
    "paper_medical": {
        "m23k": (
            "meta-llama/Llama-3.2-3B",
            "meta-llama/Llama-3.1-8B",
            "Qwen/Qwen2.5-1.5B",
            "Qwen/Qwen2.5-7B",
        )
    },
}


@pytest.mark.parametrize("name", STUDENTS)
def test_cells_are_the_published_data_sets_students_and_methods(name):
    entries = grid.entries(read_comparison(f"compare/{name}", {}), [])
    expected = {
        (dataset, student, method)
        for dataset, students in STUDENTS[name].items()
        for student in students
        for method in ("sft", "dft", "kd", "target_sft")
    }
    configs = [entry.config for entry in entries]
    found = {(c.data.dataset, c.student.path, c.target.name) for c in configs}
    assert found == expected and len(configs) == len(expected)
    for config in configs:
        assert config.train.batch_size == 256 and config.train.epochs == 1
        is_llama_8b = config.student.path == "meta-llama/Llama-3.1-8B"
        assert config.train.learning_rate == (2e-5 if is_llama_8b else 5e-5)
        assert config.evaluation.samples == 16
        # Student and teacher must share their tokens: one family.
        family = config.student.path.split("/")[1].split("-")[0].split(".")[0]
        assert family in config.teacher.path
