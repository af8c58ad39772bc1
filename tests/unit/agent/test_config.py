"""Settings: names, precedence, and what does not parse."""

from pathlib import Path

import pytest

from tortie.agent.config import Local, read_local, resolve
from tortie.agent.parameters import BY_YAML_NAME, ProtoPort
from tortie.lib.errors import InvalidInput
from tortie.lib.ip import parse_network

NONE = Local({}, {}, "felix.cfg")


def test_defaults_are_calicos() -> None:
    config = resolve(NONE)
    assert config["InterfacePrefix"] == "cali"
    assert config["DefaultEndpointToHostAction"] == "Drop"
    assert config["ReportingTTLSecs"] == 90.0
    assert ProtoPort("tcp", 22) in config["FailsafeInboundHostPorts"]
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
    assert resolve(NONE, stored)["FailsafeInboundHostPorts"] == (ProtoPort("tcp", 22),)
    none = Local({"failsafeinboundhostports": "none"}, {}, "f")
    assert resolve(none)["FailsafeInboundHostPorts"] == ()


def test_failsafe_ports_of_some_peers() -> None:
    wanted = (
        ProtoPort("tcp", 22, parse_network("10.0.0.0/8")),
        ProtoPort("udp", 68, parse_network("fd00::/8")),
        ProtoPort("tcp", 179),
    )
    text = "tcp:10.0.0.0/8:22, UDP:[fd00::/8]:68,179"
    given = Local({"failsafeoutboundhostports": text}, {}, "f")
    assert resolve(given)["FailsafeOutboundHostPorts"] == wanted
    ports = [
        {"protocol": "TCP", "port": 22, "net": "10.0.0.0/8"},
        {"protocol": "udp", "port": 68, "net": "fd00::/8"},
        {"port": 179},
    ]
    stored = [("default", {"failsafeOutboundHostPorts": ports})]
    assert resolve(NONE, stored)["FailsafeOutboundHostPorts"] == wanted


@pytest.mark.parametrize(
    "text", ["tcp", "tcp:70000", "icmp:1", "tcp:10.0.0.0/40:22", "tcp:fd00::/8:1"]
)
def test_failsafe_ports_that_do_not_parse_leave_the_default(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = resolve(Local({"failsafeinboundhostports": text}, {}, "f"))
    assert config["FailsafeInboundHostPorts"] == resolve(NONE)["FailsafeInboundHostPorts"]
    assert "FailsafeInboundHostPorts" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("natPortRange", "32768:65535", (32768, 65535)),
        ("natPortRange", 4000, (4000, 4000)),
        ("natPortRange", 0, None),
        ("natPortRange", "5:4", None),
        ("natOutgoingAddress", "192.0.2.1", parse_network("192.0.2.1/32")),
        ("natOutgoingAddress", "fd00::1", None),
        ("natOutgoingAddress", "192.0.2.0/24", None),
        ("floatingIPs", "enabled", "Enabled"),
        ("nftablesMarkMask", 0x7, 0x7),
        ("nftablesMarkMask", 0x3, 0xFFFF0000),
    ],
)
def test_settings_of_translation(name: str, text: object, value: object) -> None:
    config = resolve(NONE, [("default", {name: text})])
    assert config[BY_YAML_NAME[name].name] == value


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1m30s", 90), ("100ms", 0.1), ("5", 5)]
)
def test_durations(text: str, seconds: float) -> None:
    config = resolve(NONE, [("default", {"reportingInterval": text})])
    assert config["ReportingIntervalSecs"] == pytest.approx(seconds)


def test_workloads_may_have_several_prefixes() -> None:
    """As Neutron's driver asks for beside others: `cali,tap`."""
    config = resolve(Local({"interfaceprefix": "cali,tap,cali"}, {}, ""))
    assert config.workload_prefixes == ("cali", "tap")
    for bad in ("", "cali,", ",tap", "cali tap", "a" * 15, "cali,ta/p"):
        assert resolve(Local({"interfaceprefix": bad}, {}, "")).workload_prefixes == ("cali",)
