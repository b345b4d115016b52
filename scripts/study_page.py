"""Put reports of run directories, or of a recipe's folder, among the committed ones: docs/studies/NAME.md.

``python scripts/study_page.py RUN_DIR [RUN_DIR ...] [--name NAME] [--title TITLE]``. Copies report.md and its figures,
nothing else; the figures lie in docs/studies/NAME/. Several reports stand one after the other below the title.
"""

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from remora.report.markdown import FIGURES
from remora.results.store import write_atomic

STUDIES = Path(__file__).resolve().parents[1] / "docs" / "studies"


def write_page(run_dirs: Sequence[Path], name: str, title: str = "", studies: Path = STUDIES) -> Path:
    """Copy one report, or several below a title of their own.

    Args:
        run_dirs: each with report.md and figures.
        name: of the page.
        title: of a page with several reports.
        studies: the folder of the pages.

    Returns:
        The page.
    """
    shutil.rmtree(studies / name, ignore_errors=True)
    texts: list[str] = []
    for run_dir in run_dirs:
        text = (run_dir / "report.md").read_text(encoding="utf-8")
        place = name if len(run_dirs) == 1 else f"{name}/{run_dir.name}"
        for figure in sorted((run_dir / FIGURES).glob("*.svg")):
            if f"]({FIGURES}/{figure.name})" in text:
                write_atomic(studies / place / figure.name, figure.read_bytes())
        texts.append(text.replace(f"]({FIGURES}/", f"]({place}/"))
    if len(texts) > 1:
        texts = [f"# {title}\n", *(_one_level_down(text) for text in texts)]
    page = studies / f"{name}.md"
    write_atomic(page, "\n".join(texts).encode())
    return page


def _one_level_down(text: str) -> str:
    """The text with # before every heading; blocks of code stay as they are."""
    blocks = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        re.sub(r"^#", "##", block, flags=re.MULTILINE) if i % 2 == 0 else block for i, block in enumerate(blocks)
    )


def main() -> None:
    """Read the command line and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dirs", type=Path, nargs="+", metavar="RUN_DIR")
    parser.add_argument("--name", help="of the page; by default the folder's")
    parser.add_argument("--title", default="", help="of a page with several reports")
    asked = parser.parse_args()
    if len(asked.run_dirs) > 1 and not (asked.name and asked.title):
        parser.error("several reports need --name and --title")
    print(write_page(asked.run_dirs, asked.name or asked.run_dirs[0].name, asked.title))


if __name__ == "__main__":
    main()
