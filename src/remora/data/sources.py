"""From ``data.path`` to files: which file is which split, whether one file must be cut, which card may apply."""

import re
from collections import defaultdict
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from remora.config.schema import DataConfig
from remora.data.cards import card_names, embedded_folder
from remora.data.read import COLUMN_FILES, data_suffix
from remora.data.table import shown
from remora.errors import DataError

SPLITS = ("train", "validation", "test")
_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_SHARD = re.compile(r"-\d+-of-\d+$")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?(:[\w.-]+)?")


@dataclass(frozen=True, kw_only=True)
class Files:
    """The data files of each split.

    Args:
        name: the data set's name.
        splits: split name to its files, ``train`` at least.
        card: the name of the card that may apply, if its columns fit.
    """

    name: str
    splits: dict[str, tuple[Path, ...]]
    card: str | None


def find_files(config: DataConfig) -> Files | None:
    """Find the files that ``data.path`` and the explicit splits mean.

    Args:
        config: the data settings.

    Returns:
        The files, or None when the path names a card without rows or a Hub id (see `remora.data.hub`).

    Raises:
        DataError: nothing is there, a folder has no data files, two files claim one split, or ``data.local`` is set for
            something without a card.
    """
    explicit = {split: value for split in SPLITS if (value := getattr(config, split)) is not None}
    if config.local is not None:
        return _files_of_card(config.path, config.local, explicit)
    try:
        path = Path(config.path).expanduser()
        if not path.exists() and "/" not in config.path:
            path = embedded_folder(config.path) or path
        found = _local_files(path, explicit)
    except (OSError, ValueError, RuntimeError) as error:  # forbidden, too long, a NUL character, an unknown ~user
        raise DataError(f"data.path: {shown(config.path)}: {error}") from error
    if found is not None:
        name = _name(path)
        return Files(name=name, splits=found, card=name if name in card_names() else None)
    on_hub = _HUB_ID.fullmatch(config.path) and not path.parent.is_dir()
    if config.path in card_names() or on_hub:
        return None
    raise DataError(f"data.path: {shown(config.path)}: no such file, folder, data set card or Hub id", _nearby(path))


def _files_of_card(name: str, local: str, explicit: dict[str, str]) -> Files:
    """The user's own copy of a data set that has a card."""
    if name not in card_names():
        near = get_close_matches(name, card_names(), n=1)
        raise DataError(
            f"data.local: data.path={name} is no data set card that {local} could be a copy of",
            f"did you mean data.path={near[0]}?" if near else f"give the folder itself: data.path={local}",
        )
    try:
        path = Path(local).expanduser()
        found = _local_files(path, explicit)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"data.local: {shown(local)}: {error}") from error
    if found is None:
        raise DataError(f"data.local: {shown(local)}: no such file or folder", _nearby(path))
    return Files(name=name, splits=found, card=name)


def _local_files(path: Path, explicit: dict[str, str]) -> dict[str, tuple[Path, ...]] | None:
    """The files of each split, or None when the path is neither a folder nor a file."""
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        splits = _in_folder(path, set(explicit))
    elif path.is_file():
        splits = {"train": (path,)}
    else:
        return None
    for split, value in explicit.items():
        splits[split] = (_explicit(split, value, folder),)
    owners: dict[Path, str] = {}
    for split, paths in splits.items():
        for file in paths:
            other = owners.setdefault(file.resolve(), split)
            if other != split:
                raise DataError(f"{file}: the same file is {other} and {split}", "give different rows to each split")
    return splits


def _name(path: Path) -> str:
    name = path.resolve().name
    suffix = data_suffix(path)
    return name.lower().removesuffix(".gz").removesuffix(suffix) if suffix else name


def _explicit(split: str, value: str, folder: Path) -> Path:
    for path in (folder / value, Path(value).expanduser()):
        if path.is_file():
            return path
    raise DataError(f"data.{split}: {value}: no such file, neither here nor in {folder}", _nearby(folder / value))


def _nearby(path: Path) -> str:
    """A hint that names a file or card with a similar name."""
    siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, [*siblings, *card_names()], n=1)
    if near:
        return f"did you mean {path.parent / near[0] if near[0] in siblings else near[0]}?"
    return f"give a file, a folder, OWNER/NAME on the Hub, or one of {', '.join(card_names())}"


def _columns_first(paths: list[Path]) -> tuple[Path, ...]:
    """Without the files beside which the same documents lie as columns, such as LitBank's ``train.jsonl.gz``."""
    columns = {_name(path) for path in paths if data_suffix(path) in COLUMN_FILES}
    return tuple(path for path in paths if data_suffix(path) in COLUMN_FILES or _name(path) not in columns)


def _in_folder(folder: Path, explicit: set[str]) -> dict[str, tuple[Path, ...]]:
    """The files of a folder by split, without the splits for which a file was given explicitly."""
    paths = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and data_suffix(p))
    exact: defaultdict[str, list[Path]] = defaultdict(list)
    loose: defaultdict[str, list[Path]] = defaultdict(list)
    for path in paths:
        stem = _SHARD.sub("", _name(path).lower())
        if stem in _WORDS:
            exact[_WORDS[stem]].append(path)
        else:
            words = {_WORDS[word] for word in re.split(r"[-_. ]+", stem) if word in _WORDS}
            if len(words) == 1:
                loose[words.pop()].append(path)
    # `train.csv` is preferred over `tweets_train.csv`; mixing the two could join files that do not belong together.
    found = exact if "train" in exact or ("train" in explicit and exact) else loose
    splits = {split: _columns_first(found[split]) for split in SPLITS if split in found and split not in explicit}
    for split, claimants in splits.items():
        if len(claimants) > 1 and not all(_SHARD.search(_name(path).lower()) for path in claimants):
            listed = ", ".join(path.name for path in claimants)
            raise DataError(f"{folder}: several files could be {split}: {listed}", f"say which: data.{split}=FILE")
    if "train" in splits or "train" in explicit:
        return splits
    if len(paths) == 1 and not exact and not loose:
        return {"train": (paths[0],)}
    if paths:
        listed = ", ".join(path.name for path in paths)
        raise DataError(f"{folder}: no training file among {listed}", "name it train.*, or set data.train=FILE")
    folders = sorted(item.name for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
    hint = (
        f"did you mean one of its folders: {', '.join(folders[:20])}?" if folders else "put train.csv or the like there"
    )
    raise DataError(f"{folder}: no data files in this folder", hint)
