"""Batches of a stream, bounded by the number and by the size of their items."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batches(
    items: Iterable[T], number: int, size: Callable[[T], int], limit: int
) -> Iterator[list[T]]:
    """Yield consecutive items, at most `number`, until their sizes reach a limit.

    Args:
        items: the stream.
        number: most items of a batch.
        size: size of an item.
        limit: sum of the sizes from which a batch ends.
    """
    batch: list[T] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if len(batch) == number or total >= limit:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch
