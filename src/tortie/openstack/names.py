"""How Neutron lists the agents of our hosts, as networking-calico names them; and ports in DNS."""

from oslo_config import cfg

AGENT_TYPE = "Calico per-host agent (felix)"
AGENT_BINARY = "calico-felix"
HOST_SIDE_MAC = "00:61:fe:ed:ca:fe"
"""Of each tap on the host: guests keep their neighbour entry when they move."""


def fqdn(dns_name: str) -> str:
    """A port's name in DNS as Neutron's DNS integration makes it; empty for one without."""
    domain = str(cfg.CONF.dns_domain or "").strip(".")
    return f"{dns_name}.{domain}." if domain and dns_name else ""
