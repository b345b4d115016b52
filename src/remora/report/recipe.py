"""The report of a recipe: published numbers beside measured ones, the figures, the rows of every study."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from remora.report.bars import measure_bars
from remora.report.blocks import Block, Bullets, Code, Heading, Page, Pairs, Picture, Section, Table, TableRow, Text
from remora.report.canvas import drawing, to_svg
from remora.report.curves import learning_curves
from remora.report.findings import name_row
from remora.report.grid import grid_tables
from remora.report.heat import heat_map
from remora.report.html import to_html
from remora.report.markdown import FIGURES, to_markdown
from remora.report.measures import measure_name, measure_text
from remora.report.memory import memory_curves
from remora.report.page import FOOTER
from remora.results.names import shown
from remora.results.recipe_schema import RECIPE_FILE, PictureSpec, RecipeRun, measured
from remora.results.store import read_record, within, write_atomic
from remora.results.summary import SUMMARY_FILE
from remora.results.summary_schema import Row, StudySummary
from remora.results.wording import NONE, interval, number, plural

Summaries = Mapping[str, StudySummary]


def write_recipe_report(folder: Path) -> tuple[Path, ...]:
    """Write report.html and report.md with figures from the studies that have a summary.

    Args:
        folder: of the recipe.

    Returns:
        The files written, report.html first.

    Raises:
        DataError: the folder's files are broken.
    """
    run = read_record(folder / RECIPE_FILE, RecipeRun)
    paths = {name: within(folder, name, SUMMARY_FILE) for name in run.studies}
    summaries = {name: read_record(path, StudySummary) for name, path in paths.items() if path.is_file()}
    drawn = draw_pictures(run, summaries)
    page = build_recipe_page(run, summaries, drawn)
    content = {
        "report.html": to_html(page, drawn),
        "report.md": to_markdown(page),
        **{f"{FIGURES}/{name}.svg": svg for name, svg in drawn.items()},
    }
    for name, text in content.items():
        write_atomic(within(folder, *name.split("/")), text.encode())
    return tuple(folder / name for name in content)


def draw_pictures(run: RecipeRun, summaries: Summaries) -> dict[str, str]:
    """Name -> SVG document of every figure that there are results for."""
    found: dict[str, str] = {}
    with drawing():
        for place, spec in enumerate(run.info.pictures, 1):
            there = {name: summaries[name] for name in spec.studies if name in summaries}
            for name, figure in _figures(spec, there).items():
                if figure is not None:
                    found[f"{place}-{name}"] = to_svg(figure)
    return found


def _figures(spec: PictureSpec, summaries: Summaries) -> dict[str, Figure | None]:
    if spec.kind == "table":
        return {}
    if spec.kind == "bars":
        return {"bars": measure_bars(summaries, spec.measures)}
    if spec.kind == "heat":
        return {f"heat-{name}": heat_map(summary, spec) for name, summary in summaries.items()}
    if spec.kind == "memory":
        return {f"memory-{name}": memory_curves(summary) for name, summary in summaries.items()}
    return {
        f"{what}-{name}": learning_curves(summary, what)
        for name, summary in summaries.items()
        for what in ("score", "loss")
    }


def build_recipe_page(run: RecipeRun, summaries: Summaries, drawn: Mapping[str, str]) -> Page:
    """The report as data.

    Args:
        run: the recipe.
        summaries: of the studies that are done, by name.
        drawn: the figures there are.
    """
    sections = [_about(run, summaries), _published(run, summaries), _pictures(run, summaries, drawn)]
    sections += [_study(run, name, summary) for name, summary in summaries.items()]
    return Page(
        title=run.info.title,
        eyebrow=f"Remora · recipe {shown(run.name)}{', small form' if run.small else ''}",
        subtitle=run.info.citation,
        sections=[section for section in sections if section is not None],
        footer=FOOTER,
    )


def _about(run: RecipeRun, summaries: Summaries) -> Section:
    blocks: list[Block] = [Text(text=run.info.summary)]
    missing = [name for name in run.studies if name not in summaries]
    if missing:
        blocks.append(Text(text=f"Not run yet: {', '.join(missing)}."))
    if run.command:
        blocks.append(Code(title="Run with", code=run.command, language="sh"))
    if run.info.chosen:
        blocks += [
            Heading(text="What the publication leaves open, or the recipe does otherwise"),
            Bullets(items=[("", text) for text in run.info.chosen]),
        ]
    if run.info.needs:
        blocks += [Heading(text="What it needs"), Bullets(items=[("", text) for text in run.info.needs])]
    if run.small and run.info.small:
        blocks += [Heading(text="What the small form changes"), Bullets(items=[("", text) for text in run.info.small])]
    if any(run.changes.values()):
        blocks.append(Heading(text="Settings that differ from the recipe's full form"))
        blocks.append(Pairs(items=[(name, "; ".join(lines)) for name, lines in run.changes.items() if lines]))
    return Section(id="about", title="What was run", blocks=blocks)


def _published(run: RecipeRun, summaries: Summaries) -> Section | None:
    """The publication's numbers beside this run's; None where it gave none."""
    if not run.info.published:
        return None
    rows: list[TableRow] = []
    for value in run.info.published:
        summary = summaries.get(value.study)
        row = None if summary is None else next((row for row in summary.rows if row.label == value.row), None)
        here = None if summary is None or row is None else measured(summary, row, value.measure)
        low_high = NONE
        if summary is not None and row is not None and value.measure == summary.data.metric:
            low_high = interval(row.low, row.high, value.measure)
        rows.append(
            TableRow(
                head=shown(f"{value.study}: {value.row}"),
                cells=[
                    measure_name(value.measure),
                    measure_text(value.measure, value.value),
                    measure_text(value.measure, here),
                    low_high,
                    value.note or NONE,
                ],
            )
        )
    lead = "Published numbers are single runs unless the note says otherwise; measured ones are means over seeds, with "
    lead += "95 % intervals for the headline metric. They are comparable only as far as the section above says."
    heads = ["study and row", "measure", "published", "measured", "95 % interval", "note"]
    return Section(
        id="published", title="Published beside measured", blocks=[Text(text=lead), Table(heads=heads, rows=rows)]
    )


def _pictures(run: RecipeRun, summaries: Summaries, drawn: Mapping[str, str]) -> Section | None:
    blocks: list[Block] = []
    for place, spec in enumerate(run.info.pictures, 1):
        if spec.kind == "table":
            blocks += grid_tables({name: summaries[name] for name in spec.studies if name in summaries}, spec)
        for name in (name for name in drawn if name.startswith(f"{place}-")):
            _, _, about = name.partition("-")
            blocks.append(Picture(name=name, shows=shown(about.replace("-", " ")), caption=_caption(spec, about)))
    title = "Figures and tables" if any(spec.kind == "table" for spec in run.info.pictures) else "Figures"
    return Section(id="figures", title=title, blocks=blocks) if blocks else None


def _caption(spec: PictureSpec, about: str) -> str:
    what, _, study = about.partition("-")
    said = {"score": "Headline metric on validation by epoch. ", "loss": "Training loss by epoch. "}.get(what, "")
    return f"{shown(study)}: {said}{spec.caption}" if study else spec.caption


def _study(run: RecipeRun, name: str, summary: StudySummary) -> Section:
    """A study's verdict, and all its rows, with the columns of which any has a value."""
    known = [name for name in run.info.columns if any(measured(summary, row, name) is not None for row in summary.rows)]
    columns = list(dict.fromkeys([summary.data.metric, *known]))

    def cells(row: Row) -> list[str]:
        found = [measure_text(column, measured(summary, row, column)) for column in columns]
        return [found[0], interval(row.low, row.high, summary.data.metric), *found[1:]]

    heads = ["method", measure_name(columns[0]), "95 % interval", *map(measure_name, columns[1:])]
    rows = ", ".join(f"{number(split.rows)} {what}" for what, split in summary.data.splits.items())
    lead = f"{shown(summary.model.name)} on {shown(summary.data.name)}, {plural(len(summary.protocol.seeds), 'seed')}; "
    lead += f"rows: {rows}. {summary.recommendation.text}"
    blocks: list[Block] = [
        Text(text=lead),
        Table(heads=heads, rows=[name_row(row, cells(row)) for row in summary.rows]),
        Text(text=f"All of it: {name}/report.html.", quiet=True),
    ]
    return Section(id=f"study-{name}", title=f"Study {shown(name)}", blocks=blocks)
