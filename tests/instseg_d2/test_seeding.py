"""Random numbers by their place."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from instseg_d2.seeding import (
    Purpose,
    derived_seed,
    random_numbers_of,
    seed_all_devices,
    seed_generators,
)


def draws() -> tuple[float, float, float]:
    return random.random(), np.random.random(), torch.rand(()).item()


@pytest.mark.parametrize("seed", [seed_generators, seed_all_devices])
def test_a_place_gives_its_numbers_whatever_was_drawn_before(seed: Callable[..., None]) -> None:
    seed(Purpose.STEP, 1, 2)
    first = draws()
    assert draws() != first
    seed(Purpose.STEP, 1, 2)
    assert draws() == first


def test_other_places_give_other_numbers() -> None:
    seen = set()
    places = [
        (purpose, seed, where) for purpose in Purpose for seed in (0, 1) for where in (0, 1, 2**31)
    ]
    for place in places:
        with random_numbers_of(*place):
            seen.update(draws())
    assert len(seen) == 3 * len(places)
    assert len({derived_seed(*place) for place in places}) == len(places)


def test_outside_the_numbers_are_those_that_were_to_come() -> None:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    with random_numbers_of(Purpose.IMAGE, 3, 4):
        assert draws() != expected
    assert draws() == expected
