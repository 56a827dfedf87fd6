"""What README and docs point at is there, and nothing in them is left to fill in."""

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / "README.md", *(REPO / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_blanks(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"@[A-Z]+@", text)
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_configs_in_the_readme_exist() -> None:
    text = (REPO / "README.md").read_text()
    names = re.findall(r"\b(sparse_inst_\w+|quickstart/\w+)", text)
    assert len(set(names)) >= 12
    for name in names:
        folder = "configs" if "/" in name else "configs/sparseinst"
        assert (REPO / folder / f"{name}.yaml").is_file(), name


def test_the_python_examples_name_what_exists() -> None:
    examples = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        imports = [line for line in example.splitlines() if line.startswith("from ")]
        exec("\n".join(imports), {})  # the rest needs trained weights: tests of the predictor
