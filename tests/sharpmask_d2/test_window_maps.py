import pytest
import torch

from sharpmask_d2.window_maps import cut_windows


@pytest.mark.parametrize(("side", "step"), [(4, 1), (8, 2), (5, 4), (1, 1)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_windows_are_slices_of_the_map(
    side: int, step: int, memory_format: torch.memory_format
) -> None:
    feature = torch.randn(1, 3, 4 * step + side, 6 * step + side).to(memory_format=memory_format)
    cells = torch.tensor([[0, 0], [4, 6], [2, 5], [2, 5], [4, 0]])
    windows = cut_windows(feature, cells, side, step)
    assert windows.shape == (5, 3, side, side)
    for window, (row, column) in zip(windows, (cells * step).tolist(), strict=True):
        assert torch.equal(window, feature[0, :, row : row + side, column : column + side])


def test_they_are_copies_and_may_be_none() -> None:
    feature = torch.zeros(1, 2, 8, 8)
    cut_windows(feature, torch.tensor([[0, 0]]), 4, 2).add_(1)
    assert feature.sum() == 0
    assert cut_windows(feature, torch.zeros(0, 2, dtype=torch.long), 4, 2).shape == (0, 2, 4, 4)
