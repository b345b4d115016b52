"""The rules of the house, checked on the source itself."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "remora"
SOURCES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_LINES = 600
MEDIAN_LINES = 200

# A package may import those below its own line, and itself. What stands on one line may not import each other.
LAYERS = (
    ("api",),
    ("cli",),
    ("study",),
    ("predict",),
    ("report",),
    ("results",),
    ("adapters",),
    ("engine",),
    ("tasks", "methods"),
    ("models", "data"),
    ("config", "datasets", "recipes", "native"),
    ("errors", "seeds", "paths", "pickles"),
)
RANK = {name: rank for rank, names in enumerate(reversed(LAYERS)) for name in names}
LIGHT = ("cli", "config", "report", "results")


def tracked(*patterns: str) -> list[Path]:
    """Files under version control, or about to be (new and not ignored)."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in output.splitlines() if (ROOT / line).is_file()]


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module named by an import anywhere in a file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_file_is_too_long() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in [*SOURCES, *TESTS]}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_median_file_is_short() -> None:
    lengths = sorted(len(path.read_text().splitlines()) for path in SOURCES)
    assert lengths[len(lengths) // 2] <= MEDIAN_LINES


def test_folders_are_at_most_two_deep() -> None:
    assert [relative(path) for path in SOURCES if len(path.relative_to(PACKAGE).parts) > 2] == []


# Modules that unpickle what they read (or what another process sends), and calls that do or that run code.
PICKLING = re.compile(
    r"(_?pickle|cPickle|cloudpickle|dill|joblib|shelve|marshal|jsonpickle|copyreg|pickletools|hickle|klepto"
    r"|multiprocessing|concurrent\.futures\.process|torch\.multiprocessing|torch\.hub|torch\.package|torch\.serialization)\b"
)
UNSAFE = re.compile(
    r"torch\.(load|save|hub|package|jit\.load|export\.load|serialization)\b|pandas\.read_pickle\b|.*\.(read|to)_pickle$"
    r"|yaml\.(load|load_all|unsafe_load|full_load|unsafe_load_all|full_load_all)$"
    r"|(eval|exec|compile|__import__|hasattr|os\.system|os\.popen|shutil\.unpack_archive)$|.*\.extractall$"
)


def full_names(tree: ast.AST) -> dict[str, str]:
    """What names that imports bring stand for: ``np`` -> ``numpy``, ``load`` -> ``torch.load``."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found


def unsafe_calls(tree: ast.AST) -> Iterator[str]:
    """Ways to run code that came with data, or a shell."""
    for name in imports(tree):
        if PICKLING.match(name):
            yield f"imports {name}"
    known = full_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            called = known.get(first, first) + dot + rest
            if UNSAFE.match(called):
                yield f"calls {called} on line {node.lineno}"
            if called in {"numpy.load", "numpy.savez", "numpy.save"}:
                named = [keyword for keyword in node.keywords if keyword.arg == "allow_pickle"]
                if not named:
                    yield f"calls {called} without allow_pickle=False on line {node.lineno}"
            for keyword in node.keywords:
                off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                if keyword.arg == "trust_remote_code" or (keyword.arg in {"allow_pickle", "shell"} and not off):
                    yield f"sets {keyword.arg} on line {node.lineno}"


def test_no_unsafe_calls() -> None:
    found = {relative(path): list(unsafe_calls(ast.parse(path.read_text()))) for path in SOURCES}
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from cloudpickle import dumps",
        "torch.load('x')",
        "run('x', shell=True)",
        "f(trust_remote_code=False)",
        "np.load('x', allow_pickle=True)",
        "import numpy as np\nnp.load('x')",
        "from torch import load as read\nread('x')",
        "import torch as t\nt.jit.load('x')",
        "import pandas as pd\npd.read_pickle('x')",
        "frame.to_pickle('x')",
        "from multiprocessing import Pool",
        "import torch.multiprocessing",
        "from yaml import full_load\nfull_load('x')",
        "archive.extractall('x')",
        "exec('x')",
    ],
)
def test_unsafe_calls_are_seen(code: str) -> None:
    assert list(unsafe_calls(ast.parse(code)))


def layer(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


# The statistics are arrays in, numbers out; the summary needs them as much as the study that plans with them.
PURE = ("remora.study.statistics",)


def upward_imports(path: Path) -> list[str]:
    """Imports of a file that do not point downwards."""
    own = layer(path)
    if own in {"__init__", "__main__"}:
        return []  # the package's front door may name anything, lazily
    wrong: list[str] = []
    for name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "remora" or len(parts) < 2 or parts[1] == own or parts[1] not in RANK:
            continue
        if RANK[parts[1]] >= RANK[own] and not name.startswith(PURE):
            wrong.append(name)
    return wrong


def test_imports_point_downwards() -> None:
    assert {layer(path) for path in SOURCES} - set(RANK) <= {"__init__", "__main__"}, "give it a place in LAYERS"
    found = {relative(path): upward_imports(path) for path in SOURCES}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_report_and_results_do_not_reach_for_the_engine() -> None:
    heavy = {"engine", "methods", "models", "tasks", "study", "adapters"}
    for path in SOURCES:
        if layer(path) in {"report", "results", "config"}:
            names = [name for name in imports(ast.parse(path.read_text())) if not name.startswith(PURE)]
            used = {name.split(".")[1] for name in names if name.startswith("remora.")}
            assert not used & heavy, f"{relative(path)} imports {used & heavy}"


def modules_of(package: str) -> list[str]:
    names = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in SOURCES if layer(path) == package
    ]
    return [name.removesuffix(".__init__") for name in names]


@pytest.mark.parametrize("package", [*LIGHT, "data"])
def test_light_packages_import_no_torch(package: str) -> None:
    code = (
        f"import importlib, sys\nfor name in {modules_of(package)!r}: importlib.import_module(name)\n"
        "heavy = {'torch', 'transformers', 'peft'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


TEXT_SUFFIXES = {".py", ".toml", ".md", ".lock", ".yaml", ".yml", ".json", ".txt", ".html", ".j2", ".sh", ".csv", ""}
# Assembled here so that this file does not contain what it forbids.
FORBIDDEN = re.compile(
    "|".join(
        (
            "/" + r"(?:work|opt|home|root|Users)/[a-z]",
            "pypi" + r"\.(?:org|python)",
            "files" + r"\.pythonhosted",
            "registry" + r"\.npmjs",
            "deb" + r"\.debian",
            "download" + r"\.pytorch",
        )
    )
)


def test_no_machine_paths_and_no_registry_hosts() -> None:
    found: list[str] = []
    for path in tracked():
        if path.suffix in TEXT_SUFFIXES:
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                if FORBIDDEN.search(line):
                    found.append(f"{relative(path)}:{number}: {line.strip()[:100]}")
    assert found == []


def test_no_link_is_under_version_control() -> None:
    """One to a virtual environment, checked out, takes the place of the real one."""
    listed = subprocess.run(["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line for line in listed.splitlines() if line.startswith("120000 ")] == []


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-test.lock"])
def test_lock_pins_and_hashes_everything(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(
        r"(?im)://|^\s*(-i|-f|--index|--extra-index|--find-links|--trusted-host)|^(torch|triton|nvidia)", text
    )
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if not entry.startswith("#")]
    assert len(entries) > 30
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==\S+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n?)+$", entry), entry.splitlines()[
            0
        ]


def test_test_lock_agrees_with_the_run_lock() -> None:
    pins = [
        set(re.findall(r"(?m)^(\S+==\S+)", (ROOT / name).read_text()))
        for name in ("requirements.lock", "requirements-test.lock")
    ]
    assert pins[0] <= pins[1]


def test_no_leftovers() -> None:
    # In comments and strings alike; assembled so that this file is not its own finding.
    words = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r"|raise NotImplemented" + "Error|xfail")
    found = [relative(path) for path in [*SOURCES, *TESTS] if words.search(path.read_text())]
    assert [name for name in found if name != relative(Path(__file__))] == []
