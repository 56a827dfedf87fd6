"""Windows of dense feature maps."""

from torch import Tensor


def cut_windows(feature: Tensor, cells: Tensor, side: int, step: int) -> Tensor:
    """Square parts of a map.

    Args:
        feature: (1, C, h, w).
        cells: (n, 2) int64, row and column of each window among all windows, which start at every
            ``step``-th cell of the map.
        side: cells along a side.

    Returns:
        (n, C, side, side), a copy.
    """
    windows = feature[0].unfold(1, side, step).unfold(2, side, step)  # a view: (C, i, j, y, x)
    rows, columns = cells.unbind(1)
    return windows.permute(1, 2, 0, 3, 4)[rows, columns]
