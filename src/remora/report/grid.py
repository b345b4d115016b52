"""Tables of a recipe: a measure over two settings of rows or studies with intervals, a table per value of a third."""

from collections.abc import Mapping, Sequence

from remora.report.blocks import Block, Heading, Table, TableRow, Text
from remora.report.heat import in_order, setting_text
from remora.report.measures import measure_name, measure_text
from remora.results.names import shown
from remora.results.recipe_schema import PictureSpec, measured, setting_of
from remora.results.schema import Setting
from remora.results.summary_schema import Row, StudySummary
from remora.results.wording import NONE, interval

Place = tuple[StudySummary, Row]
_NAMES = {"train_rows": "training rows", "num_virtual_tokens": "virtual tokens"}


def grid_tables(summaries: Mapping[str, StudySummary], spec: PictureSpec) -> list[Block]:
    """A table per measure and value of the third setting, and what they show; empty where no row has the settings.

    The model before training, which has none of them, stands in a column of its own.

    Args:
        summaries: of the studies.
        spec: names the settings and the measures.
    """
    used = [name for name in (spec.x, spec.y, spec.panel) if name]
    rows: list[Place] = []
    before: list[Place] = []
    for summary in summaries.values():
        for row in summary.rows:
            if row.method == "untrained":
                before.append((summary, row))
            elif row.role != "baseline" and all(setting_of(summary, row, name) is not None for name in used):
                rows.append((summary, row))
    if not rows:
        return []
    blocks: list[Block] = []
    for panel in in_order(_value(place, spec.panel) for place in rows):
        inside = [place for place in rows if _is(place, spec.panel, panel)]
        around = [place for place in before if spec.panel in ("", "row") or _is(place, spec.panel, panel)]
        for measure in spec.measures:
            title = f"{measure_name(measure)} by {_name(spec.y) or spec.y} and {_name(spec.x) or spec.x}"
            blocks.append(Heading(text=title + (f": {shown(setting_text(panel))}" if spec.panel else "")))
            blocks.append(_table(inside, around, measure, spec))
    return [*blocks, Text(text=spec.caption, quiet=True)]


def _table(rows: Sequence[Place], before: Sequence[Place], measure: str, spec: PictureSpec) -> Table:
    xs, ys = (in_order(_value(place, name) for place in rows) for name in (spec.x, spec.y))
    bare = next((row.label for summary, row in before if measured(summary, row, measure) is not None), None)
    lines: list[TableRow] = []
    for y in ys:
        cells = [
            _cell([place for place in rows if _is(place, spec.x, x) and _is(place, spec.y, y)], measure) for x in xs
        ]
        if bare is not None:
            cells.insert(0, _cell([place for place in before if _is(place, spec.y, y)], measure))
        lines.append(TableRow(head=shown(setting_text(y)), cells=cells))
    heads = [f"{_name(spec.x)} {shown(setting_text(x))}".strip() for x in xs]
    return Table(heads=[_name(spec.y) or spec.y, *([] if bare is None else [shown(bare)]), *heads], rows=lines)


def _cell(places: Sequence[Place], measure: str) -> str:
    """A measure, with its interval where it has one."""
    for summary, row in places:
        text = measure_text(measure, measured(summary, row, measure))
        if text != NONE and measure == summary.data.metric and row.low is not None:
            return f"{text} ({interval(row.low, row.high, measure)})"
        return text
    return NONE


def _is(place: Place, setting: str, value: Setting) -> bool:
    return setting_text(_value(place, setting)) == setting_text(value)


def _value(place: Place, setting: str) -> Setting:
    summary, row = place
    return setting_of(summary, row, setting) if setting else None


def _name(setting: str) -> str:
    return _NAMES.get(setting, "" if setting in ("model", "data", "row") else setting.replace("_", " "))
