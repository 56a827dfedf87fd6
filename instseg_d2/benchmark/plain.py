"""The plain way to do the same, which lives among the tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import instseg_d2
from instseg_d2.errors import ConfigError

FOLDER = Path(instseg_d2.__file__).resolve().parents[1] / "tests" / "plain"


def plain_module(name: str) -> ModuleType:
    """``tests/plain/NAME.py``.

    Raises:
        ConfigError: it is not there: the package was installed without its checkout.
    """
    known = f"tests.plain.{name}"
    if known in sys.modules:
        return sys.modules[known]
    path = FOLDER / f"{name}.py"
    if not path.is_file():
        raise ConfigError(
            f"the plain implementation, {path}, is absent: it comes with a checkout of the "
            "repository, not with the installed package. Run the benchmark in a checkout"
        )
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module
    spec.loader.exec_module(module)
    return module
