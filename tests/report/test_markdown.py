"""Text of a report in Markdown: escaped once, wherever it stands."""

from remora.report.blocks import Chip, ChipRow, ChipTable, Page, Section, Table, TableRow
from remora.report.markdown import to_markdown


def test_names_in_tables_are_escaped_once() -> None:
    chips = ChipTable(
        heads=("method", "settings"),
        rows=(ChipRow(head="a_b", chips=(Chip(name="initial_d", value="[x]", note="cut_off"),)),),
    )
    table = Table(heads=("method", "score"), rows=(TableRow(head="a_b", cells=("c_d|e",)),))
    text = to_markdown(
        Page(
            title="t",
            eyebrow="e",
            subtitle="s",
            sections=(Section(id="u", title="u", blocks=(chips, table)),),
            footer="f",
        )
    )
    assert "| a\\_b | initial\\_d \\[x\\] (cut\\_off) |" in text
    assert "| a\\_b | c\\_d\\|e |" in text
