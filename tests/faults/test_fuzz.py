"""Damaged at random, data files and study files are read or refused; nothing but a `RemoraError` comes out."""

import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from remora.config.load import build_study, dump_yaml
from remora.config.tree import apply_overrides, parse_tree
from remora.config.yaml12 import parse_text
from remora.errors import RemoraError
from tests.faults.data_reading import rows_of
from tests.faults.effort import examples, tally

ROWS = [{"text": f"a text, number {n}; \"quoted\"\n and 'so' \u00e9\u4e2d", "label": "ab"[n % 2]} for n in range(6)]


def _csv(mark: str) -> bytes:
    quoted = [[f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row.values()] for row in ROWS]
    return "\n".join([f"text{mark}label", *(mark.join(row) for row in quoted)]).encode()


def _parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({name: [row[name] for row in ROWS] for name in ("text", "label")}), stream)
    return stream.getvalue()


JSON_LINES = "\n".join(map(json.dumps, ROWS)).encode()
SEEDS = {
    "a.csv": _csv(","),
    "a.tsv": _csv("\t"),
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "b.json": json.dumps({name: [row[name] for row in ROWS] for name in ("text", "label")}).encode(),
    "a.jsonl": JSON_LINES,
    "a.jsonl.gz": gzip.compress(JSON_LINES),
    "a.parquet": _parquet(),
}
DATA_TOKENS = (
    *(b"\0", b"\r", b"\n", b"\r\n", b'"', b'""', b",", b"\t", b";", b"'", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80"),
    *(b"\\ud800", b"\\u0000", b"{", b"}", b"[", b"]", b":", b"null", b"NaN", b"-Infinity", b"1e999", b"true", b'{"a":'),
    *(b"\x1c", b"\x85", "\u2028".encode(), b"text", b"label", b"9" * 5000, b"[" * 3000, b"a" * 70_000),
)
STUDY = b"""\
name: a-study
model: {id: minilm, dtype: auto}
data:
  path: helpdesk
  text: [text]
methods:
  - lora
  - lora: {rank: 16, alpha: 3.2e1, targets: [attention.q, attention.v]}
  - {id: bitfit, label: "biases"}
protocol: &p {epochs: 3, seeds: 5, lr: 1e-4, warmup: .06}
engine:
  workers: 2 # two
"""
YAML_TOKENS = (
    *(b"&a ", b"*a", b"*p", b"!!python/object/apply:os.system ['true']", b"!!binary aGk=", b"!x ", b"? ", b": ", b"- "),
    *(b"|\n", b">-\n", b"---\n", b"...\n", b"%YAML 1.1\n", b"%TAG ! !x\n", b"%YAML 9.99999\n", b"<<: *p\n", b"\t"),
    *(
        b'"\\U99999999"',
        b'"\\ud800"',
        b'"\\x0"',
        b"0x",
        b"0o9",
        b"1" * 5000,
        b".inf",
        b"-.nan",
        b"~",
        b"yes",
        b"{",
        b"[",
    ),
    *(b"}", b"]", b"'", b'"', b"#", b"@", b"`", b"\xff", b"\0", b"\xef\xbb\xbf", "\u2028\x85".encode(), b"[" * 2000),
    *(b"{a: " * 1500, b"2024-01-01", b"12:30:45", b"rank: -1\n", b"methods: {}\n", b"model: 5\n", b"\x7f", b"\r"),
)


def mutate(content: bytes, tokens: tuple[bytes, ...], rng: random.Random) -> bytes:
    """Content with one to six random changes."""
    for _ in range(rng.randint(1, 6)):
        at, end = sorted((rng.randint(0, len(content)), rng.randint(0, len(content))))
        end = min(end, at + 40)
        match rng.randrange(6):
            case 0:
                content = content[:at] + rng.choice(tokens) + content[at:]
            case 1:
                content = content[:at] + content[end:]
            case 2:
                content = content[:end] + content[at:]
            case 3:
                content = content[:at] + bytes(rng.randrange(256) for _ in range(rng.randint(1, 4))) + content[at + 1 :]
            case 4:
                content = content[:at] + rng.choice(tokens) + content[end:]
            case _:
                content = content[:end]
    return content


def attack(read: Callable[[bytes], object], content: bytes, tokens: tuple[bytes, ...], seed: str, num: int) -> int:
    """Read mutations; returns how many were refused."""
    refused = 0
    for number in range(num):
        damaged = mutate(content, tokens, random.Random(f"{seed} {number}"))
        try:
            read(damaged)
        except RemoraError as error:
            refused += 1
            str(error).encode()  # it can be printed
        except Exception as error:
            raise AssertionError(f"input {number} of {seed}: {type(error).__name__} on {damaged[:300]!r}") from error
    return refused


@pytest.mark.parametrize("name", SEEDS)
def test_data_readers(name: str, tmp_path: Path) -> None:
    path, num = tmp_path / name, examples(100, 2500)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        rows_of(path)

    read(SEEDS[name])
    assert attack(read, SEEDS[name], DATA_TOKENS, name, num) > num // 10
    tally("data files damaged at random", num)


def test_study_files() -> None:
    num = examples(200, 5000)

    def read(content: bytes) -> None:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = content.decode("latin-1")
        study = build_study(parse_tree(text, "study.yaml"), "study.yaml", known_methods=("lora", "bitfit"))
        again = dump_yaml(study)
        assert build_study(parse_tree(again, "again")) == study
        again.encode()

    read(STUDY)
    assert attack(read, STUDY, YAML_TOKENS, "study", num) > num // 2
    tally("study files damaged at random", num)


def test_settings_on_the_command_line() -> None:
    num = examples(100, 2500)

    def read(content: bytes) -> None:
        text = content.decode(errors="surrogateescape")  # as Python gives what is not UTF-8 in a command line
        build_study(apply_overrides(parse_tree(STUDY.decode(), "study.yaml"), [text]))

    for start in (b"protocol.lr=1e-4", b"data.text=[a,b]", b'name="x"', b"engine.workers=2"):
        attack(read, start, YAML_TOKENS, start.decode(), num // 4)
    tally("settings damaged at random", num)


def test_what_the_fuzzing_would_find() -> None:
    """A reader that crashes on one input in a hundred is caught."""

    def read(content: bytes) -> None:
        if b"\xff" in content:
            raise KeyError("crash")

    with pytest.raises(AssertionError, match="KeyError"):
        attack(read, STUDY, YAML_TOKENS, "control", 1000)


@pytest.mark.parametrize("length", [10, 1000])
def test_aliases_do_not_multiply(length: int) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, length))
    with pytest.raises(Exception, match="more than 100000 values"):
        parse_text(text)
