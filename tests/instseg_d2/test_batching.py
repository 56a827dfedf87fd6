from collections.abc import Hashable, Iterator

import numpy as np
import pytest

from instseg_d2.batching import in_batches


class Stream:
    """Entries (number, key), and how many of them are taken and not given out."""

    def __init__(self, keys: list[Hashable]) -> None:
        self.keys, self.batches = keys, []
        self.taken = self.given = self.most = 0

    def __iter__(self) -> Iterator[tuple[int, Hashable]]:
        for entry in enumerate(self.keys):
            self.taken += 1
            self.most = max(self.most, self.taken - self.given)
            yield entry

    def run(self, batch: list[tuple[int, Hashable]]) -> list[int]:
        self.batches.append(batch)
        return [number for number, _ in batch]

    def results(self, batch_size: int, window: int) -> Iterator[int]:
        for result in in_batches(
            iter(self), key=lambda e: e[1], run=self.run, batch_size=batch_size, window=window
        ):
            self.given += 1
            yield result


@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("window", [4, 9])
@pytest.mark.parametrize("seed", range(5))
def test_order_batches_and_bound(batch_size: int, window: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    numbers = rng.choice(3, size=rng.integers(0, 60), p=[0.6, 0.3, 0.1])
    stream = Stream([(("a", 1), "b", None)[number] for number in numbers])
    assert list(stream.results(batch_size, window)) == list(range(len(stream.keys)))
    assert stream.most <= window
    for batch in stream.batches:
        assert 1 <= len(batch) <= batch_size
        assert len({key for _, key in batch}) == 1
        positions = [number for number, _ in batch]
        assert positions == sorted(positions)


def test_one_key_fills_every_batch_but_the_last() -> None:
    stream = Stream(["a"] * 11)
    list(stream.results(4, 4))
    assert [len(batch) for batch in stream.batches] == [4, 4, 3]


def test_a_batch_is_looked_for_within_the_window() -> None:
    keys = ["a", "b"] * 8
    wide, narrow = Stream(keys), Stream(keys)
    list(wide.results(4, 8))
    list(narrow.results(4, 4))
    assert [len(batch) for batch in wide.batches] == [4] * 4
    assert max(len(batch) for batch in narrow.batches) == 2


def test_no_more_is_taken_than_the_first_batch_needs() -> None:
    stream = Stream(["a"] * 20)
    results = stream.results(3, 12)
    assert stream.taken == 0
    assert next(results) == 0
    assert stream.taken == 3


def test_an_error_of_the_stream_comes_through() -> None:
    def entries() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(in_batches(entries(), key=str, run=list, batch_size=2, window=2))
