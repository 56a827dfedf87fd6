"""Batches of what belongs together, from a stream whose order is kept."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterator
from typing import TypeVar

Entry = TypeVar("Entry")
Result = TypeVar("Result")


def in_batches(
    entries: Iterator[Entry],
    *,
    key: Callable[[Entry], Hashable],
    run: Callable[[list[Entry]], list[Result]],
    batch_size: int,
    window: int,
) -> Generator[Result, None, None]:
    """The results of entries, in the order of the entries, computed in batches.

    A batch is run only when the oldest entry needs it: when there are enough entries of its key,
    or nothing more may or can be taken in. So entries wait rather than results, which are bigger.

    Args:
        entries: none is taken before a result is asked for.
        key: entries of equal keys may share a batch.
        run: a batch -> the result of each of its entries.
        batch_size: most entries in a batch.
        window: most entries that have been taken and whose results have not yet been given out.
    """
    waiting: dict[Hashable, list[tuple[int, Entry]]] = {}
    results: dict[int, Result] = {}
    taken = given = 0
    exhausted = False
    while True:
        while given in results:
            yield results.pop(given)
            given += 1
        is_enough = bool(waiting) and len(waiting[_oldest(waiting)]) >= batch_size
        if not (is_enough or exhausted or taken - given >= window):
            try:
                entry = next(entries)
            except StopIteration:
                exhausted = True
                continue
            waiting.setdefault(key(entry), []).append((taken, entry))
            taken += 1
            del entry
        elif not waiting:
            return
        else:
            chosen = _oldest(waiting)
            group = waiting.pop(chosen)
            batch, rest = group[:batch_size], group[batch_size:]
            if rest:
                waiting[chosen] = rest
            numbers = [number for number, _ in batch]
            results.update(zip(numbers, run([entry for _, entry in batch]), strict=True))
            del group, batch, rest


def _oldest(waiting: dict[Hashable, list[tuple[int, Entry]]]) -> Hashable:
    """The key of the entry that was taken first."""
    return min(waiting, key=lambda each: waiting[each][0][0])
