"""What became of the tensors of a file and of a model when one was loaded into the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tabulate import tabulate

MAX_LINES = 10
"""Lines on missing tensors, and on unexpected ones, in a report."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a model and of a file.

    Batch counters that only one side has are in none of the lists: nothing depends on them, and
    files from before PyTorch 0.4.1 have none.

    Args:
        matched: names in the model that were loaded.
        missing: names in the model that the file lacks.
        unexpected: names in the file that the model lacks.
        misshaped: (name in the model, shape in the file, shape in the model); not loaded.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    misshaped: list[tuple[str, Shape, Shape]]

    def table(self) -> str:
        """The counts, every mis-shaped tensor, and the modules of the others, for people."""
        rows = [
            ("matched", len(self.matched), "loaded"),
            ("missing", len(self.missing), "in the model only; keep their initial values"),
            ("unexpected", len(self.unexpected), "in the file only; not used"),
            ("mis-shaped", len(self.misshaped), "other shape in the file; keep initial values"),
        ]
        lines = [tabulate(rows, headers=["tensors", "count", ""], tablefmt="simple")]
        shapes = [f"{name}: {theirs} -> {ours}" for name, theirs, ours in self.misshaped]
        for title, entries in (
            ("mis-shaped (in the file -> in the model)", shapes),
            ("missing", grouped_by_module(self.missing)),
            ("unexpected", grouped_by_module(self.unexpected)),
        ):
            if entries:
                lines += [f"{title}:", *(f"  {entry}" for entry in entries)]
        return "\n".join(lines)


def grouped_by_module(names: list[str], max_lines: int = MAX_LINES) -> list[str]:
    """Names, with those of one module in one line where there are too many.

    Args:
        names: dotted names.
        max_lines: modules are taken as deep as they fit into so many lines. Where even the
            outermost do not, one more line says how many are left.
    """
    depth = max((name.count(".") for name in names), default=0) + 1
    groups = _groups(names, depth)
    while len(groups) > max_lines and depth > 1:
        depth -= 1
        groups = _groups(names, depth)
    lines = [
        group[0] if len(group) == 1 else f"{module}.* ({len(group)} tensors)"
        for module, group in groups.items()
    ]
    left = sum(len(group) for group in list(groups.values())[max_lines:])
    return [*lines[:max_lines], *([f"... and {left} more"] if left else [])]


def _groups(names: Iterable[str], depth: int) -> dict[str, list[str]]:
    """Names by the first ``depth`` parts of them, in order."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(".".join(name.split(".")[:depth]), []).append(name)
    return groups


def make_report(
    file_shapes: Mapping[str, Shape],
    model_shapes: Mapping[str, Shape],
    missing: Iterable[str],
    unexpected: Iterable[str],
) -> LoadReport:
    """Sort all names.

    Args:
        file_shapes: what the file has, under the names that
            :func:`instseg_d2.weights.matching.match_names` gave.
        model_shapes: what the model has.
        missing: what the file lacks, mis-shaped tensors included or not.
        unexpected: what loading found left over.
    """
    missing, unexpected = set(without_counters(missing)), set(without_counters(unexpected))
    misshaped = {
        name: (name, shape, model_shapes[name])
        for name, shape in file_shapes.items()
        if name in model_shapes and shape != model_shapes[name]
    }
    # Heuristic matching leaves mis-shaped tensors under their old names, ends of the new ones.
    for name in sorted(missing - misshaped.keys()):
        parts = name.split(".")
        ends = (".".join(parts[start:]) for start in range(1, len(parts)))
        old = next((end for end in ends if end in unexpected), None)
        if old is not None and file_shapes[old] != model_shapes[name]:
            misshaped[name] = (name, file_shapes[old], model_shapes[name])
            unexpected.remove(old)
    return LoadReport(
        matched=[name for name in model_shapes if name in file_shapes and name not in misshaped],
        missing=[name for name in model_shapes if name in missing and name not in misshaped],
        unexpected=[name for name in file_shapes if name in unexpected],
        misshaped=list(misshaped.values()),
    )


def without_counters(names: Iterable[str]) -> list[str]:
    """The names but for those of batch counters."""
    return [name for name in names if name.rsplit(".", 1)[-1] != "num_batches_tracked"]
