"""Numbers as people read them: points, intervals, learning rates, sizes, durations, lists. Shared by all outputs."""

from collections.abc import Sequence

RAW_METRICS = frozenset({"mse", "rmse", "mae", "loss", "log_likelihood"})
METRIC_NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "f1": "F1",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "mse": "mean squared error",
    "span_f1": "span F1",
    "span_precision": "span precision",
    "span_recall": "span recall",
    "token_accuracy": "accuracy over words",
    "conll_f1": "CoNLL F1",
    "muc_f1": "MUC F1",
    "b_cubed_f1": "B³ F1",
    "ceaf_e_f1": "CEAFe F1",
    "mention_f1": "mention F1",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "log_likelihood": "log-likelihood of a token",
}
CONSTANT_ANSWERS = {
    "classification": "the most frequent label",
    "regression": "the mean",
    "multiple-choice": "the choice in the most frequent place",
    "token-classification": "the most frequent tag",
    "coreference": "that there is no mention",
    "prompt-classification": "the most frequent label",
    "summarization": "the beginning of the text",
}
"""What the baseline always answers that only knows how often each target occurs in train, by kind of task."""
ASKED = {
    "classification": "--text 'your text'",
    "regression": "--text 'your text'",
    "multiple-choice": "--text 'your question' --pair 'one choice' --pair 'another choice'",
    "token-classification": "--text 'Words with blanks between them'",
    "coreference": "--text 'One sentence of a document .' --text 'The next one .'",
    "prompt-classification": "--text 'your text'",
    "summarization": "--text 'your text'",
}
"""How an adapter is asked on the command line, by kind of task."""
NONE = "–"


def metric_name(metric: str) -> str:
    """A metric as it is written in running text."""
    if metric.startswith("f1/"):
        return f"F1 of {metric[3:]}"
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def capital(text: str) -> str:
    """Text with a capital at its beginning, the rest as it is: names of metrics have capitals of their own."""
    return text[:1].upper() + text[1:]


def points(value: float | None, metric: str = "") -> str:
    """A fraction as points (0.9123 -> 91.2); an error measure as it is."""
    if value is None:
        return NONE
    if metric in RAW_METRICS:
        return f"{value:.4g}"
    text = f"{100 * value:.1f}"
    return "0.0" if text == "-0.0" else _minus(text)


def signed(value: float | None) -> str:
    """A difference in points with its sign: +0.4, −1.2."""
    if value is None:
        return NONE
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else _minus(text)


def interval(low: float | None, high: float | None, metric: str = "") -> str:
    """An interval in points: 89.9 to 92.4."""
    return NONE if low is None or high is None else f"{points(low, metric)} to {points(high, metric)}"


def rate(value: float | None) -> str:
    """A learning rate: 5e-4, 1.5e-3."""
    if value is None:
        return NONE
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def count(value: float | None) -> str:
    """A number of things, short: 812, 36.9 k, 22.7 M."""
    if value is None:
        return NONE
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            scaled = value / (1e3 if unit == "k" else size)
            return f"{_three_digits(scaled)} {unit}"
    return number(value)


def number(value: float) -> str:
    """A whole number with thin spaces between thousands: 1 940."""
    return f"{value:,.0f}".replace(",", "\u2009")


def size(value: float | None) -> str:
    """Bytes, decimal: 161 kB, 1.24 GB."""
    if value is None:
        return NONE
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            scaled = value / limit
            return f"{_three_digits(scaled)} {unit}"
    return f"{value:.0f} B"


def duration(seconds: float | None) -> str:
    """A duration: 12 ms, 3.4 s, 2 min 05 s, 1 h 20 min."""
    if seconds is None:
        return NONE
    if seconds < 1:
        return f"{_three_digits(1000 * seconds)} ms"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def share(part: float, whole: float) -> str:
    """A part of a whole as a reader would say it: 1/50, 1.3 times, as many."""
    ratio = part / whole
    if 0.95 <= ratio <= 1.05:
        return "as many"
    if ratio >= 1:
        return f"{ratio:.2g} times"
    inverse = 1 / ratio
    return f"1/{inverse:.0f}" if inverse >= 1.95 else f"{100 * ratio:.0f} %"


def listing(names: Sequence[str]) -> str:
    """Names in a sentence: a; a and b; a, b and c."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def plural(number: int, thing: str, things: str = "") -> str:
    """1 seed, 3 seeds."""
    return f"{number} {thing if number == 1 else things or thing + 's'}"


def percent(share: float) -> str:
    """A share in whole percent: 25 %."""
    return f"{100 * share:.0f} %"


def stops(shares: Sequence[float]) -> str:
    """How many trials were stopped at which shares of the steps: 2 at 25 % and 1 at 50 %."""
    return listing([f"{shares.count(at)} at {percent(at)}" for at in sorted(set(shares))])


def p_value(value: float) -> str:
    """A p-value with two digits, never rounded to zero."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"


def _minus(text: str) -> str:
    return text.replace("-", "−")
