"""Text in CSV files that people open in a spreadsheet."""

# A spreadsheet runs a cell that begins with one of these as a formula, full-width forms included.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_UNSEEN = " \0\v\f\u00a0\u2007\u202f\u3000\ufeff\u200b\u200c\u200d\u200e\u200f\u2060"


def neutral(text: str) -> str:
    """Text as a spreadsheet shows it, never runs it: an apostrophe before a formula's first character.

    Blanks and invisible characters in front hide a formula from a reader, not from every spreadsheet.
    """
    seen = text.lstrip(_UNSEEN)
    return f"'{text}" if seen.startswith(_FORMULA) or text.startswith(("'", *_FORMULA)) else text
