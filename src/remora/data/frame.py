"""Data frames (pandas, polars, or a dict of columns) as data sets, without importing any of these packages."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from remora.config.schema import DataConfig
from remora.data.cells import cell_of
from remora.data.dataset import Dataset, assemble
from remora.data.table import Table
from remora.errors import DataError


class DataFrame(Protocol):
    """What pandas and polars frames have in common, and all that is used of them."""

    @property
    def columns(self) -> Iterable[Any]:
        """The column names."""
        ...

    def __getitem__(self, name: Any, /) -> Iterable[Any]:
        """One column's values."""
        ...


Frame = DataFrame | Mapping[str, Iterable[object]]


def dataset_from_frame(
    frame: Frame,
    *,
    validation: Frame | None = None,
    test: Frame | None = None,
    config: DataConfig | None = None,
) -> Dataset:
    """Make a data set of data frames.

    Args:
        frame: the training rows, or all rows when nothing else is given (then cut 70/10/20).
        validation: rows that choose hyperparameters.
        test: rows for the final figures.
        config: columns, task and limits; its path is only the data set's name.

    Returns:
        The data set.

    Raises:
        DataError: columns, rows or labels that cannot be used.
    """
    config = config or DataConfig(path="dataframe")
    given = {"train": frame, "validation": validation, "test": test}
    tables = {split: [_table(split, part)] for split, part in given.items() if part is not None}
    return assemble(config.path, tables, config, None)


def _table(split: str, frame: Frame) -> Table:
    names: Iterable[Any] = frame if isinstance(frame, Mapping) else frame.columns
    columns = {str(name): [cell_of(value) for value in frame[name]] for name in names}
    lengths = {len(cells) for cells in columns.values()}
    if len(lengths) > 1:
        raise DataError(f"{split}: the columns have different lengths: {', '.join(map(str, sorted(lengths)))}")
    num_rows = lengths.pop() if lengths else 0
    if not num_rows:
        raise DataError(f"{split}: the data frame has no rows")
    return Table(source=f"dataframe {split}", columns=columns, lines=range(1, num_rows + 1), unit="row")
