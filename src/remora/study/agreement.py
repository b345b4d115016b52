"""Agreement of given labels with true ones, over all texts, by class and by confidence.

Cohen 1960, "A coefficient of agreement for nominal scales": kappa = (p_o - p_e) / (1 - p_e), where p_e is what two
labellers with these shares of classes agree on by chance. Its interval is the percentile bootstrap over texts.
"""

# K classes, R resamples
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from remora.results.annotation_schema import Agreement, Band, ClassAgreement
from remora.seeds import numpy_rng
from remora.study.intervals import mean_interval

_RESAMPLES = 2000
_LEVEL = 0.05
_PARTS = 5


def agreement(truths: Sequence[str], labels: Sequence[str], classes: Sequence[str]) -> Agreement:
    """Compare labels with true ones.

    Args:
        truths: per text.
        labels: per text.
        classes: all there are.
    """
    place = {name: number for number, name in enumerate(classes)}
    table_KK = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(table_KK, ([place[truth] for truth in truths], [place[label] for label in labels]), 1)
    total = int(table_KK.sum())
    accuracy = float(np.trace(table_KK) / total)
    se = (accuracy * (1 - accuracy) / total) ** 0.5
    # Where all texts agree, or none, the error is unknown; half a text's stands for it, so that the interval is none.
    se = se or 0.5 / total
    low, high = mean_interval("accuracy", accuracy, se, float("inf"), 1 / total, level=_LEVEL)
    drawn_RKK = numpy_rng(0, "agreement").multinomial(total, table_KK.ravel() / total, _RESAMPLES)
    kappas_R = kappa(drawn_RKK.reshape(-1, *table_KK.shape))
    kappa_low, kappa_high = np.quantile(kappas_R, [_LEVEL / 2, 1 - _LEVEL / 2])
    return Agreement(
        texts=total,
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        kappa=float(kappa(table_KK)),
        kappa_low=float(kappa_low),
        kappa_high=float(kappa_high),
        classes=tuple(_class(name, number, table_KK) for number, name in enumerate(classes)),
        confusion=tuple(tuple(map(int, row)) for row in table_KK),
    )


def kappa(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cohen's kappa of (..., K, K) counts; 0 where both have one and the same class throughout."""
    shares = table / table.sum((-2, -1), keepdims=True)
    observed = np.trace(shares, axis1=-2, axis2=-1)
    expected = (shares.sum(-1) * shares.sum(-2)).sum(-1)
    certain = expected >= 1
    return np.where(certain, 0.0, (observed - expected) / np.where(certain, 1.0, 1 - expected))


def _class(name: str, number: int, table_KK: NDArray[np.int64]) -> ClassAgreement:
    right, support, given = (
        int(n) for n in (table_KK[number, number], table_KK[number].sum(), table_KK[:, number].sum())
    )
    return ClassAgreement(
        label=name,
        precision=right / given if given else 0.0,
        recall=right / support if support else 0.0,
        f1=2 * right / (support + given) if support + given else 0.0,
        support=support,
        given=given,
    )


def confidence_bands(confidences: Sequence[float], right: Sequence[bool] | None) -> tuple[Band, ...]:
    """Texts in equal parts by confidence, the least sure first; fewer parts where there are fewer texts.

    Args:
        confidences: per text.
        right: whether each label is the true one, where that is known.
    """
    order = np.argsort(np.array(confidences), kind="stable")
    bands: list[Band] = []
    for part in np.array_split(order, min(_PARTS, len(order))):
        inside = [confidences[index] for index in part]
        bands.append(
            Band(
                low=inside[0],
                high=inside[-1],
                mean=sum(inside) / len(inside),
                texts=len(inside),
                correct=None if right is None else sum(right[index] for index in part),
            )
        )
    return tuple(bands)
