"""The section `[calico]` of neutron.conf, for oslo.config."""

from typing import Any

from oslo_config import cfg

from tortie.openstack.settings import OPTIONS, Option, Settings, read_settings

SECTION = "calico"

_KINDS = {str: cfg.StrOpt, int: cfg.IntOpt, bool: cfg.BoolOpt}


def register(configuration: Any) -> None:
    """Make the options known; a second time does nothing."""
    configuration.register_opts([_option(option) for option in OPTIONS], SECTION)


def settings_of(configuration: Any) -> Settings:
    """What is in force, once the files are read.

    Raises:
        InvalidInput: naming the option.
    """
    register(configuration)
    section = configuration[SECTION]
    return read_settings(lambda name: section[name])


def list_options() -> list[tuple[str, list[Any]]]:
    """For oslo-config-generator."""
    return [(SECTION, [_option(option) for option in OPTIONS])]


def _option(option: Option) -> Any:
    extra: dict[str, Any] = {}
    if option.choices:
        extra["choices"] = list(option.choices)
    return _KINDS[option.type](
        option.name, default=option.default, help=option.help, secret=option.secret, **extra
    )
