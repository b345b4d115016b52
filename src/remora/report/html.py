"""The report as one HTML file that loads nothing: style and figures are inside, there is no script."""

from importlib.resources import files

from jinja2 import BaseLoader, Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from remora.report.blocks import Page, Picture
from remora.report.canvas import inline
from remora.report.drawings import Drawings
from remora.results.names import visible

TEMPLATES = files("remora.report") / "templates"


def to_html(page: Page, drawn: Drawings) -> str:
    """Render a page. Everything but the figures, which the SVG writer has escaped, is escaped here."""
    shows = {b.name: b.shows for section in page.sections for b in section.blocks if isinstance(b, Picture)}
    figures = {name: Markup(inline(drawn[name], name, text)) for name, text in shows.items()}
    template = _environment(FunctionLoader(_read)).get_template("report.html.j2")
    return visible(template.render(page=page, figures=figures, css=Markup(_read("report.css"))))


def _environment(loader: BaseLoader) -> Environment:
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
