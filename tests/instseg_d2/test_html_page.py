"""Pages that need nothing else, in which no name from data can do harm."""

import base64
import hashlib
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from instseg_d2.html_page import (
    Cell,
    Section,
    Tile,
    folded,
    gallery,
    legend,
    notice,
    number,
    page,
    paragraph,
    picture,
    plot,
    preformatted,
    table,
    tiles,
    write_page,
)
from tests.chromium import console_lines, open_page

HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert('2')">&amp;"""
VOID = {"br", "img", "link", "meta"}


class Outline(HTMLParser):
    """Elements with their attributes; complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def every_element(name: str) -> str:
    rows = [(name, number(2.0, most=4)), ("b", number(math.nan)), ("c", number(10.0, most=4))]
    image = np.full((30, 40, 3), 90, np.uint8)
    body = Markup("").join(
        [
            paragraph(name), notice(name), preformatted(name), tiles([Tile(name, name, name)]),
            table([name, "AP"], rows, caption=name, sortable=True), legend([("#ff0000", name)]),
            folded(name, paragraph(name)), gallery([picture(image, name, name)]),
        ]
    )  # fmt: skip
    return page(name, [Section(name, body)], subtitle=name, footer=name)


def test_names_from_data_stay_text() -> None:
    plain, hostile = Outline(every_element("name")), Outline(every_element(HOSTILE))
    assert [tag for tag, _ in hostile.elements] == [tag for tag, _ in plain.elements]
    assert len(hostile.all("script")) == 1
    assert sum(HOSTILE in text for text in hostile.texts) >= 10
    assert hostile.all("img")[0]["alt"] == HOSTILE
    assert not any(name.startswith("on") for _, attrs in hostile.elements for name in attrs)


def test_page_refers_to_nothing_outside() -> None:
    outline = Outline(every_element("name"))
    for _, attrs in outline.elements:
        for key in ("src", "href"):
            if key in attrs:
                assert attrs[key].startswith(("data:", "#"))
    assert "default-src 'none'" in outline.all("meta")[1]["content"]
    assert outline.all("html")[0]["lang"] == "en"
    assert any(attrs.get("name") == "viewport" for attrs in outline.all("meta"))


def test_contents_lead_to_sections_whatever_their_titles() -> None:
    titles = ["Content", "One", "one!", "日本", "日本"]
    outline = Outline(page("t", [Section(title, paragraph("x")) for title in titles]))
    targets = [attrs["href"][1:] for attrs in outline.all("a")]
    ids = [attrs["id"] for _, attrs in outline.elements if "id" in attrs]
    assert len(set(ids)) == len(ids) == 6
    assert sorted(targets) == sorted(ids)


def test_section_without_a_body_is_left_out() -> None:
    assert "Nothing" not in page("t", [Section("Nothing", Markup(""))])


def test_numbers_sort_and_draw_bars() -> None:
    assert number(1234.56, 1) == Cell("1,234.6", 1234.56, None)
    assert number(5, most=4).part == 1
    assert number(math.inf).text == "–"
    text = table(["class", "AP"], [("a", number(1, most=4)), ("b", number(math.nan))], caption="c")
    assert 'data-sort="1" style="--part:25.0%"' in text
    assert 'data-sort="nan"' in text


def test_empty_table() -> None:
    Outline(table(["class", "AP"], [], caption="nothing"))


def test_large_pictures_are_made_smaller_and_small_ones_stay() -> None:
    large = picture(np.zeros((1000, 2000, 3), np.uint8), "a", max_side=100)
    assert 'width="100" height="50"' in large
    assert 'width="3" height="2"' in picture(np.zeros((2, 3, 3), np.uint8), "a")


def test_text_that_no_encoding_holds(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    size = write_page(str(path), page("half \ud800", []))
    assert path.stat().st_size == size
    assert "half ?" in path.read_text(encoding="utf-8")


def test_page_in_a_browser_has_sorting_and_no_errors(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(str(path), every_element(HOSTILE))
    opened = open_page(path, tmp_path / "profile")
    assert console_lines(opened.log) == []
    assert '<button type="button">AP</button>' in opened.dom


def test_browser_complains_about_a_script_from_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_page(str(path), page("t", []).replace("</main>", "<script>alert(1)</script></main>"))
    lines = console_lines(open_page(path, tmp_path / "profile").log)
    assert len(lines) == 1
    assert "Content Security Policy" in lines[0]


def test_click_sorts_and_a_second_click_turns_the_order(tmp_path: Path) -> None:
    rows = [("a", number(9)), ("b", number(math.nan)), ("c", number(10)), ("d", number(-1))]
    text = page("t", [Section("s", table(["class", "AP"], rows, caption="c", sortable=True))])
    text = text.replace("http-equiv=", "data-was=")  # else the clicks' script would be refused
    click = "document.querySelectorAll('th button')[1].click();"
    for clicks, order in ((1, "cadb"), (2, "dacb")):
        path = tmp_path / f"{clicks}.html"
        path.write_text(text.replace("</body>", f"<script>{click * clicks}</script></body>"))
        outline = Outline(open_page(path, tmp_path / "profile").dom)
        names = [name for name in outline.texts if name in "abcd" and name.strip()]
        assert "".join(names) == f"c{order}"  # the caption is called c too


def test_style_and_script_of_a_kind_of_page_are_allowed_by_its_policy():
    script = "let a = 1 < 2 && '</p>';"
    text = page("t", [Section("s", paragraph("p"))], style="b { color: red }", script=script)
    assert f"<script>{script}</script>" in text
    assert "b { color: red }</style>" in text
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"sha256-{digest}" in text.partition("<title>")[0]


def test_figures_of_matplotlib_are_pictures_of_vectors():
    drawing = Figure(figsize=(2, 1))
    drawing.subplots().plot([1, 2])
    text = str(plot(drawing, 'a "line"'))
    source = text.partition('src="data:image/svg+xml;base64,')[2].partition('"')[0]
    assert b"<svg" in base64.b64decode(source)
    assert 'alt="a &#34;line&#34;"' in text
    assert 'width="192" height="96"' in text
