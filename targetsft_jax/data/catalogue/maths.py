"""Data sets of mathematics: one entry each."""

from collections.abc import Mapping
from typing import Any

from targetsft_jax.data.catalogue.entry import (
    LETTERS,
    DataSet,
    Example,
    FileLayout,
    boxed_answer,
    example,
    plain_text,
)


def _numina(row: Mapping[str, Any]) -> Example:
    """Fields source, problem, solution. Proofs have no box, so no answer."""
    solution = row["solution"]
    return example(
        row["problem"],
        boxed_answer(solution),
        reasoning=solution,
        source=row["source"],
    )


def _openr1(row: Mapping[str, Any]) -> Example | None:
    """Fields problem, answer, source, uuid, and generations with verdicts: complete or
    not, and correct or not by math-verify or, where that has no verdict, by a Llama
    model. The example has the first complete and correct generation, with its <think>
    block."""
    texts, complete = row["generations"], row["is_reasoning_complete"]
    for name in ("correctness_math_verify", "correctness_llama"):
        for text, is_complete, is_correct in zip(texts, complete, row[name] or ()):
            if is_complete and is_correct:
                return example(
                    row["problem"],
                    row["answer"],
                    reasoning=text,
                    source=row["source"],
                    id=row["uuid"],
                )
    return None


def _gsm8k(row: Mapping[str, Any]) -> Example:
    """Fields question, answer (solution with calculator marks, "####", answer)."""
    reasoning, mark, answer = row["answer"].rpartition("####")
    if not mark or not answer.strip():
        raise ValueError("answer has no '#### …' at its end")
    return example(row["question"], answer, reasoning=reasoning)


def _math(row: Mapping[str, Any]) -> Example | None:
    """Fields problem, level, type, solution. The answer is in the solution's last box.
    Two published solutions end in an empty box; they are left out."""
    if "\\boxed{}" in row["solution"]:
        return None
    return _boxed(row["problem"], row["solution"], source=row.get("type"))


def _math500(row: Mapping[str, Any]) -> Example:
    """Fields problem, solution, answer, subject, level, unique_id."""
    return example(
        row["problem"],
        row["answer"],
        reasoning=row["solution"],
        source=row["subject"],
        id=row["unique_id"],
    )


def _minerva(row: Mapping[str, Any]) -> Example:
    """Fields question, answer."""
    return example(row["question"], row["answer"])


def _minerva_official(row: Mapping[str, Any]) -> Example:
    """Fields problem, solution, type, idx, as in the Qwen2.5-Math evaluation."""
    return _boxed(row["problem"], row["solution"], source=row.get("type"))


def _olympiadbench(row: Mapping[str, Any]) -> Example:
    """Fields id, question, context, solution and final_answer (lists), subfield, ….
    The gold answer is the first one, without dollar signs, as in published graders."""
    answers, solutions = row["final_answer"], row["solution"]
    # A misprint: "t(0,4]" for t in the interval.
    answers = [answer.replace("t(0,4]", "(0,4]") for answer in answers]
    if not answers:
        raise ValueError("final_answer is empty")
    context = row.get("context")
    return example(
        f"{context}\n{row['question']}" if context else row["question"],
        answers[0].strip("$"),
        reasoning=solutions[0] if solutions else None,
        source=row["subfield"],
        id=row["id"],
    )


def _aime24(row: Mapping[str, Any]) -> Example:
    """Fields id, problem, solution (the answer in a box), url."""
    return example(
        row["problem"], _answer(row), source=row.get("url"), id=row.get("id")
    )


def _amc23(row: Mapping[str, Any]) -> Example:
    """Fields id, question, answer, url."""
    return example(
        row["question"],
        plain_text(row["answer"]),
        source=row.get("url"),
        id=row.get("id"),
    )


def _answer(row: Mapping[str, Any]) -> str:
    if row.get("answer") is not None:
        return plain_text(row["answer"])
    answer = boxed_answer(row["solution"])
    if not answer:
        raise ValueError("solution has no box and the row no answer")
    return answer


def _svamp(row: Mapping[str, Any]) -> Example:
    """Fields ID, Body, Question, Equation, Answer (a number), Type."""
    body = row["Body"].strip()
    stop = "" if body.endswith((".", "?", "!", ",")) else "."
    return example(
        f"{body}{stop} {row['Question'].strip()}",
        _number_text(row["Answer"]),
        source=row["Type"],
        id=row["ID"],
    )


def _number_text(value: object) -> str:
    """Text of a number, a whole one without its fraction: 51.0 is "51"."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return plain_text(value)


def _aqua_rat(row: Mapping[str, Any]) -> Example:
    """Fields question, options ("A)…" to "E)…"), rationale, correct (a letter)."""
    options = [
        option.partition(")")[2] if option[:2] == f"{a})" else option
        for a, option in zip(LETTERS, row["options"])
    ]
    return example(
        row["question"], row["correct"], options=options, reasoning=row["rationale"]
    )


def _boxed(problem: str, solution: str, source: str | None) -> Example:
    answer = boxed_answer(solution)
    if not answer:
        raise ValueError(r"solution has no \boxed{…}, and so no gold answer")
    return example(problem, answer, reasoning=solution, source=source)


MATHS = {
    "numina_math_cot": DataSet(
        about="860 k competition and school problems with worked solutions",
        licence="Apache-2.0",
        homepage="https://huggingface.co/datasets/AI-MO/NuminaMath-CoT",
        hub="AI-MO/NuminaMath-CoT",
        layouts=[
            FileLayout(
                {
                    "train": ["data/train-*.parquet"],
                    "test": ["data/test-*.parquet"],
                },
                _numina,
            )
        ],
    ),
    "openr1_math": DataSet(
        about="94 k NuminaMath problems with verified reasoning of DeepSeek-R1",
        licence="Apache-2.0",
        homepage="https://huggingface.co/datasets/open-r1/OpenR1-Math-220k",
        hub="open-r1/OpenR1-Math-220k",
        # The configuration `default` is in data/.
        layouts=[FileLayout({"train": ["data/train-*.parquet"]}, _openr1)],
    ),
    "gsm8k": DataSet(
        about="8.8 k grade-school word problems with solutions",
        licence="MIT",
        homepage="https://github.com/openai/grade-school-math",
        hub="openai/gsm8k",
        layouts=[
            FileLayout(
                {
                    split: [
                        f"main/{split}-*.parquet",
                        f"grade_school_math/data/{split}.jsonl",
                    ]
                    for split in ("train", "test")
                },
                _gsm8k,
            )
        ],
    ),
    "math": DataSet(
        about="12.5 k competition problems with solutions (Hendrycks et al.)",
        licence="MIT",
        homepage="https://github.com/hendrycks/math",
        hub="EleutherAI/hendrycks_math",
        layouts=[
            # One folder per subject; the official archive has one file per problem.
            FileLayout(
                {
                    split: [
                        f"*/{split}-*.parquet",
                        f"{split}/*/*.json",
                        f"MATH/{split}/*/*.json",
                    ]
                    for split in ("train", "test")
                },
                _math,
            )
        ],
    ),
    "math500": DataSet(
        about="500 problems of MATH's test split, for evaluation",
        licence="MIT",
        homepage="https://huggingface.co/datasets/HuggingFaceH4/MATH-500",
        hub="HuggingFaceH4/MATH-500",
        layouts=[FileLayout({"test": ["test.jsonl"]}, _math500)],
    ),
    "minerva_math": DataSet(
        about="272 undergraduate problems of science, for evaluation",
        licence="see its homepage",
        homepage="https://huggingface.co/datasets/math-ai/minervamath",
        hub="math-ai/minervamath",
        layouts=[
            FileLayout({"test": ["data/test-*.parquet", "test-*.parquet"]}, _minerva),
            FileLayout({"test": ["minerva_math/test.jsonl"]}, _minerva_official),
        ],
    ),
    "olympiadbench": DataSet(
        about="674 olympiad problems in English without pictures, for evaluation",
        licence="Apache-2.0 (hub), MIT (official)",
        homepage="https://huggingface.co/datasets/Hothan/OlympiadBench",
        hub="Hothan/OlympiadBench",
        layouts=[
            FileLayout(
                {
                    "test": [
                        "OE_TO_maths_en_COMP/*.parquet",
                        "OE_TO_maths_en_COMP/*.json",
                        "OE_TO_maths_en_COMP.json",
                    ]
                },
                _olympiadbench,
            )
        ],
    ),
    "svamp": DataSet(
        about="1,000 arithmetic word problems with varied wording",
        licence="MIT",
        homepage="https://github.com/arkilpatel/SVAMP",
        hub="ChilleD/SVAMP",
        layouts=[
            FileLayout(
                {
                    split: [f"data/{split}-*.parquet", f"{split}.json"]
                    for split in ("train", "test")
                },
                _svamp,
            ),
            FileLayout({"test": ["SVAMP.json", "svamp.jsonl"]}, _svamp),
        ],
    ),
    "aqua_rat": DataSet(
        about="98 k algebraic word problems with five options and rationales",
        licence="Apache-2.0",
        homepage="https://github.com/google-deepmind/AQuA",
        hub="deepmind/aqua_rat",
        layouts=[
            FileLayout(
                {
                    "train": ["raw/train-*.parquet"],
                    "validation": ["raw/validation-*.parquet"],
                    "test": ["raw/test-*.parquet"],
                },
                _aqua_rat,
            ),
            FileLayout(
                {
                    "train": ["train.json", "train.jsonl"],
                    "validation": ["dev.json", "dev.jsonl"],
                    "test": ["test.json", "test.jsonl"],
                },
                _aqua_rat,
            ),
        ],
    ),
    "aime24": DataSet(
        about="30 problems of AIME 2024, for evaluation",
        licence="see its homepage",
        homepage="https://huggingface.co/datasets/math-ai/aime24",
        hub="math-ai/aime24",
        layouts=[
            FileLayout({"test": ["data/test-*.parquet", "test-*.parquet"]}, _aime24),
        ],
    ),
    "amc23": DataSet(
        about="40 problems of AMC 12 2023, for evaluation",
        licence="see its homepage",
        homepage="https://huggingface.co/datasets/math-ai/amc23",
        hub="math-ai/amc23",
        layouts=[
            FileLayout({"test": ["data/test-*.parquet", "test-*.parquet"]}, _amc23),
        ],
    ),
}
