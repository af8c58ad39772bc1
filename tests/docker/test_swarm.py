"""Swarm mode: services of several tasks over two nodes, with a managed plugin from local files."""

from collections.abc import Iterator

import pytest
from tests.docker.conftest import Hosts, two_hosts
from tests.docker.dockerd import IMAGE, WEB, Docker, eventually
from tests.e2e.live import inside

from tortie.datastore.client import Client
from tortie.docker.api import Docker as API
from tortie.docker.leaks import Leaks
from tortie.docker.messages import SERIAL
from tortie.lib.ip import Network, parse_network

pytestmark = pytest.mark.timeout(180)  # daemons, on a machine that may be busy

PLUGIN = "tortie-swarm"
ROLE = "org.projectcalico.label.role"

WEB_FROM_CLIENTS = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: web}
spec:
  selector: role == 'web'
  ingress:
  - action: Allow
    source: {selector: role == 'client'}
  egress:
  - action: Allow
"""


@pytest.fixture(scope="module")
def swarm() -> Iterator[Hosts]:
    """h1 is the manager, h2 a worker."""
    with two_hosts("sw", (), "etcd") as made:
        for node in made.dockers:
            node.start()
            node.import_image()
            make_plugin(node)
        join(*made.dockers)
        yield made


def make_plugin(node: Docker) -> None:
    content = str(node.directory / "plugin")
    run = str(node.lab.host_directory(node.host.name))
    assert inside("docker", "plugin", content, "--run-directory", run).code == 0
    node.ok("plugin", "create", PLUGIN, content)
    node.ok("plugin", "enable", PLUGIN)


def join(manager: Docker, worker: Docker) -> None:
    first, second = (node.host.ipv4.address_text for node in (manager, worker))
    manager.ok("swarm", "init", "--advertise-addr", first, "--listen-addr", f"{first}:2377")
    token = manager.ok("swarm", "join-token", "-q", "worker")
    worker.ok("swarm", "join", "--token", token, "--advertise-addr", second,
              "--listen-addr", f"{second}:2377", f"{first}:2377")  # fmt: skip


def service(manager: Docker, name: str, replicas: int, *options: str) -> None:
    manager.ok(
        "service", "create", "-d", "-q", "--name", name, "--network", "s1",
        "--endpoint-mode", "dnsrr", "--no-resolve-image", "--replicas", str(replicas),
        "--restart-delay", "100ms", "--stop-signal", "KILL", *options, IMAGE, *WEB,
    )  # fmt: skip


def tasks(node: Docker, name: str) -> list[str]:
    """Containers of a service that run on a node."""
    return node.ok("ps", "-q", "--filter", f"label=com.docker.swarm.service.name={name}").split()


def addresses(swarm: Hosts, name: str) -> dict[str, str]:
    """Of a service's tasks: address to node."""
    found = {}
    for node in (swarm.h1, swarm.h2):
        for container in tasks(node, name):
            if address := node.on(container, "s1")["IPAddress"]:
                found[address] = node.host.name
    return found


def settled(swarm: Hosts, name: str, count: int) -> bool:
    return eventually(
        lambda: len(addresses(swarm, name)) == count,
        lambda: swarm.h1.ok("service", "ps", "--no-trunc", name),
        seconds=40,
    )


def test_services_scale_and_move_and_policy_follows(swarm: Hosts) -> None:
    h1, h2 = swarm.h1, swarm.h2
    h1.ok("network", "create", "--scope", "swarm", "--attachable", "-d", f"{PLUGIN}:latest",
          "--ipam-driver", f"{PLUGIN}:latest", "s1")  # fmt: skip
    swarm.apply(WEB_FROM_CLIENTS)
    service(h1, "web", 2, "--container-label", f"{ROLE}=web")
    service(h1, "client", 2, "--container-label", f"{ROLE}=client")
    service(h1, "other", 2)
    for name in ("web", "client", "other"):
        settled(swarm, name, 2)
        assert set(addresses(swarm, name).values()) == {"h1", "h2"}, "one task on each node"

    def policy_holds() -> bool:
        for node in (h1, h2):
            [client], [other] = tasks(node, "client"), tasks(node, "other")
            for web in addresses(swarm, "web"):
                assert not node.reaches(other, web)
                if not node.reaches(client, web):
                    return False
        return True

    assert eventually(policy_holds)

    h1.ok("service", "scale", "-d", "web=4")
    settled(swarm, "web", 4)
    assert eventually(policy_holds)
    h1.ok("service", "scale", "-d", "web=1")
    settled(swarm, "web", 1)

    # Every task of a node that is drained comes up elsewhere.
    h1.ok("node", "update", "--availability", "drain", h2.inspect_node())
    settled(swarm, "web", 1)
    assert eventually(lambda: set(addresses(swarm, "web").values()) == {"h1"})
    settled(swarm, "client", 2)
    settled(swarm, "other", 2)
    web = next(iter(addresses(swarm, "web")))
    assert eventually(lambda: h1.reaches(tasks(h1, "client")[0], web))
    assert not h1.reaches(tasks(h1, "other")[0], web)

    # One that is killed is replaced.
    [container] = tasks(h1, "web")
    h1.ok("kill", "-s", "KILL", container)
    assert eventually(lambda: tasks(h1, "web") not in ([], [container]))
    assert eventually(
        lambda: any(h1.reaches(tasks(h1, "client")[0], a) for a in addresses(swarm, "web"))
    )

    # What a manager chose and forgot is given back; what tasks have, not.
    status, pool = h1.plugin("IpamDriver.RequestPool", {"V6": False})
    assert status == 200, pool
    asked = {"PoolID": pool["PoolID"], "Options": {SERIAL: "true"}}
    forgotten = parse_network(h1.plugin("IpamDriver.RequestAddress", asked)[1]["Address"])
    in_use = {address for name in ("web", "client", "other") for address in addresses(swarm, name)}

    async def look(client: Client) -> list[Network]:
        assert await API(h2.socket).swarm_addresses() is None, "a worker cannot tell"
        known = await API(h1.socket).swarm_addresses()
        assert known is not None
        assert in_use <= {address.partition("/")[0] for address in known}
        leaks = Leaks(client, "h1", API(h1.socket))
        return [*await leaks.collect(()), *await leaks.collect(())]

    assert swarm.live.with_client(look) == [forgotten]

    h1.ok("service", "rm", "web", "client", "other")
    assert eventually(lambda: not swarm.left_overs(), swarm.left_overs, seconds=40)
    h1.ok("network", "rm", "s1")
