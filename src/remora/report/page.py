"""The report as data: which sections, in which order."""

from remora.report import background, findings, spending, training
from remora.report.blocks import Page, Picture, Section
from remora.report.drawings import Drawings
from remora.results.names import shown
from remora.results.summary_schema import StudySummary
from remora.results.wording import number, plural

FOOTER = (
    "Written by Remora from the files of the run directory. Every number is also in results.json; "
    "every trial is in results.csv and results.parquet."
)


def build_page(summary: StudySummary, drawn: Drawings) -> Page:
    """The report of a study.

    Args:
        summary: the study.
        drawn: the figures there are; a section leaves out a picture that is not among them.
    """
    sections = [
        findings.verdict(summary),
        findings.read_first(summary),
        findings.ranking(summary),
        findings.against_reference(summary),
        spending.costs(summary, drawn),
        spending.tradeoffs(summary, drawn),
        training.curves(summary, drawn),
        training.tuning(summary),
        training.variants(summary),
        training.detail(summary, drawn),
        background.protocol(summary),
        background.use(summary),
        background.made(summary),
    ]
    name, model = shown(summary.name), shown(summary.model.name)
    methods = sum(row.role != "baseline" for row in summary.rows)
    if methods > 1:
        title = f"Fine-tuning {model} on {shown(summary.data.name)}: {methods} methods compared"
    else:
        title = f"Fine-tuning {model} on {shown(summary.data.name)}"
    rows = ", ".join(f"{number(split.rows)} {what}" for what, split in summary.data.splits.items())
    subtitle = f"{plural(len(summary.protocol.seeds), 'seed')} per method; rows: {rows}"
    eyebrow = " · ".join(part for part in ("Remora", name, summary.created[:10]) if part)
    return Page(
        title=title,
        eyebrow=eyebrow,
        subtitle=subtitle,
        sections=[_drawn_only(section, drawn) for section in sections if section is not None],
        footer=FOOTER,
    )


def _drawn_only(section: Section, drawn: Drawings) -> Section:
    blocks = [block for block in section.blocks if not isinstance(block, Picture) or block.name in drawn]
    return Section(id=section.id, title=section.title, blocks=blocks, style=section.style)
