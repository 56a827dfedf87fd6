import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from instseg_d2.prefetch import prefetch


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Source:
    """Counts, and knows how far it was read and whether it was closed."""

    def __init__(self, length: int = 10**9) -> None:
        self.length, self.read, self.closed = length, 0, False

    def __call__(self) -> Iterator[int]:
        try:
            for number in range(self.length):
                self.read += 1
                yield number
        finally:
            self.closed = True


def slow_if_even(number: int) -> int:
    time.sleep(0.003 * (number % 2 == 0))
    return number * number


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_results_are_in_order(num_workers: int) -> None:
    source = Source(30)
    results = prefetch(source(), slow_if_even, num_workers=num_workers, ahead=5)
    assert list(results) == [number * number for number in range(30)]
    assert source.closed


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_no_items(num_workers: int) -> None:
    assert list(prefetch(iter([]), str, num_workers=num_workers, ahead=1)) == []


@pytest.mark.parametrize(("num_workers", "ahead"), [(0, 4), (1, 1), (3, 4)])
def test_an_endless_source_is_read_no_further_than_agreed(num_workers: int, ahead: int) -> None:
    source = Source()
    results = prefetch(source(), slow_if_even, num_workers=num_workers, ahead=ahead)
    for taken in range(1, 6):
        next(results)
        time.sleep(0.02)  # time to read too much
        assert taken <= source.read <= taken + ahead
    results.close()
    assert source.closed


def test_work_goes_on_while_results_are_used() -> None:
    started = threading.Semaphore(0)

    def work(number: int) -> int:
        started.release()
        return number

    results = prefetch(iter(range(4)), work, num_workers=1, ahead=2)
    next(results)
    for _ in range(3):  # the first, and two more that nobody has asked for
        assert started.acquire(timeout=60)
    results.close()


def test_nothing_starts_before_the_first_result_is_asked_for() -> None:
    source = Source()
    results = prefetch(source(), slow_if_even, num_workers=2, ahead=4)
    time.sleep(0.02)
    assert source.read == 0
    results.close()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_the_work_raises_comes_up_in_its_turn(num_workers: int) -> None:
    source = Source()

    def work(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return slow_if_even(number)

    results = prefetch(source(), work, num_workers=num_workers, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert source.closed


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_what_the_source_raises_comes_up_in_its_turn(
    num_workers: int, kind: type[BaseException]
) -> None:
    def source() -> Iterator[int]:
        yield from range(3)
        raise kind("broken")

    results = prefetch(source(), slow_if_even, num_workers=num_workers, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    with pytest.raises(kind, match="broken"):
        next(results)


def test_an_interrupted_consumer_leaves_nothing_behind() -> None:
    source = Source()

    def consume() -> None:
        for _ in prefetch(source(), slow_if_even, num_workers=2, ahead=4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert source.closed


def test_results_that_are_forgotten_end_their_threads() -> None:
    source = Source()
    results: Any = prefetch(source(), slow_if_even, num_workers=2, ahead=4)
    next(results)
    del results
    assert source.closed


def test_what_has_not_begun_is_dropped() -> None:
    begun = []
    gate = threading.Event()

    def work(number: int) -> int:
        begun.append(number)
        if number:
            gate.wait(5)
        return number

    results = prefetch(iter(range(100)), work, num_workers=1, ahead=50)
    next(results)
    timer = threading.Timer(0.05, gate.set)
    timer.start()
    results.close()
    assert len(begun) <= 3
    timer.join()
