"""Damaged files of all kinds end in the documented errors.

More cases, and other ones, with the environment variables INSTSEG_D2_FUZZ_CASES (in all) and
INSTSEG_D2_FUZZ_SEED; one case again: INSTSEG_D2_FUZZ_CASE=12345 with the test of its kind.
"""

import os
import resource
import signal
import warnings
from collections import Counter

import numpy as np
import pytest

from instseg_d2.errors import UserError
from tests.fuzz_targets import TARGETS

CASES = int(os.environ.get("INSTSEG_D2_FUZZ_CASES", "2000"))
SEED = int(os.environ.get("INSTSEG_D2_FUZZ_SEED", "0"))
ONE_CASE = os.environ.get("INSTSEG_D2_FUZZ_CASE")
SECONDS = 20
"""For one case."""
MEGABYTES = 300
"""Which all cases of a kind together may add to the memory that was ever used."""


class TookTooLong(BaseException):
    """No ``Exception``, which readers turn into errors of their own."""


def peak_megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.fixture
def alarm():
    def ring(number, frame):
        raise TookTooLong(f"a case took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_give_documented_errors(tmp_path, alarm, name):
    target, share = TARGETS[name]
    cases = [int(ONE_CASE)] if ONE_CASE else range(max(1, CASES * share // 100))
    outcomes = Counter()
    before = peak_megabytes()
    for case in cases:
        generator = np.random.default_rng([SEED, case])
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                target(tmp_path, generator)
            outcomes["accepted"] += 1
        except UserError as error:
            message = str(error)
            assert "\0" not in message, _again(name, case)
            assert len(message) < 5000, _again(name, case)
            outcomes[type(error).__name__] += 1
        except BaseException as error:
            raise AssertionError(
                f"{type(error).__name__}: {error}\n{_again(name, case)}"
            ) from error
    signal.alarm(0)
    assert peak_megabytes() - before < MEGABYTES
    print(f"{name}: {dict(outcomes)}")
    if len(cases) > 50:
        assert len(outcomes) > 1  # else nothing is damaged, or all is refused at the door


def _again(name, case):
    return (
        f"Again: INSTSEG_D2_FUZZ_SEED={SEED} INSTSEG_D2_FUZZ_CASE={case} python -m pytest "
        f"tests/test_fuzzing.py -k {name}"
    )
