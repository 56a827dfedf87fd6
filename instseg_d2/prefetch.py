"""Work on items ahead of the one who needs them, in threads, and no further ahead than agreed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    items: Iterator[Item],
    function: Callable[[Item], Result],
    *,
    num_workers: int,
    ahead: int,
) -> Generator[Result, None, None]:
    """``function`` of every item, in the order of the items.

    One thread reads the items; ``num_workers`` more call ``function``. They start with the first
    result that is asked for, and have ended when the generator is exhausted or closed. Whatever
    the items or ``function`` raise comes up in its turn. A generator of items is closed at the end.

    Args:
        items: closing the results waits for the item that is being read.
        function: called in several threads at once.
        num_workers: 0: items are read and ``function`` is called when a result is asked for, with
            no threads.
        ahead: most items that have been read and not yet been given out as results.
    """
    if num_workers == 0:
        try:
            for item in items:
                yield function(item)
        finally:
            _close(items)
        return
    reader = _Reader(items, function, num_workers, ahead)
    try:
        yield from reader.results()
    finally:
        reader.stop()


class _Reader:
    """The threads of one run."""

    def __init__(
        self,
        items: Iterator[Item],
        function: Callable[[Item], Result],
        num_workers: int,
        ahead: int,
    ) -> None:
        self._items, self._function = items, function
        self._slots = threading.Semaphore(ahead)
        self._stopped = threading.Event()
        self._futures: SimpleQueue[Future | None] = SimpleQueue()
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix="instseg_d2.prefetch")
        # A daemon: a source that never gives its next item must not keep the program from ending.
        self._thread = threading.Thread(
            target=self._read, name="instseg_d2.prefetch.reader", daemon=True
        )
        self._thread.start()

    def _read(self) -> None:
        try:
            while True:
                self._slots.acquire()
                if self._stopped.is_set():
                    return
                try:
                    item = next(self._items)
                except StopIteration:
                    return
                if self._stopped.is_set():
                    return
                self._futures.put(self._pool.submit(self._function, item))
                del item
        except BaseException as error:
            failed: Future = Future()
            failed.set_exception(error)
            self._futures.put(failed)
        finally:
            _close(self._items)
            self._futures.put(None)

    def results(self) -> Iterator[Result]:
        while (future := self._futures.get()) is not None:
            result = future.result()
            del future
            self._slots.release()
            yield result

    def stop(self) -> None:
        """End the threads: nothing more is read, and what has not begun is dropped."""
        self._stopped.set()
        self._slots.release()
        self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)


def _close(items: Iterator[Item]) -> None:
    close = getattr(items, "close", None)
    if close is not None:
        close()
