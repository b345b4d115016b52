import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from remora.report.drawings import draw_all
from remora.report.page import build_page
from remora.report.terminal import render_rows
from remora.results.store import read_run
from remora.results.summary import summary_of
from remora.results.summary_schema import StudySummary, Warning


def printed(summary: StudySummary, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, no_color=True).print(render_rows(summary))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_terminal_table(summary: StudySummary) -> None:
    lines = printed(summary, 120)
    assert len(lines) == len(summary.rows) + 2
    advice = summary.recommendation.label
    assert any(line.startswith(f"* {advice} ") for line in lines)
    assert any("prompt-tuning !" in line for line in lines)
    assert "vs full" in lines[0]


def test_a_narrow_terminal_keeps_the_numbers(summary: StudySummary) -> None:
    lines = printed(summary, 76)
    assert max(len(line) for line in lines) <= 76
    best = summary.rows[0]
    assert best.mean is not None
    assert best.low is not None
    assert f"{100 * best.mean:.1f}" in lines[1]
    assert f"{100 * best.low:.1f} to" in lines[1]


def test_terminal_labels_are_no_markup(hostile: Path) -> None:
    text = "\n".join(printed(summary_of(read_run(hostile)), 140))
    assert "<script>alert(1)</script>" in text
    assert "$x_{|`*a*`" in text


def test_markdown_tables_have_equal_columns(hostile: Path) -> None:
    blocks: list[list[str]] = [[]]
    for line in (hostile / "report.md").read_text().splitlines():
        if line.startswith("|"):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    tables = [block for block in blocks if block]
    assert len(tables) >= 6
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1, table[0]


def test_markdown_figures_exist(comparison: Path) -> None:
    links = re.findall(r"\]\((figures/[^)]+)\)", (comparison / "report.md").read_text())
    assert links
    assert all((comparison / link).is_file() for link in links)


@pytest.mark.parametrize("name", ["comparison", "hostile", "regression"])
def test_every_picture_of_the_page_is_drawn(name: str, request: pytest.FixtureRequest) -> None:
    summary = summary_of(read_run(request.getfixturevalue(name)))
    drawn = draw_all(summary)
    page = build_page(summary, drawn)
    pictures = [block.name for section in page.sections for block in section.blocks if block.kind == "picture"]  # type: ignore[union-attr]
    assert sorted(pictures) == sorted(drawn)


def test_equal_warnings_are_told_once(summary: StudySummary) -> None:
    twice = tuple(Warning(kind="x", message="something odd", label=label) for label in ("lora", "dora"))
    page = build_page(summary.model_copy(update={"warnings": twice}), {})
    section = next(section for section in page.sections if section.id == "warnings")
    (block,) = section.blocks
    assert block.kind == "bullets"
    assert list(block.items) == [("lora and dora:", "Something odd.")]  # type: ignore[union-attr]
