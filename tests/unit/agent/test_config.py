"""Settings: names, precedence, and what does not parse."""

from pathlib import Path

import pytest

from tortie.agent.config import Local, read_local, resolve
from tortie.lib.errors import InvalidInput

NONE = Local({}, {}, "felix.cfg")


def test_defaults_are_calicos() -> None:
    config = resolve(NONE)
    assert config["InterfacePrefix"] == "cali"
    assert config["DefaultEndpointToHostAction"] == "Drop"
    assert config["ReportingTTLSecs"] == 90.0
    assert ("tcp", 22) in config["FailsafeInboundHostPorts"]
    assert config.origin("LogPrefix") == "default"


def test_precedence_from_environment_down_to_default() -> None:
    stored = [
        ("default", {"reportingInterval": "10s", "logPrefix": "from-default", "healthPort": 1}),
        ("node.h1", {"logPrefix": "from-node", "healthPort": 2}),
        (
            "rack",
            {
                "nodeSelector": "rack == 'a'",
                "healthPort": 3,
                "natOutgoingExclusions": "IPPoolsOnly",
            },
        ),
    ]
    local = Local(
        {"felixhostname": "H1", "healthport": "5"}, {"healthport": "4", "loglevel": "x"}, "f"
    )
    config = resolve(local, stored, {"rack": "a"})
    assert config.host == "h1"
    assert (config["HealthPort"], config.origin("HealthPort")) == (5, "environment")
    assert config["LogPrefix"] == "from-node"
    assert config["ReportingIntervalSecs"] == 10.0
    assert config.origin("NATOutgoingExclusions") == "FelixConfiguration(rack)"
    elsewhere = resolve(local, stored, {"rack": "b"})
    assert elsewhere.origin("NATOutgoingExclusions") == "default"


def test_names_are_matched_in_any_case(tmp_path: Path) -> None:
    file = tmp_path / "felix.cfg"
    file.write_text("[global]\nLogSeverityScreen = debug\n")
    config = resolve(read_local({"FELIX_IPV6SUPPORT": "no", "Felix_healthEnabled": "Y"}, file))
    assert config["Ipv6Support"] is False
    assert config["HealthEnabled"] is True
    assert config["LogSeverityScreen"] == "Debug"


@pytest.mark.parametrize("text", ["maybe", ""])
def test_a_value_that_does_not_parse_counts_as_not_set(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = resolve(Local({"ipv6support": text}, {}, "f"))
    assert config["Ipv6Support"] is True
    assert "Ipv6Support" in caplog.text


def test_a_file_that_is_no_ini_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "felix.cfg"
    file.write_text("what is this")
    with pytest.raises(InvalidInput, match=r"felix\.cfg"):
        read_local({}, file)


def test_failsafe_ports_from_yaml_and_none() -> None:
    stored = [("default", {"failsafeInboundHostPorts": [{"protocol": "TCP", "port": 22}]})]
    assert resolve(NONE, stored)["FailsafeInboundHostPorts"] == (("tcp", 22),)
    none = Local({"failsafeinboundhostports": "none"}, {}, "f")
    assert resolve(none)["FailsafeInboundHostPorts"] == ()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1m30s", 90), ("100ms", 0.1), ("5", 5)]
)
def test_durations(text: str, seconds: float) -> None:
    config = resolve(NONE, [("default", {"reportingInterval": text})])
    assert config["ReportingIntervalSecs"] == pytest.approx(seconds)
