"""Calico's environment variables."""

from pathlib import Path

import pytest

from tortie.docker.settings import Settings, from_environment
from tortie.lib.errors import InvalidInput

HERE = Path("/nowhere")
DEFAULT = Settings("h1", HERE, HERE, HERE, HERE, HERE)


def settings(**environment: str) -> Settings:
    named = {f"CALICO_LIBNETWORK_{name}": value for name, value in environment.items()}
    return from_environment(DEFAULT, named)


def test_defaults_and_values() -> None:
    assert settings() == DEFAULT
    assert settings(CREATE_PROFILES="FALSE").create_profiles is False
    assert settings(LABEL_ENDPOINTS="false").label_endpoints is False
    assert settings(LABEL_ENDPOINTS="true").label_endpoints is True
    assert settings(IFPREFIX="ens").interface_prefix == "ens"
    assert settings(VETH_MTU="1400").mtu == 1400


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5), ("1500ms", 1.5), ("2m", 120), ("0.5s", 0.5), ("7", 7)]
)
def test_times(text: str, seconds: float) -> None:
    assert settings(LABEL_POLL_TIMEOUT=text).patience_seconds == seconds


@pytest.mark.parametrize(
    ("name", "value"),
    [("VETH_MTU", "12"), ("VETH_MTU", "x"), ("VETH_MTU", "²"), ("IFPREFIX", "a/b"),
     ("IFPREFIX", "a" * 13), ("CREATE_PROFILES", "perhaps"), ("LABEL_POLL_TIMEOUT", "soon")],
)  # fmt: skip
def test_mistakes_are_named(name: str, value: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        settings(**{name: value})
