import hashlib
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from remora.errors import DataError
from remora.report.write import write_report
from tests.report.conftest import EVIL
from tests.results.synthetic import ROWS, build_run

SECTIONS = (
    "verdict",
    "warnings",
    "ranking",
    "reference",
    "costs",
    "tradeoffs",
    "curves",
    "tuning",
    "detail",
    "protocol",
    "use",
    "made",
)
# Attributes through which a page can load or run something.
ACTIVE = {"src", "href", "xlink:href", "srcset", "data", "action", "formaction", "poster", "background", "ping"}


class Page(HTMLParser):
    """Collects tags, ids, links and visible text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.text: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ACTIVE:
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page(run_dir: Path) -> Page:
    return Page((run_dir / "report.html").read_text())


def digests(run_dir: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run_dir)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run_dir.rglob("*"))
        if path.is_file()
    }


def test_what_is_written(comparison: Path) -> None:
    names = {path.name for path in comparison.iterdir()}
    assert {"report.html", "report.md", "results.csv", "results.parquet", "results.json", "figures"} <= names
    figures = {path.stem for path in (comparison / "figures").iterdir()}
    assert {"ranking", "reference", "memory", "curves-score", "curves-loss"} <= figures
    assert {"tradeoff-parameters", "tradeoff-time", "tradeoff-memory"} <= figures


def test_writing_again_gives_the_same_bytes_anywhere(comparison: Path, tmp_path: Path) -> None:
    before = digests(comparison)
    moved = tmp_path / "moved"
    shutil.copytree(comparison, moved)
    shutil.rmtree(moved / "figures")
    (moved / "report.html").unlink()
    written = write_report(moved)
    assert written[0] == moved / "report.html"
    assert digests(moved) == before


def test_all_sections_in_order(comparison: Path) -> None:
    found = [name for name in page(comparison).ids if name in SECTIONS]
    assert found == list(SECTIONS)


def test_every_row_and_class_is_there(comparison: Path) -> None:
    text = " ".join(page(comparison).text)
    for row in ROWS:
        assert row.label in text
    for label in ("technical problem", "Confusion matrix", "Holm-corrected", "53aa51172d142c89", "derived"):
        assert label in text


@pytest.mark.parametrize("name", ["comparison", "hostile", "regression"])
def test_the_page_loads_and_runs_nothing(name: str, request: pytest.FixtureRequest) -> None:
    run_dir: Path = request.getfixturevalue(name)
    source = (run_dir / "report.html").read_text()
    found = page(run_dir)
    assert not found.tags & {"script", "link", "iframe", "img", "object", "embed", "base", "form", "foreignobject"}
    assert not found.handlers
    assert all(link.startswith("#") for link in found.links)
    assert {link[1:] for link in found.links} <= set(found.ids)
    assert len(found.ids) == len(set(found.ids))
    assert "http://" not in source
    assert "https://" not in source
    assert "@import" not in source
    assert "url(" not in source.replace("url(#", "")
    assert "default-src &#39;none&#39;" in source or "default-src 'none'" in source


def test_hostile_names_stay_text(hostile: Path) -> None:
    source = (hostile / "report.html").read_text()
    assert EVIL not in source
    assert "&lt;script&gt;" in source
    assert "\u202e" not in source
    text = "".join(page(hostile).text)
    assert EVIL in text
    assert "$x_{|`*a*`" in text
    for path in (hostile / "figures").iterdir():
        assert "<script" not in path.read_text()
    assert "<script" not in (hostile / "report.md").read_text()


def test_regression_report(regression: Path) -> None:
    found = page(regression)
    text = " ".join(found.text)
    assert "Pearson correlation" in text
    assert (regression / "figures" / "scatter.svg").is_file()
    assert not (regression / "figures" / "memory.svg").exists()
    assert "max-t over all pairs" in text


def test_a_study_that_left_no_result_is_no_report(tmp_path: Path) -> None:
    run_dir = build_run(tmp_path / "run", rows=ROWS[4:5])
    shutil.rmtree(run_dir / "trials")
    with pytest.raises(DataError, match="no finished final trial"):
        write_report(run_dir)


def test_a_single_training_and_a_single_seed(tmp_path: Path) -> None:
    write_report(build_run(tmp_path / "one", rows=ROWS[4:5], kind="train", costs=False, epochs=1))
    ids = page(tmp_path / "one").ids
    assert "verdict" in ids
    assert "reference" not in ids
    write_report(build_run(tmp_path / "two", rows=ROWS[3:5], num_seeds=1))
    assert "With one seed nobody can tell" in (tmp_path / "two" / "report.md").read_text()
