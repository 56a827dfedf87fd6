"""The result of a run, for people."""

from __future__ import annotations

from typing import Any

from tabulate import tabulate

COLUMNS = (
    "what", "side", "ms (10-90 %)", "CPU ms", "images/s", "peak MB", "GMAC", "of matmul",
    "as long (10-90 %)", "by CPU", "differs",
)  # fmt: skip


_LEFT_RIGHT = ("left", "right", "right")


def report(result: dict[str, Any]) -> str:
    """
    Args:
        result: of :func:`.run.run`.
    """
    machine, rates = result["machine"], result["rates"]
    versions = ", ".join(f"{key} {value}" for key, value in machine["versions"].items() if value)
    size, wanted = result["image_size"], result["output_size"]
    results = f", results {wanted[0]} x {wanted[1]}" if wanted else ""
    lines = [
        f"{result['config']}: {result['mode']}, image {size[0]} x {size[1]} (height x width)"
        f"{results}, batch {result['batch']}, {result['precision']}, {result['rounds']} rounds",
        f"{machine['date']}, {machine['device']}, {machine['threads']} of {machine['cores']} "
        f"CPU threads, load {machine['load'] or 0:.1f} before; {versions}",
        f"measured at best: matrix product {rates['matmul'] / 1e9:.0f} GMAC/s, 3 x 3 convolution "
        f"{rates['conv3x3'] / 1e9:.0f} GMAC/s",
        "",
        tabulate(
            [row for part in result["parts"] for row in _rows(part, result["parts"][part])],
            headers=COLUMNS,
            tablefmt="presto",
            disable_numparse=True,
            colalign=("left", "left", *["right"] * (len(COLUMNS) - 2)),
        ),
    ]
    for part in result["parts"]:
        lines += _operators(part, result["parts"][part].get("operators", {}))
    return "\n".join(lines)


def _operators(name: str, sides: dict[str, list[dict[str, Any]]]) -> list[str]:
    """A table of each side's operators."""
    lines = []
    for side, operators in sides.items():
        rows = [(each["name"], f"{each['ms']:.1f}", f"{each['share']:.0%}") for each in operators]
        headers = (f"{name}: {side}", "own ms", "share")
        table = tabulate(rows, headers, "presto", disable_numparse=True, colalign=_LEFT_RIGHT)
        lines += ["", table]
    return lines


def _rows(name: str, part: dict[str, Any]) -> list[list[str]]:
    rows = []
    for number, (side, values) in enumerate(part["sides"].items()):
        low, *_, high = values["ms_quantiles"]
        ratio = part["ratios"].get(side)
        difference = part["differences"].get(side)
        rows.append(
            [
                "" if number else name,
                side,
                f"{values['ms']:.1f} ({low:.1f}-{high:.1f})",
                f"{values['cpu_ms']:.1f}",
                f"{values['per_second']:.2f}",
                _cell(values, "peak_mb", ".1f"),
                _cell(values, "gmacs", ".2f"),
                _cell(values, "share_of_matmul", ".0%"),
                f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "",
                f"{ratio['cpu']:.2f}" if ratio else "",
                "" if difference is None else f"{difference:.1e}",
            ]
        )
    return rows


def _cell(values: dict[str, float], key: str, form: str) -> str:
    return format(values[key], form) if key in values else ""
