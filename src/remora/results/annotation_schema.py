"""What `remora annotate` keeps: who was asked how (before the first answer), and what came of it.

asked.json        Asked       once, before the first answer; a folder of answers belongs to one way of asking
annotation.json   Annotation  once, after the last answer
"""

from remora.results.schema import Record, Versioned

ASKED_FILE = "asked.json"
ANNOTATION_FILE = "annotation.json"


class Asked(Versioned):
    """Who labels, and how it is asked; `fingerprint` is over all that decides an answer.

    `how` is zero-shot, such as 4-shot, or adapter; `asks` is how texts are put to it, in words.
    """

    fingerprint: str
    model: str
    dtype: str
    quantization: str
    max_length: int
    how: str
    asks: str
    label_names: tuple[str, ...]


class Band(Record):
    """Texts whose confidence is in one of the equal parts of all, lowest first; `correct` where truth is known."""

    low: float
    high: float
    mean: float
    texts: int
    correct: int | None = None


class ClassAgreement(Record):
    """Precision, recall and F1 of the labels of one class; `support` true ones, `given` labels."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    given: int


class Agreement(Record):
    """How far labels agree with true ones; 95 % intervals over texts. `confusion[i][j]`: true class i labelled as j."""

    texts: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    kappa: float
    kappa_low: float
    kappa_high: float
    classes: tuple[ClassAgreement, ...]
    confusion: tuple[tuple[int, ...], ...]


class Annotation(Versioned):
    """A labelled file: `distinct` texts were asked about; `labels` counts texts by label.

    `kept` have at least `min_confidence`, and an encoder learns from these. `training` is the folder of the studies in
    which one did, and `learners` the names of their data sets.
    """

    source: str
    labelled: str
    command: str
    texts: int
    distinct: int
    truncated: int
    labels: dict[str, int]
    min_confidence: float
    kept: int
    bands: tuple[Band, ...]
    agreement: Agreement | None
    training: str | None = None
