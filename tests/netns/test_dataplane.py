"""The dataplane against the real kernel: packets between namespaces decide."""

from collections.abc import Iterator

import pytest
from tests.netns.dataplane_host import Host, Workload, hears, tier, workloads

from tortie.desired.policy import (
    UDP,
    PolicyList,
    PortRange,
    Rule,
    Side,
)

pytestmark = pytest.mark.usefixtures("netns")


@pytest.fixture
def host(netns: None) -> Iterator[Host]:
    made = Host()
    made.allow_all_profile()
    yield made
    made.close()


@pytest.fixture
def pair(host: Host) -> Iterator[tuple[Workload, Workload]]:
    with workloads(host, 2) as made:
        yield made[0], made[1]


def udp_to(*ports: int) -> Side:
    return Side(ports=tuple(PortRange(port, port) for port in ports))


@pytest.mark.parametrize("family", [4, 6])
def test_an_allowed_port_passes_and_others_do_not(
    host: Host, pair: tuple[Workload, Workload], family: int
) -> None:
    a, b = pair
    web = host.policy("web", ingress=(Rule("Allow", protocol=UDP, destination=udp_to(80, 443)),))
    host.endpoint(a)
    host.endpoint(b, ingress=PolicyList((tier(web),)))
    host.apply()
    assert hears(a, b, 80, family)
    assert hears(a, b, 443, family)
    assert not hears(a, b, 81, family)
