"""Put the report of a run directory, or of a recipe's folder, among the committed ones: docs/studies/NAME.md.

Run as ``python scripts/study_page.py RUN_DIR [NAME]``. Copies report.md and its figures, nothing else; the figures lie
in docs/studies/NAME/.
"""

import shutil
import sys
from pathlib import Path

from remora.report.markdown import FIGURES
from remora.results.store import write_atomic

STUDIES = Path(__file__).resolve().parents[1] / "docs" / "studies"


def write_page(run_dir: Path, name: str, studies: Path = STUDIES) -> Path:
    """Copy a report.

    Args:
        run_dir: with report.md and figures.
        name: of the page.
        studies: the folder of the pages.

    Returns:
        The page.
    """
    text = (run_dir / "report.md").read_text(encoding="utf-8")
    shutil.rmtree(studies / name, ignore_errors=True)
    for figure in sorted((run_dir / FIGURES).glob("*.svg")):
        if f"]({FIGURES}/{figure.name})" in text:
            write_atomic(studies / name / figure.name, figure.read_bytes())
    page = studies / f"{name}.md"
    write_atomic(page, text.replace(f"]({FIGURES}/", f"]({name}/").encode())
    return page


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    print(write_page(folder, sys.argv[2] if len(sys.argv) > 2 else folder.name))
