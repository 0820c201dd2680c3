"""Load the problems of a benchmark, with every gold answer checked."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from targetsft_jax.data.catalogue import CATALOGUE, builder
from targetsft_jax.data.catalogue.entry import LETTERS
from targetsft_jax.data.catalogue.published import read_published
from targetsft_jax.data.config import SourceConfig
from targetsft_jax.data.filters import conditions
from targetsft_jax.data.json_rows import parse_row
from targetsft_jax.data.record import field_text, field_value, first_unmet
from targetsft_jax.data.records import Problem, open_rows
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.row_error import RowError, is_unicode
from targetsft_jax.evaluation.benchmarks.benchmark import Benchmark
from targetsft_jax.evaluation.benchmarks.few_shot import Shot, choose, messages
from targetsft_jax.evaluation.grading import check_gold


@dataclass(frozen=True)
class LoadedBenchmark:
    """The problems of a benchmark.

    Attributes:
        benchmark: its entry.
        problems: in the order of the source; messages have the benchmark's prompt.
        report: counts of the rows of the source.
        limited: True if `limit` left problems out.
    """

    benchmark: Benchmark
    problems: list[Problem]
    report: DataReport
    limited: bool = False

    def size(self) -> str:
        """Number of problems, and of those published, in words."""
        count, published = len(self.problems), self.benchmark.published_size
        if published is None or published == count:
            return f"{count:,} problems"
        return f"{count:,} of {published:,} published problems"


def load(
    benchmark: Benchmark,
    *,
    path: str | None = None,
    data_dir: str | None = None,
    limit: int | None = None,
    shots_path: str | None = None,
) -> LoadedBenchmark:
    """Load the problems of a benchmark.

    Args:
        benchmark: its entry.
        path: file or folder with its published rows, in place of the entry's source.
        shots_path: the same for its worked examples.
        data_dir: folder of the built data sets of the catalogue.
        limit: number of problems, from the beginning; None: all.

    Raises:
        ValueError: the source cannot be read, or has no problem; an unusable row; a
            gold answer that cannot be graded against, with its row and text; two
            problems with one id.
    """
    report = DataReport()
    problems: list[Problem] = []
    origins: dict[str, str] = {}
    limited = False
    pool = _pool(benchmark, path, shots_path, data_dir)
    for origin, row, fields in _rows(benchmark, path, data_dir, report):
        if len(problems) == limit:
            limited = True
            break
        problem = _problem(benchmark, fields, row, origin, pool)
        if problem.id in origins:
            raise RowError(
                origin,
                f"the id {problem.id!r} is that of {origins[problem.id]} too; expected "
                "one id per problem",
            )
        origins[problem.id] = origin
        problems.append(problem)
    if not problems:
        raise ValueError(
            f"{benchmark.name} has no problem left of {report.rows:,} rows; check data "
            "and data.where"
        )
    return LoadedBenchmark(benchmark, problems, report, limited)


def _rows(
    benchmark: Benchmark, path: str | None, data_dir: str | None, report: DataReport
) -> Iterator[tuple[str, Mapping[str, Any], Benchmark]]:
    """Rows with their origins, and the entry that names their fields."""
    source = benchmark.data
    tests = conditions(source.where)
    for origin, row, fields in _read(benchmark, path, data_dir, report):
        unmet = first_unmet(row, tests, origin)
        if unmet is not None:
            report.count_filtered(unmet, benchmark.name)
            continue
        yield origin, row, fields
        if source.limit is not None and report.rows - report.filtered >= source.limit:
            report.limited = True
            break


def _read(
    benchmark: Benchmark, path: str | None, data_dir: str | None, report: DataReport
) -> Iterator[tuple[str, Mapping[str, Any], Benchmark]]:
    source = benchmark.data
    if source.source == "tfds":
        fields = replace(
            benchmark, question="question", options="options", answer="answer", id="id"
        )
        for origin, example in _examples(benchmark, path, data_dir):
            report.count("rows", benchmark.name)
            if isinstance(example, RowError):
                raise example
            if example is None:
                report.count_filtered("the entry's rule", benchmark.name)
                continue
            yield origin, example, fields
        return
    if path is not None:
        source = replace(source, source="files", path=path)
    for origin, raw in open_rows(source):
        report.count("rows", benchmark.name)
        yield origin, parse_row(raw, origin), benchmark


def _examples(
    benchmark: Benchmark, path: str | None, data_dir: str | None
) -> Iterator[tuple[str, Any]]:
    """Examples of a data set of the catalogue, from its build or from files."""
    source = benchmark.data
    assert source.dataset is not None
    path = path if path is not None else source.path  # type: ignore[assignment]
    if path is not None:
        yield from read_published(source.dataset, path, source.split or "test")
        return
    built, split = builder.build_if_missing(
        source.dataset, source.split, data_dir or source.data_dir
    )
    yield from builder.read(built, split)


def _pool(
    benchmark: Benchmark,
    path: str | None,
    shots_path: str | None,
    data_dir: str | None,
) -> list[Shot]:
    """Worked examples of a benchmark; empty if it has none.

    Raises:
        ValueError: as `load`, of their source.
    """
    few_shot = benchmark.few_shot
    if few_shot is None or not few_shot.examples:
        return []
    source = few_shot.data or _training_source(benchmark.data)
    if shots_path is None and source == benchmark.data:
        shots_path = path
    entry = replace(benchmark, data=source)
    shots = []
    for origin, row, fields in _rows(entry, shots_path, data_dir, DataReport()):
        example = _problem(entry, fields, row, origin, ())
        response = benchmark.response(example.answer, example.options)
        if few_shot.response is not None:
            response = field_text(row, few_shot.response, origin)
        turn = benchmark.user_turn(example.question, example.options)
        shots.append(Shot(example.id, example.question, turn, response))
    return shots


def _training_source(source: SourceConfig) -> SourceConfig:
    """Training split of a data set; a source without one, as it is."""
    if source.source == "tfds" and source.dataset is not None:
        splits = CATALOGUE[source.dataset].splits
        names = [name for name in ("train", "validation") if name in splits]
        return replace(source, split=names[0]) if names else source
    return source


def _problem(
    benchmark: Benchmark,
    fields: Benchmark,
    row: Mapping[str, Any],
    origin: str,
    pool: Sequence[Shot],
) -> Problem:
    question = field_text(row, fields.question, origin)
    texts = _options(row, fields.options, origin)
    number = origin.rpartition("/")[2]
    id = str(field_value(row, fields.id, origin)) if fields.id else ""
    id = id or number
    gold = _gold(row, fields.answer, texts, origin)
    options = dict(zip(LETTERS, texts))
    if benchmark.shuffle_options is not None and options:
        options, gold = _shuffled(options, gold, f"{benchmark.shuffle_options} {id}")
    try:
        check_gold(benchmark.grader, gold, options)
    except ValueError as error:
        raise RowError(origin, f"the gold answer is {gold[:200]!r}: {error}") from None
    shots = []
    if benchmark.few_shot is not None and pool:
        shots = choose(pool, benchmark.few_shot, id, question)
    turn = benchmark.user_turn(question, options)
    prompt = messages(benchmark.system, shots, turn, plain=benchmark.is_plain)
    return Problem(prompt, gold, id, benchmark.name, options, question)


def _options(row: Mapping[str, Any], options: Any, origin: str) -> list[str]:
    """Texts of the options, in order; empty if there are none."""
    if options is None:
        return []
    if isinstance(options, list):
        # Of ten fields a row may use fewer.
        values = [row.get(name) for name in options]
        texts = [value for value in values if value not in (None, "")]
    else:
        value = field_value(row, options, origin)
        if isinstance(value, Mapping):
            texts = [text for _, text in sorted(value.items()) if text is not None]
        else:
            texts = value
    if not isinstance(texts, list) or len(texts) > len(LETTERS):
        raise RowError(
            origin, f"the options are {texts!r}; expected up to {len(LETTERS)} texts"
        )
    result = []
    for letter, text in zip(LETTERS, texts):
        if not isinstance(text, str | int | float) or isinstance(text, bool):
            raise RowError(origin, f"option {letter} is {text!r}; expected text")
        if not str(text).strip() or not is_unicode(str(text)):
            raise RowError(origin, f"option {letter} is {str(text)!r}; expected text")
        result.append(str(text).strip())
    return result


def _gold(row: Mapping[str, Any], answer: str, options: list[str], origin: str) -> str:
    """Gold answer; with options the letter of one."""
    if answer.startswith("literal:"):
        return answer.removeprefix("literal:")
    text = field_text(row, answer, origin).strip()
    if not options:
        return text
    letters = LETTERS[: len(options)]
    if text in letters and len(text) == 1:
        return text
    if text.isdecimal() and text not in options and int(text) < len(options):
        return letters[int(text)]
    if options.count(text) == 1:
        return letters[options.index(text)]
    raise RowError(
        origin,
        f"the answer is {text[:100]!r}; expected one of the letters "
        f"{', '.join(letters)}, an index from 0 to {len(options) - 1}, or the text of "
        "one option",
    )


def _shuffled(
    options: Mapping[str, str], gold: str, seed: str
) -> tuple[dict[str, str], str]:
    """Options in another order under the same letters, and the new gold letter."""
    order = list(options)
    random.Random(seed).shuffle(order)
    shuffled = {new: options[old] for new, old in zip(options, order)}
    return shuffled, list(options)[order.index(gold)]
