"""Rows of every data set in its published file layout, and the expected examples."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from targetsft_jax.data.config import DataConfig

BOXED = r"So it is $\boxed{\frac{1}{2}}$."


FOUR = {"A": "iron", "B": "zinc", "C": "lead", "D": "tin"}


MCQ = {"question": "Which metal?", "options": FOUR, "answer": "zinc"}


COP = {
    **{"id": "u-1", "question": "Which metal?", "choice_type": "single"},
    **{"opa": "iron", "opb": "zinc", "opc": "lead", "opd": "tin"},
    **{"exp": "Zinc it is.", "subject_name": "Chemistry", "topic_name": None},
}


PUBMED = {
    **{"pubid": 7, "question": "Does it?", "long_answer": "It does."},
    **{"context": {"contexts": ["One.", "Two."], "labels": ["A", "B"]}},
    "final_decision": "yes",
}


TURNS = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]


R1 = {
    **{"problem": "1/2?", "solution": BOXED, "answer": "1/2", "uuid": "u-2"},
    **{"source": "olympiads", "messages": TURNS},
    "generations": ["<think>a</think>no", "<think>b</think>yes", "c", "d"],
    "is_reasoning_complete": [True, False, True, True],
    "correctness_math_verify": [False, True, False, False],
    "correctness_llama": [False, False, True, True],
}


# Data set, path in the published layout, row, fields of the resulting example.
PUBLISHED = [
    (
        "numina_math_cot",
        "data/train-00000-of-00001.parquet",
        {"source": "amc", "problem": "1/2?", "solution": BOXED, "messages": TURNS},
        {"source": "amc", "reasoning": BOXED, "answer": r"\frac{1}{2}"},
    ),
    (
        "openr1_math",
        "data/train-00000-of-00001.parquet",
        R1,
        {"source": "olympiads", "id": "u-2", "reasoning": "c", "answer": "1/2"},
    ),
    (
        "gsm8k",
        "main/train-00000-of-00001.parquet",
        {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
        {"id": "train/0", "reasoning": "1+1=<<1+1=2>>2", "answer": "2"},
    ),
    (
        "gsm8k",
        "grade_school_math/data/test.jsonl",
        {"question": "1+1?", "answer": "1+1=2\n#### 2"},
        {"id": "test/0", "answer": "2"},
    ),
    (
        "math",
        "algebra/test-00000-of-00001.parquet",
        {"problem": "1/2?", "level": "Level 1", "type": "Algebra", "solution": BOXED},
        {"source": "Algebra", "reasoning": BOXED, "answer": r"\frac{1}{2}"},
    ),
    (
        "math",
        "MATH/train/algebra/1.json",
        {"problem": "1/2?", "level": "Level 1", "type": "Algebra", "solution": BOXED},
        {"id": "train/0", "answer": r"\frac{1}{2}"},
    ),
    (
        "math500",
        "test.jsonl",
        {
            **{"problem": "1/2?", "solution": BOXED, "answer": "1/2", "level": 2},
            **{"subject": "Algebra", "unique_id": "test/algebra/1.json"},
        },
        {"source": "Algebra", "id": "test/algebra/1.json", "answer": "1/2"},
    ),
    (
        "svamp",
        "data/test-00000-of-00001.parquet",
        {
            **{"ID": "chal-1", "Body": "A pack costs 76 dollars", "Type": "Sum"},
            **{"Question": "How much are two?", "Equation": "", "Answer": 152.0},
        },
        {
            **{"question": "A pack costs 76 dollars. How much are two?"},
            **{"answer": "152", "id": "chal-1", "source": "Sum"},
        },
    ),
    (
        "aqua_rat",
        "raw/test-00000-of-00001.parquet",
        {
            **{"question": "1/2?", "options": ["A)0.5", "B)5", "C)x) y"]},
            **{"rationale": "Half.", "correct": "A"},
        },
        {"options": ["0.5", "5", "x) y"], "answer": "A", "reasoning": "Half."},
    ),
    (
        "medqa_5opt",
        "questions/US/test.jsonl",
        {
            **{"question": "Which?", "answer": "e", "answer_idx": "E"},
            **{"options": dict(zip("ABCDE", "abcde")), "meta_info": "step1"},
        },
        {"options": list("abcde"), "answer": "E", "source": "step1"},
    ),
    (
        "mmlu_medical",
        "all/test-00000-of-00001.parquet",
        {
            **{"question": "Which?", "subject": "anatomy"},
            **{"choices": list("wxyz"), "answer": 3},
        },
        {"options": list("wxyz"), "answer": "D", "source": "anatomy"},
    ),
    (
        "minerva_math",
        "data/test-00000-of-00001.parquet",
        {"question": "1/2?", "answer": "0.5"},
        {"id": "test/0", "answer": "0.5"},
    ),
    (
        "minerva_math",
        "minerva_math/test.jsonl",
        {"problem": "1/2?", "solution": BOXED, "type": "Astronomy", "idx": 0},
        {"source": "Astronomy", "answer": r"\frac{1}{2}"},
    ),
    (
        "olympiadbench",
        "OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",
        {
            **{"id": 1606, "subfield": "Algebra", "context": None, "question": "?"},
            **{"solution": ["s"], "final_answer": ["$1,2$"], "unit": None},
        },
        {"source": "Algebra", "id": "1606", "reasoning": "s", "answer": "1,2"},
    ),
    (
        "aime24",
        "data/test-00000-of-00001.parquet",
        {"id": 60, "problem": "?", "solution": r"\boxed{204}", "url": "u"},
        {"id": "60", "reasoning": "", "answer": "204"},
    ),
    (
        "amc23",
        "data/test-00000-of-00001.parquet",
        {"id": 0, "question": "?", "answer": 27.0, "url": "u"},
        {"id": "0", "answer": "27.0"},
    ),
    (
        "m23k",
        "data/train-00000-of-00001.parquet",
        {
            **{"prompt": "Which?\nA. iron\nB. zinc", "reasoning": "Hm.", "source": "x"},
            **{"distilled_answer_string": "Zinc.", "answer_letter": "B"},
        },
        {
            "question": "Which?\nA. iron\nB. zinc",
            "options": [],
            "reasoning": "<think>\nHm.\n</think>\n\nZinc.",
            "answer": "B",
        },
    ),
    (
        "medqa",
        "phrases_no_exclude_test.jsonl",
        MCQ | {"answer_idx": "B", "meta_info": "step1", "metamap_phrases": ["x"]},
        {"source": "step1", "options": [*FOUR.values()], "answer": "B"},
    ),
    (
        "medmcqa",
        "data/validation-00000-of-00001.parquet",
        COP | {"cop": 1},
        {"id": "u-1", "options": [*FOUR.values()], "answer": "B"},
    ),
    (
        "medmcqa",
        "dev.json",
        COP | {"cop": 1, "exp": None},
        {"reasoning": "", "answer": "A"},
    ),
    (
        "pubmedqa",
        "pqa_labeled/train-00000-of-00001.parquet",
        PUBMED,
        {
            **{"id": "7", "question": "One.\nTwo.\n\nDoes it?", "answer": "A"},
            **{"options": ["yes", "no", "maybe"], "reasoning": "It does."},
        },
    ),
    (
        "mmlu_pro_medical",
        "data/test-00000-of-00001.parquet",
        {
            **{"question_id": 5, "question": "Which?", "options": ["iron", "zinc"]},
            **{"answer": "B", "answer_index": 1, "category": "health"},
        },
        {"source": "health", "id": "5", "options": ["iron", "zinc"], "answer": "B"},
    ),
    (
        "medxpertqa",
        "Text/test.jsonl",
        {
            **{"id": "Text-0", "label": "B", "options": FOUR, "body_system": "Blood"},
            "question": "Which?\nAnswer Choices: (A) iron (B) zinc (C) lead (D) tin",
        },
        {"id": "Text-0", "question": "Which?", "source": "Blood", "answer": "B"},
    ),
]


def write(path: Path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))


def gsm8k_source(folder):
    """A source of three rows in the official layout of GSM8K, not built yet."""
    rows = [{"question": f"{i}+1?", "answer": f"so\n#### {i + 1}"} for i in range(3)]
    write(folder / "from/train.jsonl", rows)
    return DataConfig(
        source="tfds",
        dataset="gsm8k",
        data_dir=str(folder / "built"),
        path=str(folder / "from"),
    )
