"""The report in a real browser. Each check has a control page that shows that the check can fail."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from tests.report.browser import measure, screenshot, visit
from tests.report.test_write import SECTIONS

pytestmark = pytest.mark.browser

CSP = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"


@pytest.mark.parametrize("name", ["comparison", "hostile", "regression"])
def test_the_report_renders_quietly_and_loads_nothing(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run_dir: Path = request.getfixturevalue(name)
    found = visit(run_dir / "report.html", tmp_path / "visit")
    assert found.console == []
    assert found.hosts == set()
    for section in ("verdict", "ranking", "curves", "detail", "protocol", "use", "made"):
        assert f'id="{section}"' in found.dom
    assert "<script" not in found.dom
    assert found.dom.count("<svg") == len(list((run_dir / "figures").iterdir()))


def test_a_page_that_does_load_and_complain_is_caught(tmp_path: Path) -> None:
    page = tmp_path / "control.html"
    page.write_text("<img src='http://outside.test/pixel.png'>")
    assert visit(page, tmp_path / "one").hosts == {"outside.test"}
    page.write_text(f"{CSP}<script>alert(1)</script>")
    assert any("Content Security Policy" in line for line in visit(page, tmp_path / "two").console)


@pytest.mark.parametrize("width", [390, 1000])
def test_layout(comparison: Path, tmp_path: Path, width: int) -> None:
    found = measure(comparison / "report.html", tmp_path / "measure", width)
    assert found["sections"] == list(SECTIONS)
    assert found["scripts"] == 0
    assert found["width"] == width  # nothing sticks out: wide tables scroll by themselves
    touching = found["touching"]
    assert isinstance(touching, dict)
    assert len(touching) == 8
    assert {figure: pairs for figure, pairs in touching.items() if pairs} == {}
    assert found["clipped"] == []


def test_layout_of_long_and_hostile_names(hostile: Path, tmp_path: Path) -> None:
    found = measure(hostile / "report.html", tmp_path / "measure", 390)
    assert found["width"] == 390
    assert found["scripts"] == 0
    assert found["clipped"] == []


def test_the_measuring_sees_what_is_wrong(tmp_path: Path) -> None:
    page = tmp_path / "control.html"
    page.write_text(
        "<body style='margin:0'><div style='width:700px'>x</div><svg aria-label='bad' width='100' height='20'>"
        "<text x='0' y='12'>one</text><text x='4' y='12'>two</text><text x='90' y='12'>cut off</text></svg>"
    )
    found = measure(page, tmp_path / "measure", 390)
    assert found["width"] == 700
    assert found["touching"] == {"bad": [["one", "two"]]}
    assert found["clipped"] == ["cut off"]


def test_light_and_dark(comparison: Path, tmp_path: Path) -> None:
    brightness: dict[str, float] = {}
    for mode, flags in (("light", ()), ("dark", ("--blink-settings=preferredColorScheme=0",))):
        image = tmp_path / f"{mode}.png"
        screenshot(comparison / "report.html", tmp_path / mode, image, 900, 1600, *flags)
        pixels = matplotlib.image.imread(image)[..., :3]
        assert pixels.shape[:2] == (1600, 900)
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
        brightness[mode] = float(pixels.mean())
    assert brightness["light"] > 0.85
    assert brightness["dark"] < 0.25
