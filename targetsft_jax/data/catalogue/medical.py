"""Data sets of medicine: one entry each."""

from collections.abc import Mapping, Sequence
from typing import Any

from targetsft_jax.data.catalogue.entry import (
    DataSet,
    Example,
    FileLayout,
    example,
    letter,
)

_DECISIONS = ("yes", "no", "maybe")


def _m23k(row: Mapping[str, Any]) -> Example:
    """Fields prompt (the question with its options), reasoning (thinking),
    distilled_answer_string (the response after it), answer_letter, source. The options
    stay in the question, and the thinking becomes a <think> block."""
    thinking = row["reasoning"].strip()
    response = row["distilled_answer_string"].strip()
    if not response:
        raise ValueError("distilled_answer_string is empty")
    return example(
        row["prompt"],
        row["answer_letter"],
        reasoning=f"<think>\n{thinking}\n</think>\n\n{response}"
        if thinking
        else response,
        source=row["source"],
    )


def _medqa(row: Mapping[str, Any]) -> Example:
    """Fields question, options by letter, answer_idx (a letter), meta_info."""
    return example(
        row["question"],
        row["answer_idx"],
        options=_by_letter(row["options"]),
        source=row.get("meta_info"),
    )


def _medmcqa(row: Mapping[str, Any]) -> Example:
    """Fields id, question, opa to opd, cop (from 0), exp (explanation or null)."""
    return _medmcqa_from(row, first=0)


def _medmcqa_official(row: Mapping[str, Any]) -> Example:
    """Fields id, question, opa to opd, cop (from 1), exp (explanation or null)."""
    return _medmcqa_from(row, first=1)


def _medmcqa_from(row: Mapping[str, Any], first: int) -> Example:
    cop = row["cop"]
    if type(cop) is not int or not first <= cop < first + 4:
        raise ValueError(f"cop is {cop!r}; expected {first} to {first + 3}")
    return example(
        row["question"],
        letter(cop - first),
        options=[row[name] for name in ("opa", "opb", "opc", "opd")],
        reasoning=row["exp"],
        source=row["subject_name"],
        id=row["id"],
    )


def _pubmedqa(row: Mapping[str, Any]) -> Example:
    """Fields pubid, question, context.contexts, long_answer, final_decision."""
    return _decided(
        row["question"],
        row["context"]["contexts"],
        row["long_answer"],
        row["final_decision"],
        row["pubid"],
    )


def _pubmedqa_official(row: Mapping[str, Any]) -> Example:
    """By pmid, fields QUESTION, CONTEXTS, LONG_ANSWER, final_decision."""
    return _decided(
        row["QUESTION"],
        row["CONTEXTS"],
        row["LONG_ANSWER"],
        row["final_decision"],
        row["id"] if "id" in row else row["pmid"],
    )


def _decided(
    question: str, contexts: Sequence[str], long_answer: str, decision: str, id: object
) -> Example:
    if decision not in _DECISIONS:
        raise ValueError(
            f"final_decision is {decision!r}; expected {', '.join(_DECISIONS)}"
        )
    return example(
        "\n".join([*contexts, "", question]),
        letter(_DECISIONS.index(decision)),
        options=_DECISIONS,
        reasoning=long_answer,
        id=id,
    )


def _mmlu_pro_medical(row: Mapping[str, Any]) -> Example | None:
    """Fields question_id, question, options, answer_index, cot_content, category, src.
    Categories other than health and biology are left out."""
    if row["category"] not in ("health", "biology"):
        return None
    return example(
        row["question"],
        letter(row["answer_index"]),
        options=row["options"],
        source=row["category"],
        id=row["question_id"],
    )


def _mmlu_medical(row: Mapping[str, Any]) -> Example | None:
    """Fields subject, question, choices (a list), answer (an index from 0).
    Subjects other than the six medical ones are left out."""
    if row["subject"] not in MMLU_SUBJECTS:
        return None
    return example(
        row["question"],
        letter(row["answer"]),
        options=row["choices"],
        source=row["subject"],
    )


def _mmlu_medical_official(row: Mapping[str, Any]) -> Example | None:
    """Fields subject, question, A to D, answer (a letter)."""
    if row["subject"] not in MMLU_SUBJECTS:
        return None
    return example(
        row["question"],
        row["answer"],
        options=[row[name] for name in "ABCD"],
        source=row["subject"],
    )


MMLU_SUBJECTS = (
    "anatomy",
    "clinical_knowledge",
    "college_biology",
    "college_medicine",
    "medical_genetics",
    "professional_medicine",
)
"""Subjects of MMLU that the published medical comparisons use."""


def _medxpertqa(row: Mapping[str, Any]) -> Example:
    """Fields id, question, options by letter, label. The hub's questions repeat the
    options after "Answer Choices:"."""
    return example(
        row["question"].rpartition("\nAnswer Choices:")[0] or row["question"],
        row["label"],
        options=_by_letter(row["options"]),
        source=row.get("body_system"),
        id=row["id"],
    )


def _by_letter(options: Mapping[str, str | None]) -> list[str]:
    """Options by letter, in order; Parquet has null for unused letters."""
    used = {key: text for key, text in sorted(options.items()) if text is not None}
    letters, texts = list(used), list(used.values())
    if letters != [letter(i) for i in range(len(letters))]:
        raise ValueError(f"options are {', '.join(letters)}; expected A, B, …")
    return texts


MEDICAL = {
    "m23k": DataSet(
        about="23 k medical questions with distilled thinking (m1)",
        licence="see its homepage",
        homepage="https://huggingface.co/datasets/UCSC-VLAA/m23k-tokenized",
        hub="UCSC-VLAA/m23k-tokenized",
        layouts=[FileLayout({"train": ["data/train-*.parquet"]}, _m23k)],
    ),
    "medqa": DataSet(
        about="11 k questions of the USMLE with four options",
        licence="CC BY 4.0 (hub), MIT (official)",
        homepage="https://github.com/jind11/MedQA",
        hub="GBaker/MedQA-USMLE-4-options",
        layouts=[
            FileLayout(
                {
                    # The hub's copy has no dev split; the official archive has.
                    split: [
                        f"phrases_no_exclude_{split}.jsonl",
                        f"*/phrases_no_exclude_{split}.jsonl",
                    ]
                    for split in ("train", "dev", "test")
                },
                _medqa,
            )
        ],
    ),
    "medmcqa": DataSet(
        about="187 k questions of Indian entrance exams with four options",
        licence="Apache-2.0 (hub), MIT (official)",
        homepage="https://medmcqa.github.io",
        hub="openlifescienceai/medmcqa",
        layouts=[
            FileLayout(
                {
                    "train": ["data/train-*.parquet"],
                    "validation": ["data/validation-*.parquet"],
                },
                _medmcqa,
            ),
            FileLayout(
                {
                    "train": ["train.json"],
                    "validation": ["dev.json", "dev.jsonl"],
                },
                _medmcqa_official,
            ),
        ],
    ),
    "pubmedqa": DataSet(
        about="yes, no or maybe from an abstract: 211 k generated, 1 k by experts",
        licence="MIT",
        homepage="https://pubmedqa.github.io",
        hub="qiaojin/PubMedQA",
        layouts=[
            # train: questions generated from titles; test: all labelled by experts.
            FileLayout(
                {
                    "train": ["pqa_artificial/train-*.parquet"],
                    "test": ["pqa_labeled/train-*.parquet"],
                },
                _pubmedqa,
            ),
            FileLayout(
                {
                    "train": ["ori_pqaa.json", "data/ori_pqaa.json"],
                    "test": ["ori_pqal.json", "data/ori_pqal.json", "pqal.jsonl"],
                },
                _pubmedqa_official,
            ),
        ],
    ),
    "medqa_5opt": DataSet(
        about="1,273 questions of the USMLE with five options, for evaluation",
        licence="MIT",
        homepage="https://github.com/jind11/MedQA",
        hub="bigbio/med_qa",
        layouts=[
            FileLayout(
                {
                    split: [f"questions/US/{split}.jsonl", f"*/US/{split}.jsonl"]
                    for split in ("train", "dev", "test")
                },
                _medqa,
            )
        ],
    ),
    "mmlu_medical": DataSet(
        about="1,089 questions of MMLU in six medical subjects, for evaluation",
        licence="MIT",
        homepage="https://github.com/hendrycks/test",
        hub="cais/mmlu",
        layouts=[
            FileLayout({"test": ["all/test-*.parquet"]}, _mmlu_medical),
            FileLayout({"test": ["test.jsonl"]}, _mmlu_medical_official),
        ],
    ),
    "mmlu_pro_medical": DataSet(
        about="1,535 questions of MMLU-Pro on health and biology, for evaluation",
        licence="MIT (hub), Apache-2.0 (official)",
        homepage="https://github.com/TIGER-AI-Lab/MMLU-Pro",
        hub="TIGER-Lab/MMLU-Pro",
        layouts=[
            FileLayout({"test": ["data/test-*.parquet"]}, _mmlu_pro_medical),
        ],
    ),
    "medxpertqa": DataSet(
        about="2,450 expert questions with ten options (Text), for evaluation",
        licence="MIT",
        homepage="https://github.com/TsinghuaC3I/MedXpertQA",
        hub="TsinghuaC3I/MedXpertQA",
        layouts=[
            FileLayout(
                {"test": ["Text/test.jsonl", "Text/test-*.parquet"]},
                _medxpertqa,
            ),
        ],
    ),
}
