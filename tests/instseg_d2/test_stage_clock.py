import time

import pytest
import torch

from instseg_d2.stage_clock import NO_CLOCK, StageClock


def test_times_of_a_stage_add_up() -> None:
    clock = StageClock()
    for _ in range(3):
        with clock.stage("first"):
            time.sleep(0.01)
        with clock.stage("second"):
            pass
    assert list(clock.seconds) == ["first", "second"]
    assert 0.03 <= clock.seconds["first"] < 1
    assert 0 <= clock.seconds["second"] < 0.01


def test_a_stage_that_fails_is_measured_and_says_so() -> None:
    clock = StageClock()
    with pytest.raises(ValueError, match="inside"), clock.stage("first"):
        raise ValueError("inside")
    assert clock.seconds["first"] >= 0


def test_the_default_measures_nothing() -> None:
    with NO_CLOCK.stage("first"):
        pass
    assert not hasattr(NO_CLOCK, "seconds")


@pytest.mark.needs_cuda
def test_a_gpu_is_waited_for() -> None:
    matrix = torch.randn(4096, 4096, device="cuda")
    matrix @ matrix
    clock = StageClock("cuda")
    with clock.stage("queued"):
        for _ in range(20):
            matrix @ matrix
    start = time.perf_counter()
    torch.cuda.synchronize()
    assert time.perf_counter() - start < 0.1 * clock.seconds["queued"]
