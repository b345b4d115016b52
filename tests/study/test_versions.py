"""Machines that take part in one study must compute with the same packages, and may not be of another kind unseen."""

from pathlib import Path

import pytest

from remora.config.schema import EngineConfig
from remora.errors import ConfigError, ResourceError
from remora.study.versions import machine_difference, refuse_other_versions, versions_of


def test_the_same_versions_may_take_part() -> None:
    begun = versions_of(())
    refuse_other_versions(begun, Path("run"))
    assert machine_difference(begun, EngineConfig(device="cpu")) == ""


@pytest.mark.parametrize("package", ["torch", "transformers", "remora"])
def test_another_version_may_not(package: str) -> None:
    with pytest.raises(ResourceError, match=rf"{package} \S+, there 0\.0\.7"):
        refuse_other_versions({**versions_of(()), package: "0.0.7"}, Path("run"))


def test_a_plug_in_that_is_not_here_is_named() -> None:
    with pytest.raises(ConfigError, match="no-such-method"):
        refuse_other_versions({**versions_of(()), "plug-in no-such-method": "0" * 64}, Path("run"))
    with pytest.raises(ConfigError, match="the file of plug-in lora is not the one"):
        refuse_other_versions({**versions_of(()), "plug-in lora": "0" * 64}, Path("run"))


def test_another_processor_is_told_where_it_matters() -> None:
    begun = {**versions_of(()), "processor": "Abacus"}
    assert "processor: " in machine_difference(begun, EngineConfig(device="cpu"))
    assert "beside Abacus" in machine_difference(begun, EngineConfig(device="cpu"))
    assert machine_difference(begun, EngineConfig(device="cuda")) == ""
