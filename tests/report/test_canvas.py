import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from remora.report.canvas import PALETTE, drawing, inline, new_figure, to_svg

HOSTILE = '<script>"#0072b2" url(#x) id="y" $\\frac{'


def draw(label: str = "label") -> str:
    with drawing():
        figure = new_figure(1.0)
        axes = figure.add_axes((0.1, 0.2, 0.8, 0.7))
        axes.plot([1, 2], [3, 4], color=PALETTE["blue"], marker="o")
        axes.set_title(label)
        return to_svg(figure)


def test_svg_is_deterministic_and_carries_no_metadata() -> None:
    first = draw()
    assert first == draw()
    assert "metadata" not in first
    assert not re.search(r"\d{4}-\d\d-\d\d", first)
    assert "matplotlib.org" not in first
    ET.fromstring(first)


def test_hostile_text_stays_text_in_both_forms() -> None:
    svg = draw(HOSTILE)
    assert HOSTILE in "".join(ET.fromstring(svg).itertext())
    page = inline(svg, "one", 'a "quoted" <title>')
    assert HOSTILE in "".join(ET.fromstring(page).itertext())
    assert 'aria-label="a &quot;quoted&quot; &lt;title&gt;"' in page


def test_inline_figures_have_own_ids_and_follow_the_page() -> None:
    one, two = (inline(draw(), name, "t") for name in ("one", "two"))
    ids = [set(re.findall(r'\sid="([^"]+)"', text)) for text in (one, two)]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', one)) <= ids[0]
    assert "var(--blue)" in one
    for colour in PALETTE.values():
        assert colour not in one


def test_drawing_leaves_no_trace_in_global_settings() -> None:
    before = dict(mpl.rcParams)
    draw("你好")  # no font here has these glyphs: no warning either
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", PALETTE)
def test_palette_colours_are_distinct_six_digit_hex(name: str) -> None:
    assert re.fullmatch(r"#[0-9a-f]{6}", PALETTE[name])
    assert list(PALETTE.values()).count(PALETTE[name]) == 1
