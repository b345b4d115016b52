"""The report as Markdown; figures are the SVG files beside it."""

from collections.abc import Iterable, Sequence

from remora.report.blocks import (
    Answer,
    Block,
    Bullets,
    ChipRow,
    ChipTable,
    Code,
    Facts,
    Heading,
    Matrix,
    MatrixRow,
    Page,
    Pairs,
    Picture,
    Section,
    Table,
    TableRow,
    Text,
)
from remora.results.names import markdown as escape

FIGURES = "figures"


def to_markdown(page: Page) -> str:
    """Render a page."""
    parts = [f"# {escape(page.title, 400)}", escape(f"{page.eyebrow} · {page.subtitle}", 400)]
    parts += [_section(section) for section in page.sections]
    parts.append(escape(page.footer, 400))
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> str:
    return "\n\n".join([f"## {escape(section.title, 400)}", *(_block(block) for block in section.blocks)])


def _block(block: Block) -> str:
    match block:
        case Answer():
            return f"**{escape(block.text, 400)}**"
        case Text():
            return escape(block.text, 10_000)
        case Heading():
            return f"### {escape(block.text, 400)}"
        case Picture():
            return f"![{escape(block.shows, 400)}]({FIGURES}/{block.name}.svg)\n\n{escape(block.caption, 2000)}"
        case Pairs():
            return "\n".join(f"- {escape(name)}: {escape(value, 4000)}" for name, value in block.items)
        case Bullets():
            return "\n".join(f"- {_strong(strong)}{escape(text, 4000)}" for strong, text in block.items)
        case Facts():
            return "\n".join(
                f"- {escape(fact.name)}: **{escape(fact.value)}**{f' ({escape(fact.note, 200)})' if fact.note else ''}"
                for fact in block.items
            )
        case Table():
            return _table(block.heads, [[_head(row), *_cells(row.cells)] for row in block.rows])
        case ChipTable():
            return _table(block.heads, [[_head(row), _chips(row)] for row in block.rows])
        case Matrix():
            rows = [[_head(row), *_cells(cell.text for cell in row.cells)] for row in block.rows]
            return _table([block.corner, *block.heads], rows)
        case Code():
            return f"{escape(block.title)}:\n\n{_fence(block)}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; heads are text, cells are Markdown already."""
    lines = ["| " + " | ".join(escape(head, 200) for head in heads) + " |"]
    lines.append("|---|" + "---:|" * (len(heads) - 1))
    lines += ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join(lines)


def _cells(texts: Iterable[str]) -> list[str]:
    return [escape(text, 400) for text in texts]


def _head(row: TableRow | ChipRow | MatrixRow) -> str:
    name = escape(row.head)
    if isinstance(row, TableRow) and row.style == "best":
        name = f"**{name}**"
    marks = ", ".join(escape(mark.text) for mark in row.marks)
    return f"{name} ({marks})" if marks else name


def _chips(row: ChipRow) -> str:
    return ", ".join(
        f"{escape(chip.name)} {escape(chip.value, 400)}{f' ({escape(chip.note)})' if chip.note else ''}"
        for chip in row.chips
    )


def _strong(text: str) -> str:
    return f"**{escape(text)}** " if text else ""


def _fence(block: Code) -> str:
    fence = "```"
    while fence in block.code:
        fence += "`"
    return f"{fence}{block.language}\n{block.code}\n{fence}"
