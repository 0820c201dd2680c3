"""What became of every row, for the reader at start-up."""

from dataclasses import dataclass, field

# Bad rows are all counted; this many are listed.
SHOWN = 10


@dataclass
class Report:
    """Counts from the first row read to the last row of tokens packed."""

    rows: int = 0
    """Rows read."""
    filtered: int = 0
    """Rows that `where` left out."""
    filtered_by: dict[str, int] = field(default_factory=dict)
    """Of them, by the first field that did not satisfy it."""
    limited: bool = False
    """Whether `limit` ended the reading."""
    bad: int = 0
    """Rows skipped because they could not be used."""
    bad_rows: list[str] = field(default_factory=list)
    """The first few of them: `file:line: what is wrong`."""
    held_out: int = 0
    """Examples kept out of training, to be measured."""
    examples: int = 0
    """Examples that reached the rows of tokens."""
    truncated: int = 0
    """Examples cut to the length of a row."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Examples left out, by reason."""
    packed_rows: int = 0
    """Rows of tokens."""
    row_length: int = 0
    """Places in a row."""
    tokens: int = 0
    """Tokens in those rows."""
    trained_tokens: int = 0
    """Of them, the ones that are labels with a loss."""
    mask_from: str = ""
    """How the assistant's tokens were found."""
    by_source: dict[str, dict[str, int]] = field(default_factory=dict)
    """In a mixture, counts for each source under the names of the fields above."""
    weights: dict[str, float] = field(default_factory=dict)
    """In a mixture that has them, the weight of each source."""

    @property
    def fill(self) -> float:
        """Share of all places that holds a token."""
        return self.tokens / max(1, self.packed_rows * self.row_length)

    def count(self, what: str, source: str, n: int = 1) -> None:
        """Adds to one of the counts above, and to the same of a source."""
        setattr(self, what, getattr(self, what) + n)
        self.note(what, source, n)

    def note(self, what: str, source: str, n: int = 1) -> None:
        """Adds to a count of a source alone."""
        own = self.by_source.setdefault(source, {})
        own[what] = own.get(what, 0) + n

    def filter(self, by: str, source: str) -> None:
        """Counts a row that `where` left out, by the field that decided."""
        self.count("filtered", source)
        self.filtered_by[by] = self.filtered_by.get(by, 0) + 1

    def skip(self, error: ValueError) -> None:
        """Counts a row that could not be used."""
        self.bad += 1
        if self.bad <= SHOWN:
            self.bad_rows.append(str(error))

    def drop(self, reason: str, count: int = 1) -> None:
        """Counts examples left out."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def lines(self) -> list[str]:
        """The report, a fact a line; what did not happen is not mentioned."""
        lines = [f"rows read            {self.rows:,}"]
        if self.limited:
            lines[0] += " (stopped by data.limit)"
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
        if self.held_out:
            lines.append(f"held out             {self.held_out:,} (not trained on)")
        lines.append(f"examples             {self.examples:,}")
        if self.packed_rows:
            lines += [
                f"rows of tokens       {self.packed_rows:,} of {self.row_length:,},"
                f" {self.fill:.1%} full",
                f"tokens               {self.tokens:,}",
                f"trained tokens       {self.trained_tokens:,}"
                f" ({self.trained_tokens / max(1, self.tokens):.1%})",
            ]
        if len(self.by_source) > 1:
            lines += self._sources()
        if self.mask_from:
            lines.append(f"assistant mask from  {self.mask_from}")
        return lines

    def _sources(self) -> list[str]:
        """A table of the sources: what became of their rows, and how they are mixed."""
        head = ("rows", "filtered", "bad", "left out", "examples", "tokens")
        width = max(8, *map(len, self.by_source))
        titles = (
            *(f"{title:>12}" for title in head),
            f"{'share':>8}",
            f"{'passes':>8}",
        )
        lines = [f"{'source':<{width}}" + "".join(titles)]
        for name, own in self.by_source.items():
            # Dropped, or held out.
            left_out = own.get("encoded", 0) - own.get("examples", 0)
            counts = {**own, "left out": left_out}
            share, passes = self._mixed(name)
            line = f"{name:<{width}}"
            line += "".join(f"{counts.get(title, 0):>12,}" for title in head)
            lines.append(f"{line}{share:>8.1%}{passes:>8.2f}")
        return lines

    def _mixed(self, name: str) -> tuple[float, float]:
        """A source's share of the tokens of a step, and its passes in an epoch."""
        own = self.by_source[name]
        if not self.weights:
            return own.get("tokens", 0) / max(1, self.tokens), 1.0
        share = self.weights[name] / sum(self.weights.values())
        return share, share * self.packed_rows / own["packed_rows"]

    def __str__(self) -> str:
        return "\n".join(self.lines())
