"""What was found, for a terminal and for other programs."""

from __future__ import annotations

import csv
import io
import json
import os
from typing import Any

from tabulate import tabulate

from ..atomic_file import written_whole
from .check import CheckedData
from .codes import KINDS, SEVERITIES
from .problems import Problem, Problems, printable
from .statistics import Statistics

MAX_TEXT = 300
"""Characters of a problem in a terminal."""


def text_report(problems: Problems, most: int) -> str:
    """The problems, at most ``most`` of a code, and a table of how many there are."""
    lines = []
    counts = problems.counts()
    for code, count in counts.items():
        lines.append(f"{KINDS[code].severity}: {code}: {KINDS[code].meaning}")
        lines += [f"  {_line(problem)}" for problem in problems.of(code)[:most]]
        if count > most:
            lines.append(f"  and {count - most} more")
        lines.append("")
    if counts:
        table = [(KINDS[code].severity, code, count) for code, count in counts.items()]
        lines += [tabulate(table, headers=("severity", "code", "problems")), ""]
    found = problems.severities()
    lines.append(", ".join(f"{found[severity]} {severity}s" for severity in SEVERITIES))
    return "\n".join(lines)


def _line(problem: Problem) -> str:
    place = problem.place()
    text = printable(f"{place}: {problem.text}" if place else problem.text)
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 3] + "..."


def write_reports(data: CheckedData, statistics: Statistics, folder: str) -> list[str]:
    """Write ``problems.csv`` and ``report.json``, which has the problems and the statistics.

    Args:
        folder: exists.

    Returns:
        The paths.
    """
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(("severity", "code", "file", "image_id", "annotation_id", "text"))
    for problem in data.problems:
        writer.writerow(
            (problem.severity, problem.code, problem.file, problem.image_id,
             problem.annotation_id, problem.text)
        )  # fmt: skip
    report = {
        "json_file": data.json_file,
        "image_root": data.image_root,
        "severities": data.problems.severities(),
        "codes": {
            code: {**KINDS[code]._asdict(), "problems": count}
            for code, count in data.problems.counts().items()
        },
        "statistics": statistics.summary(),
        "problems": [_as_json(problem) for problem in data.problems],
    }
    contents = {
        "problems.csv": table.getvalue(),
        "report.json": json.dumps(report, indent=1, allow_nan=False) + "\n",
    }
    paths = []
    for name, content in contents.items():
        paths.append(os.path.join(folder, name))
        with written_whole(paths[-1]) as file:
            # Half a surrogate pair, which JSON can hold, has no place in UTF-8.
            file.write(content.encode("utf-8", errors="replace"))
    return paths


def _as_json(problem: Problem) -> dict[str, Any]:
    entry = {"severity": problem.severity, **problem._asdict()}
    for key in ("image_id", "annotation_id"):
        if type(entry[key]) not in (int, str, type(None)):
            entry[key] = repr(entry[key])
    return entry
