"""Names from outside (labels, classes, files) made fit to be shown: no control characters, one line, not endless."""

import re
import unicodedata

# Characters that change the direction of the text around them.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff" + "".join(sorted(_BIDI)) + "]")


def visible(page: str) -> str:
    """A whole page without characters that a reader does not see and that change what is seen; lines are kept."""
    return _HIDDEN.sub("\ufffd", page)


def shown(text: str, limit: int = 60) -> str:
    """A name on one line.

    Args:
        text: anything.
        limit: the longest result in characters; a longer name ends in an ellipsis.

    Returns:
        The name with white space joined and control characters replaced by U+FFFD.
    """
    line = " ".join(text.split())
    plain = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs", "Cn") or c in _BIDI else c for c in line)
    plain = plain or "(empty)"
    return plain if len(plain) <= limit else plain[: limit - 1].rstrip() + "…"


def markdown(text: str, limit: int = 60) -> str:
    """Text inside Markdown, also in a table cell: what Markdown or HTML would read as markup is escaped."""
    line = shown(text, limit)
    escaped = "".join("\\" + c if c in "\\`*_[]|~$#" else c for c in line)
    if line[:1] in "+-=" or re.match(r"\d+[.)](\s|$)", line):
        escaped = "\\" + escaped if line[:1] in "+-=" else re.sub(r"^(\d+)([.)])", r"\1\\\2", escaped)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
