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
    limited: bool = False
    """Whether `limit` ended the reading."""
    bad: int = 0
    """Rows skipped because they could not be used."""
    bad_rows: list[str] = field(default_factory=list)
    """The first few of them: `file:line: what is wrong`."""
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

    @property
    def fill(self) -> float:
        """Share of all places that holds a token."""
        return self.tokens / max(1, self.packed_rows * self.row_length)

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
            lines.append(f"filtered by where    {self.filtered:,}")
        if self.bad:
            lines.append(f"bad rows skipped     {self.bad:,}")
            lines += [f"  {row}" for row in self.bad_rows]
            if self.bad > len(self.bad_rows):
                lines.append(f"  … and {self.bad - len(self.bad_rows):,} more")
        if self.truncated:
            lines.append(f"truncated            {self.truncated:,}")
        for reason, count in sorted(self.dropped.items()):
            lines.append(f"dropped              {count:,} ({reason})")
        lines.append(f"examples             {self.examples:,}")
        if self.packed_rows:
            lines += [
                f"rows of tokens       {self.packed_rows:,} of {self.row_length:,},"
                f" {self.fill:.1%} full",
                f"tokens               {self.tokens:,}",
                f"trained tokens       {self.trained_tokens:,}"
                f" ({self.trained_tokens / max(1, self.tokens):.1%})",
            ]
        if self.mask_from:
            lines.append(f"assistant mask from  {self.mask_from}")
        return lines

    def __str__(self) -> str:
        return "\n".join(self.lines())
