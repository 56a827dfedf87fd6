"""Random numbers that depend on where they are drawn, and not on what was drawn before.

A training that is resumed draws those of an undisturbed one without any state in its checkpoints.
"""

import enum
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


class Purpose(enum.IntEnum):
    """What random numbers are for."""

    SUBSET = 1
    IMAGE = 2
    STEP = 3
    PRECISE_BN = 4


def seed_generators(purpose: Purpose, *place: int) -> None:
    """Seed Python's, NumPy's and, for the CPU, PyTorch's generator.

    Args:
        purpose: for another one there are other numbers.
        place: whole numbers from 0, as many for a purpose as always: the seed of the run, and where
            in it.
    """
    words = _words(purpose, *place)
    # Python's and NumPy's are the same generator: they get words of their own.
    random.seed(int.from_bytes(words[4:].tobytes(), "little"))
    np.random.seed(words[:4])
    torch.default_generator.manual_seed(_seed(words))


def seed_all_devices(purpose: Purpose, *place: int) -> None:
    """As :func:`seed_generators`, and PyTorch's generators of the GPUs that are in use."""
    seed_generators(purpose, *place)
    if torch.cuda.is_initialized():  # else a millisecond goes into noting it for later
        torch.cuda.manual_seed_all(_seed(_words(purpose, *place)))


@contextmanager
def random_numbers_of(purpose: Purpose, *place: int) -> Iterator[None]:
    """As :func:`seed_generators` within; afterwards the generators are as they were before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_generators(purpose, *place)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def derived_seed(purpose: Purpose, *place: int) -> int:
    """A seed from 0 to 2**31 - 1 that belongs to the place."""
    return int(_words(purpose, *place)[0]) >> 1


def _words(purpose: Purpose, *place: int) -> np.ndarray:
    """(8,) uint32."""
    return np.random.SeedSequence((int(purpose), *place)).generate_state(8)


def _seed(words: np.ndarray) -> int:
    """63 bits, which every device takes."""
    return int.from_bytes(words[:2].tobytes(), "little") >> 1
