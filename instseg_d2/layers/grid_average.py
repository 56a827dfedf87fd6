"""Average pooling to a grid, for exported graphs that take maps of any size."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GridAverage(nn.Module):
    """``nn.AdaptiveAvgPool2d`` for a square grid as two matrix products, up to rounding.

    Exporters write the cells of that layer down for one size of the map. Here the matrices are
    computed from the size within the graph.
    """

    def __init__(self, cells: int) -> None:
        """``cells``: along a side of the grid."""
        super().__init__()
        self.cells = cells

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, cells, cells)."""
        rows, columns = (self._means(length, x) for length in x.shape[-2:])
        return rows @ x @ columns.T

    def _means(self, length: int, like: Tensor) -> Tensor:
        """(cells, length): cell i is the mean of the positions from floor(i * length / cells) on,
        below ceil((i + 1) * length / cells)."""
        cell = torch.arange(self.cells, device=like.device)[:, None]
        position = torch.arange(length, device=like.device)
        start = cell * length // self.cells
        stop = ((cell + 1) * length + self.cells - 1) // self.cells
        inside = (position >= start) & (position < stop)
        return (inside.float() / (stop - start)).to(like.dtype)


def replace_adaptive_pooling(module: nn.Module) -> None:
    """Exchange every average pooling to a square grid within ``module``, in place."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.AdaptiveAvgPool2d) and isinstance(child.output_size, int):
                parent.add_module(name, GridAverage(child.output_size))
