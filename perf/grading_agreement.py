r"""Agreement of the graders: `python perf/grading_agreement.py ../shared/data`.

Strict, reference and math-verify alone on the hard cases, labelled pairs and stored
outputs of that folder, every difference printed.
"""

import gzip
import json
import sys
import time
from pathlib import Path

from math_verify import parse, verify

from targetsft_jax.evaluation.grading import GradingRequest, grade_all


def _rows(path: Path) -> list[dict]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.split("\n") if line]


def _alone(output: str, gold: str) -> bool:
    """The verdict of math-verify with its own extraction."""
    return bool(verify(parse(f"${gold}$"), parse(output)))


def _report(title: str, ids: list, verdicts: list[bool], labels: list[bool]) -> None:
    false = [i for i, v, x in zip(ids, verdicts, labels) if v and not x]
    missed = [i for i, v, x in zip(ids, verdicts, labels) if x and not v]
    right = len(ids) - len(false) - len(missed)
    print(f"{title}: {right} of {len(ids)}; false {false}; missed {missed}")


def _grade(grader: str, cases: list[tuple], mode: str) -> list[bool]:
    begun = time.perf_counter()
    requests = [GradingRequest(grader, o, g, options, mode) for o, g, options in cases]
    grades = grade_all(requests)
    seconds = time.perf_counter() - begun
    print(f"  {grader} {mode}: {len(cases) / seconds:,.0f} per second")
    return [grade.correct for grade in grades]


def main() -> None:
    """Print all tables."""
    data = Path(sys.argv[1])
    edge = _rows(data / "edge_cases/edge_cases.jsonl")
    for kind, grader in (("math", "math"), ("mcq", "choice")):
        rows = [row for row in edge if row["kind"] == kind]
        cases = [(r["output"], r["gold"], r.get("options")) for r in rows]
        ids, labels = [r["id"] for r in rows], [r["should_match"] for r in rows]
        for mode in ("strict", "reference"):
            _report(f"edge {kind} {mode}", ids, _grade(grader, cases, mode), labels)
        if kind == "math":
            verdicts = [_alone(o, g) for o, g, _ in cases]
            _report("edge math math-verify", ids, verdicts, labels)
    pairs, labels = [], []
    for row in _rows(data / "fixture_olympiad_scoring/scoring_examples.jsonl"):
        for answer in row["Ans"]:
            text = answer["answer"]
            output = text if "boxed" in text else rf"\boxed{{{text}}}"
            pairs.append((output, row["GT"], None))
            labels.append(answer["equal"])
    for mode in ("strict", "reference"):
        _report(f"olympiad {mode}", pairs, _grade("math", pairs, mode), labels)
    _report("olympiad math-verify", pairs, [_alone(o, g) for o, g, _ in pairs], labels)
    rows = _rows(data / "fixture_math500_pairs/math500_gpt_answers.jsonl")
    pairs = [(row["prediction"], row["answer"], None) for row in rows]
    alone = [_alone(output, gold) for output, gold, _ in pairs]
    for mode in ("strict", "reference"):
        _report(
            f"math500 {mode} vs math-verify", pairs, _grade("math", pairs, mode), alone
        )
    path = data / "fixture_mmlu_pro_outputs/llama31_8b_instruct.jsonl.gz"
    rows = [row for row in _rows(path)]
    cases = [
        (row["generated_text"], row["answer"], dict(zip("ABCDEFGHIJ", row["options"])))
        for row in rows
    ]
    stored = [row["pred"] == row["answer"] for row in rows]
    ids = [row["question_id"] for row in rows]
    for mode in ("strict", "reference"):
        _report(
            f"mmlu-pro {mode} vs stored", ids, _grade("choice", cases, mode), stored
        )


if __name__ == "__main__":
    main()
