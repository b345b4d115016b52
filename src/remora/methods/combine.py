"""Combination: y = W x + b + sum over the parts of what each adds; several methods trained as one, on any sites.

He et al. 2022, "Towards a unified view of parameter-efficient transfer learning", arXiv:2110.04366, section 3: methods
are changes of hidden states, which can be composed. `of` names the parts, such as ``lora+bitfit``, or with settings
``[lora: {rank: 4}, bitfit]``. At one linear layer low-rank terms, dense ones and biases add up, as do scales with what
they do not scale; then follow the parts that transform outputs (adapters), in their order. Refused: parts that meet
where there is no such sum, low-rank terms of one layer with different dropout, virtual tokens from two parts.
All parts train at one learning rate; the range to tune is the geometric mean of theirs.
Trains what its parts train. Mergeable where all parts are. PEFT type LORA where the sum is of low-rank terms alone.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, cast

from pydantic import BeforeValidator, Field

from remora.errors import ConfigError
from remora.methods.base import LogRange, MethodConfig
from remora.methods.combination import Combination
from remora.methods.registry import get_method, register
from remora.models.sites import SiteKind


def read_parts(value: object) -> tuple[dict[str, dict[str, Any]], ...]:
    """Methods with all their settings, from ``a+b`` or a list of ids and ``{id: settings}``.

    Args:
        value: as the user wrote it.

    Returns:
        One ``{id: settings}`` per part, defaults filled in.

    Raises:
        ValueError: not such a list, or fewer than two.
        ConfigError: unknown ids, or settings that do not fit, all at once.
    """
    entries: list[object] | tuple[object, ...]
    if isinstance(value, str):
        entries = [name.strip() for name in value.split("+")]
    elif isinstance(value, list | tuple):
        entries = cast("list[object] | tuple[object, ...]", value)
    else:
        raise ValueError("name methods as a+b, or as a list of ids and `id: {settings}`")
    if len(entries) < 2:
        raise ValueError("a combination has at least two methods")
    parts: list[dict[str, dict[str, Any]]] = []
    faults: list[ConfigError] = []
    for entry in entries:
        given: object = {entry: {}} if isinstance(entry, str) else entry
        if not isinstance(given, Mapping) or len(cast("Mapping[Any, Any]", given)) != 1:
            raise ValueError(f"{entry!r} is neither a method's id nor `id: {{settings}}`")
        ((name, settings),) = cast("Mapping[str, Mapping[str, Any] | None]", given).items()
        try:
            parts.append({name: get_method(name, settings).config.model_dump(mode="json")})
        except ConfigError as error:
            faults.append(error)
    if faults:
        raise ConfigError("\n".join(f.message for f in faults), "\n  ".join(dict.fromkeys(f.hint for f in faults)))
    return tuple(parts)


Parts = Annotated[tuple[dict[str, dict[str, Any]], ...], BeforeValidator(read_parts), Field(validate_default=True)]


def mean_range(ranges: list[LogRange]) -> LogRange:
    """The geometric mean of both ends, to two digits."""

    def mean(values: list[float]) -> float:
        return float(f"{math.exp(sum(map(math.log, values)) / len(values)):.1e}")

    return LogRange(mean([each.low for each in ranges]), mean([each.high for each in ranges]))


class PartsConfig(MethodConfig):
    """The parts."""

    of: Parts = ({"lora": {}}, {"bitfit": {}})


@register("combine")
class Combine(Combination):
    """Methods trained together."""

    label: ClassVar[str] = "combination"
    family: ClassVar = "hybrid"
    citation: ClassVar[str] = "He et al. 2022, arXiv:2110.04366"
    use_when: ClassVar[str] = "where two methods each help a little and one of them is nearly free, as biases are"
    lr_range: ClassVar[LogRange] = LogRange(3.2e-4, 1.7e-2)
    mergeable: ClassVar[bool] = True
    site_kinds: ClassVar[tuple[SiteKind, ...]] = ("linear", "norm")
    examples: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"of": [{"lora": {"rank": 3, "dropout": 0.2}}, {"rslora": {"rank": 2, "dropout": 0.2}}]},
        {
            "of": [
                {"adapter-pfeiffer": {"bottleneck": 4, "dropout": 0.1}},
                {"lora": {"rank": 2, "dropout": 0.0, "targets": ["ffn.down", "attention.q"]}},
                "ia3",
            ]
        },
    )
    Config: ClassVar[type[MethodConfig]] = PartsConfig

    def __init__(self, config: PartsConfig) -> None:
        super().__init__(config, [get_method(name, settings) for part in config.of for name, settings in part.items()])
        vars(self).update(lr_range=mean_range([part.method.lr_range for part in self.parts]))
