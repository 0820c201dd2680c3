"""Report of a data set: numbers of rows read, left out, truncated and packed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

# Bad rows are all counted; this many are listed.
SHOWN = 10


@dataclass
class DataReport:
    """Counts from reading to packing, for display; batches do not depend on them."""

    rows: int = 0
    """Rows of the files."""
    filtered: int = 0
    """Rows that `where` left out."""
    filtered_by: dict[str, int] = field(default_factory=dict)
    """Count of these rows by the first field that did not satisfy its condition."""
    limited: bool = False
    """True if `limit` ended the reading."""
    bad: int = 0
    """Unusable rows that were skipped."""
    bad_rows: list[str] = field(default_factory=list)
    """The first SHOWN of them: `file:line: problem`."""
    held_out: int = 0
    """Examples held out from training for validation."""
    examples: int = 0
    """Examples that were packed."""
    truncated: int = 0
    """Examples truncated to the length of a row."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Number of examples left out, by reason."""
    beyond_teacher: int = 0
    """Examples longer than a row of the teacher, by its own prompt: truncated or
    dropped."""
    packed_rows: int = 0
    """Packed rows."""
    row_length: int = 0
    """Tokens per packed row."""
    tokens: int = 0
    """Tokens in the packed rows, without padding."""
    trained_tokens: int = 0
    """Trained labels in the packed rows."""
    teacher_row_length: int = 0
    """Tokens per row of the teacher; 0 if it reads those of the student."""
    teacher_tokens: int = 0
    """Tokens in the rows of the teacher, without padding."""
    zero_weights: dict[str, int] = field(default_factory=dict)
    """Column that weighs the loss -> examples in which it is 0 for all trained
    labels."""
    files: dict[str, str] = field(default_factory=dict)
    """Source with several files, or a folder -> their number and names."""
    read_as: dict[str, str] = field(default_factory=dict)
    """Source -> shape of its rows, and the columns that are not read."""
    removed: dict[str, int] = field(default_factory=dict)
    """Source -> number of rows in which `remove` has a match."""
    warning: str = ""
    """Rows that are not used in full, if they are many."""
    mask_from: str = ""
    """Source of the loss mask: the template's marks or its prefix property."""
    by_source: dict[str, dict[str, int]] = field(default_factory=dict)
    """Source -> field of this class -> count; `encoded` counts its examples before any
    was left out."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weight of each source of a weighted mixture."""

    @property
    def fill(self) -> float:
        """Share of the positions of packed rows that hold a token."""
        return self.tokens / max(1, self.packed_rows * self.row_length)

    @property
    def teacher_fill(self) -> float:
        """Share of the positions of the teacher's rows that hold a token."""
        positions = self.packed_rows * self.teacher_row_length
        return self.teacher_tokens / max(1, positions)

    def count(self, name: str, source: str, n: int = 1) -> None:
        """Add `n` to the count `name`, in total and for a source."""
        setattr(self, name, getattr(self, name) + n)
        self.count_source(name, source, n)

    def count_source(self, name: str, source: str, n: int = 1) -> None:
        """Add `n` to the count `name` of a source alone."""
        counts = self.by_source.setdefault(source, {})
        counts[name] = counts.get(name, 0) + n

    def count_filtered(self, by: str, source: str) -> None:
        """Count a row that `where` left out, by the first unsatisfied field."""
        self.count("filtered", source)
        self.filtered_by[by] = self.filtered_by.get(by, 0) + 1

    def skip(self, error: ValueError) -> None:
        """Count an unusable row."""
        self.bad += 1
        if self.bad <= SHOWN:
            self.bad_rows.append(str(error))

    def drop(self, reason: str, count: int = 1) -> None:
        """Count examples that are left out."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def count_examples(
        self, names: Sequence[str], source: np.ndarray, lengths: np.ndarray
    ) -> None:
        """Count the packed examples of each source, and their tokens.

        Args:
            names: names of the sources.
            source: [K] int, index of each example's source.
            lengths: [K] int, tokens of each example.
        """
        for i, name in enumerate(names):
            in_source = source == i
            self.count_source("examples", name, int(in_source.sum()))
            self.count_source("tokens", name, int(lengths[in_source].sum()))

    def lines(self) -> list[str]:
        """Format the report, one fact per line; counts of zero are left out."""
        lines = [f"rows read            {self.rows:,}"]
        if self.limited:
            lines[0] += " (stopped by data.limit)"
        for title, facts in (("files", self.files), ("read as", self.read_as)):
            for source, fact in facts.items():
                of = f"{source}: " if len(self.read_as) > 1 else ""
                lines.append(f"{title:<21}{of}{fact}")
        if self.filtered:
            by = ", ".join(f"{k} {n:,}" for k, n in sorted(self.filtered_by.items()))
            lines.append(f"filtered by where    {self.filtered:,} ({by})")
        if self.bad:
            lines.append(f"bad rows skipped     {self.bad:,}")
            lines += [f"  {row}" for row in self.bad_rows]
            if self.bad > len(self.bad_rows):
                lines.append(f"  … and {self.bad - len(self.bad_rows):,} more")
        if self.truncated:
            lines.append(f"truncated            {self.truncated:,}")
        for reason, count in sorted(self.dropped.items()):
            lines.append(f"dropped              {count:,} ({reason})")
        if self.beyond_teacher:
            lines.append(
                f"beyond the teacher   {self.beyond_teacher:,} of these are longer than"
                f" its rows (teacher.max_length)"
            )
        if self.held_out:
            lines.append(f"held out             {self.held_out:,} (not trained on)")
        lines.append(f"examples             {self.examples:,}")
        if self.packed_rows:
            lines += [
                f"packed rows          {self.packed_rows:,} of {self.row_length:,}"
                f" tokens, {self.fill:.1%} full",
                f"tokens               {self.tokens:,}",
                f"trained tokens       {self.trained_tokens:,}"
                f" ({self.trained_tokens / max(1, self.tokens):.1%})",
            ]
        if self.teacher_row_length:
            lines.append(
                f"teacher's rows       {self.teacher_row_length:,} tokens,"
                f" {self.teacher_fill:.1%} full"
            )
        for name, count in sorted(self.zero_weights.items()):
            if count:
                lines.append(f"weighted with 0      {count:,} (by {name})")
        if len(self.by_source) > 1:
            lines += self._source_table()
        for source, count in self.removed.items():
            of = f" of {source}" if len(self.by_source) > 1 else ""
            lines.append(f"texts removed from   {count:,} rows{of} (data.remove)")
        if self.warning:
            lines.append(f"WARNING              {self.warning}")
        if self.mask_from:
            lines.append(f"assistant mask from  {self.mask_from}")
        return lines

    def _source_table(self) -> list[str]:
        """Table of the counts of each source and its share of the mixture."""
        head = ("rows", "filtered", "bad", "left out", "examples", "tokens")
        width = max(8, *map(len, self.by_source))
        titles = (
            *(f"{title:>12}" for title in head),
            f"{'share':>8}",
            f"{'passes':>8}",
        )
        lines = [f"{'source':<{width}}" + "".join(titles)]
        for name, counts in self.by_source.items():
            # Dropped or held out.
            left_out = counts.get("encoded", 0) - counts.get("examples", 0)
            cells = {**counts, "left out": left_out}
            share, passes = self._share(name)
            line = f"{name:<{width}}"
            line += "".join(f"{cells.get(title, 0):>12,}" for title in head)
            lines.append(f"{line}{share:>8.1%}{passes:>8.2f}")
        return lines

    def _share(self, name: str) -> tuple[float, float]:
        """Share of a source in the tokens of a step, and its passes per epoch."""
        counts = self.by_source[name]
        if not self.weights:
            return counts.get("tokens", 0) / max(1, self.tokens), 1.0
        # Relative to the largest, since the sum of weights may overflow.
        largest = max(self.weights.values())
        share = self.weights[name] / largest
        share /= sum(weight / largest for weight in self.weights.values())
        return share, share * self.packed_rows / counts["packed_rows"]

    def __str__(self) -> str:
        return "\n".join(self.lines())
