"""YAML with the scalars of YAML 1.2: ``yes`` and ``2024-01-01`` are text, ``1e-4`` is a number, no key occurs twice."""

import re

import yaml

Path = tuple[str | int, ...]

_MAX_NODES = 100_000
_SURROGATE = re.compile("[\ud800-\udfff]")
_CORE = "tag:yaml.org,2002:"
_NULL, _BOOL, _INT, _FLOAT, _STR = (_CORE + kind for kind in ("null", "bool", "int", "float", "str"))
_PATTERNS = (
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        _FLOAT,
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class YamlError(Exception):
    """What is wrong with a YAML text: (line, message) pairs; line 0 means the text as a whole."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("; ".join(message for _, message in problems))
        self.problems = problems


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the resolvers of the YAML 1.2 core schema in place of those of YAML 1.1."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own way)


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes whatever YAML 1.1 or 1.2 would take for something else than text."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # Only double quotes escape the line ends of Unicode; in other styles they would come back as blanks.
        style = '"' if re.search("[\x85\u2028\u2029\ufeff]", text) else None
        return self.represent_scalar(_STR, text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)

for _tag, _pattern, _first in _PATTERNS:
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)


def parse_text(text: str) -> tuple[object, dict[Path, int]]:
    """Parse one YAML document.

    Args:
        text: the document.

    Returns:
        Plain dicts, lists, strings, numbers, truth values and None, and the line (from 1) of every value by its path.

    Raises:
        YamlError: it is not YAML, or uses tags, repeated keys or keys that are no text.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        parts = [part for part in (error.context, error.problem) if part]
        raise YamlError([(mark.line + 1 if mark else 0, "not valid YAML: " + ", ".join(parts))]) from error
    except yaml.YAMLError as error:
        raise YamlError([(0, f"not valid YAML: {str(error).splitlines()[0]}")]) from error
    except RecursionError as error:
        raise YamlError([(0, "not valid YAML: nested too deeply")]) from error
    except (ValueError, OverflowError) as error:  # an escape beyond Unicode, a version with thousands of digits
        raise YamlError([(0, f"not valid YAML: {error}")]) from error
    reader = _Reader()
    value = None if node is None else reader.read(node, ())
    if reader.problems:
        raise YamlError(reader.problems)
    return value, reader.lines


class _Reader:
    """Turns nodes into values; collects all problems rather than stop at the first."""

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.problems: list[tuple[int, str]] = []
        self._num_nodes = 0

    def read(self, node: yaml.Node, path: Path) -> object:
        line = node.start_mark.line + 1
        self._num_nodes += 1
        if self._num_nodes > _MAX_NODES or len(path) > 100:
            # A list that contains itself through an alias ends here too.
            raise YamlError([(line, f"more than {_MAX_NODES} values or 100 levels")])
        self.lines[path] = line
        if isinstance(node, yaml.MappingNode) and node.tag == _CORE + "map":
            return self._read_mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == _CORE + "seq":
            return [self.read(part, (*path, index)) for index, part in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            try:
                return _scalar(node.tag, node.value)
            except ValueError as error:
                self.problems.append((line, str(error)))
                return None
        self.problems.append((line, f"the tag {node.tag} is not allowed"))
        return None

    def _read_mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        result: dict[str, object] = {}
        for key, part in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self.problems.append((key.start_mark.line + 1, "a name must be a word, not a list or a mapping"))
                continue
            name = str(key.value)
            if _SURROGATE.search(name):
                self.problems.append((key.start_mark.line + 1, "a name holds half a surrogate pair"))
                continue
            if name in result:
                first = self.lines[(*path, name)]
                self.problems.append((key.start_mark.line + 1, f"{name!r} is set twice, first on line {first}"))
                continue
            result[name] = self.read(part, (*path, name))
            self.lines[(*path, name)] = key.start_mark.line + 1
        return result


def _scalar(tag: str, text: str) -> object:
    if tag == _NULL:
        return None
    if tag == _BOOL:
        return text.lower() == "true"
    if tag == _INT:
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if tag == _FLOAT:
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    if tag in (_STR, "!"):
        if _SURROGATE.search(text):
            raise ValueError("text holds half a surrogate pair, which no file can")
        return text
    raise ValueError(f"the tag {tag} is not allowed")


def parse_value(text: str) -> object:
    """Read one value from a command line: a YAML scalar, or a list, mapping or quoted text in YAML's flow form.

    Args:
        text: the value; characters such as ``#`` or ``: `` have no meaning in an unquoted one.

    Returns:
        The value.

    Raises:
        YamlError: brackets or quotes do not match.
    """
    text = text.strip()
    if text[:1] in ("[", "{", '"', "'"):
        return parse_text(text)[0]
    tag = _Loader("").resolve(yaml.ScalarNode, text, (True, False))
    try:
        return _scalar(str(tag), text)
    except ValueError as error:
        raise YamlError([(0, str(error))]) from error


def to_yaml(values: object) -> str:
    """Write plain values as YAML that both YAML 1.1 and 1.2 readers understand alike; keys keep their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
