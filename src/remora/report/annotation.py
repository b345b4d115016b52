"""The report of a labelled file: how labels were got, how sure they are, how far they agree with true ones."""

from pathlib import Path

from remora.report.blocks import (
    Block,
    Cell,
    Code,
    Fact,
    Facts,
    Heading,
    Matrix,
    MatrixRow,
    Page,
    Pairs,
    Section,
    Table,
    TableRow,
    Text,
)
from remora.report.grid import grid_tables
from remora.report.html import to_html
from remora.report.markdown import to_markdown
from remora.results.annotation_schema import ANNOTATION_FILE, ASKED_FILE, Agreement, Annotation, Asked, Band
from remora.results.names import shown
from remora.results.recipe_schema import RECIPE_FILE, RecipeRun
from remora.results.store import read_record, within, write_atomic
from remora.results.summary import SUMMARY_FILE
from remora.results.summary_schema import StudySummary
from remora.results.wording import NONE, interval, number, percent, points

FOOTER = "Written by Remora. Every number is also in annotation.json; every text's scores are in the labelled file."


def write_annotation_report(folder: Path) -> tuple[Path, ...]:
    """Write report.html and report.md of a folder of `remora annotate`, from its files.

    Args:
        folder: with annotation.json.

    Returns:
        The files written, report.html first.

    Raises:
        DataError: the folder's files are broken.
    """
    annotation = read_record(folder / ANNOTATION_FILE, Annotation)
    asked = read_record(folder / ASKED_FILE, Asked)
    page = annotation_page(annotation, asked, _learning(folder, annotation))
    content = {"report.html": to_html(page, {}), "report.md": to_markdown(page)}
    for name, text in content.items():
        write_atomic(folder / name, text.encode())
    return tuple(folder / name for name in content)


def annotation_page(annotation: Annotation, asked: Asked, learning: list[Block]) -> Page:
    """The report as data.

    Args:
        annotation: what came of it.
        asked: how labels were got.
        learning: what an encoder learnt from them, if one did.
    """
    sections = [_how(annotation, asked), _confidence(annotation)]
    if annotation.agreement is not None:
        sections.append(_agreement(annotation.agreement))
    if learning:
        sections.append(Section(id="learning", title="What an encoder learns from these labels", blocks=learning))
    return Page(
        title=f"{number(annotation.texts)} texts labelled by {shown(asked.model)}",
        eyebrow=f"Remora · annotate {shown(Path(annotation.source).name)}",
        subtitle=f"{asked.how}; classes: {', '.join(map(shown, asked.label_names))}",
        sections=sections,
        footer=FOOTER,
    )


def _how(annotation: Annotation, asked: Asked) -> Section:
    counts = [(shown(name), f"{number(n)} ({percent(n / annotation.texts)})") for name, n in annotation.labels.items()]
    facts = [
        ("Texts", f"{number(annotation.texts)}, of which {number(annotation.distinct)} differ"),
        ("Cut to fit", number(annotation.truncated)),
        ("Labeller", f"{shown(asked.model)} in {asked.dtype}, {asked.max_length} tokens, {asked.how}"),
    ]
    if asked.quantization != "none":
        facts.append(("Base", f"linear layers in {asked.quantization}"))
    if annotation.min_confidence > 0:
        kept = f"{number(annotation.kept)} texts of confidence {annotation.min_confidence:g} or more"
        facts.append(("To learn from", kept))
    blocks: list[Block] = [Pairs(items=facts), Heading(text="Labels given"), Pairs(items=counts)]
    blocks.append(Code(title="A text is put so", code=asked.asks, language=""))
    if annotation.command:
        blocks.append(Code(title="Run with", code=annotation.command, language="sh"))
    return Section(id="how", title="How it was labelled", blocks=blocks)


def _confidence(annotation: Annotation) -> Section:
    lead = "The probability that the labeller gives its own label, in equal parts of the texts, the least sure first."
    known = annotation.agreement is not None
    rows = [TableRow(head=f"{band.low:.3f} to {band.high:.3f}", cells=_band(band, known)) for band in annotation.bands]
    if known:
        lead += " A labeller that knows how sure it is has mean confidence and share of right labels alike."
    heads = ["confidence", "texts", "mean confidence", *(["right"] if known else [])]
    return Section(id="confidence", title="Confidence", blocks=[Text(text=lead), Table(heads=heads, rows=rows)])


def _band(band: Band, known: bool) -> list[str]:
    right = [] if not known else [NONE if band.correct is None else points(band.correct / band.texts)]
    return [number(band.texts), points(band.mean), *right]


def _agreement(found: Agreement) -> Section:
    facts = Facts(
        items=[
            Fact(
                name="accuracy",
                value=points(found.accuracy),
                note=f"95 %: {interval(found.accuracy_low, found.accuracy_high)}",
            ),
            Fact(
                name="Cohen's kappa",
                value=f"{found.kappa:.3f}",
                note=f"95 %: {found.kappa_low:.3f} to {found.kappa_high:.3f}",
            ),
            Fact(name="texts", value=number(found.texts)),
        ]
    )
    rows = [
        TableRow(
            head=shown(each.label),
            cells=[
                points(each.precision),
                points(each.recall),
                points(each.f1),
                number(each.support),
                number(each.given),
            ],
        )
        for each in found.classes
    ]
    names = [shown(each.label) for each in found.classes]
    matrix = [
        MatrixRow(head=name, cells=[Cell(text=number(count), share=count / max(1, sum(counts))) for count in counts])
        for name, counts in zip(names, found.confusion, strict=True)
    ]
    return Section(
        id="agreement",
        title="Agreement with true labels",
        blocks=[
            facts,
            Table(heads=["class", "precision", "recall", "F1", "true", "given"], rows=rows),
            Heading(text="True labels down, given ones across"),
            Matrix(corner="true", heads=names, rows=matrix),
        ],
    )


def _learning(folder: Path, annotation: Annotation) -> list[Block]:
    if annotation.training is None:
        return []
    inside = within(folder, annotation.training, RECIPE_FILE).parent
    run = read_record(inside / RECIPE_FILE, RecipeRun)
    paths = {name: within(inside, name, SUMMARY_FILE) for name in run.studies}
    summaries = {name: read_record(path, StudySummary) for name, path in paths.items() if path.is_file()}
    blocks: list[Block] = [Text(text=run.info.summary)]
    for spec in run.info.pictures:
        blocks += grid_tables(summaries, spec)
    return [*blocks, Text(text=f"All of it: {annotation.training}/report.html.", quiet=True)]
