"""Any of the three (service, dockerd, agent) ends, politely or not; what lives goes on."""

import signal
import threading
import time

import pytest
from tests.docker.conftest import Hosts
from tests.docker.dockerd import Docker, eventually

pytestmark = pytest.mark.timeout(180)  # daemons, on a machine that may be busy

DENY_UNLABELLED = """\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: only-known}
spec:
  selector: role == 'web'
  ingress:
  - {action: Allow, source: {selector: role == 'client'}}
  egress:
  - {action: Allow}
"""


def test_l19_the_service_is_killed_and_comes_back(hosts: Hosts) -> None:
    h1 = hosts.h1
    h1.network("net1")
    h1.network("net2")
    web = h1.run("web", "net1", "--label", "org.projectcalico.label.role=web")["IPAddress"]
    h1.run("peer", "net1")
    assert eventually(lambda: h1.reaches("peer", web))
    before = hosts.endpoints()
    h1.stop_service(signal.SIGKILL)
    assert h1.reaches("peer", web), "packets do not need it"
    h1.start_service()
    h1.ok("restart", "-t", "0", "peer")
    assert eventually(lambda: h1.reaches("peer", web))
    web_key = next(key for key, text in before.items() if web + "/" in text)
    assert hosts.endpoints()[web_key] == before[web_key], "nothing was written anew"
    h1.ok("network", "connect", "net2", "web")
    assert eventually(lambda: any('"net2"' in text for text in hosts.endpoints().values()))
    h1.ok("rm", "-f", "web", "peer")
    assert eventually(lambda: not hosts.left_overs()), hosts.left_overs()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_l19_dockerd_ends_and_comes_back_with_live_containers(
    hosts: Hosts, number: signal.Signals
) -> None:
    h1, h2 = hosts.h1, hosts.h2
    for docker in (h1, h2):
        docker.network("net1")
    h1.run("always", "net1", "--restart", "always")
    h1.run("once", "net1")
    h2.run("peer", "net1")
    h1.stop_daemon(number)
    h1.start_daemon()
    assert eventually(lambda: h1.inspect("always")["State"]["Running"])
    address = h1.on("always", "net1")["IPAddress"]
    assert eventually(lambda: h2.reaches("peer", address))
    h1.ok("start", "once")
    again = h1.on("once", "net1")["IPAddress"]
    assert eventually(lambda: h2.reaches("peer", again))
    h1.ok("rm", "-f", "always", "once")
    h2.ok("rm", "-f", "peer")
    assert eventually(lambda: not hosts.left_overs()), hosts.left_overs()


def test_containers_live_on_without_dockerd(hosts: Hosts) -> None:
    """With --live-restore dockerd's end is not that of its containers."""
    h1, h2 = hosts.h1, hosts.h2
    for docker in (h1, h2):
        docker.network("net1")
    before, h1.options = h1.options, (*h1.options, "--live-restore")
    try:
        h1.stop_daemon()
        h1.start_daemon()
        label = ("--label", "org.projectcalico.label.role=web")
        web = h1.run("web", "net1", *label)["IPAddress"]
        h2.run("peer", "net1")
        assert eventually(lambda: h2.reaches("peer", web))
        endpoints = hosts.endpoints()
        h1.stop_daemon(signal.SIGKILL)
        assert h2.reaches("peer", web), "nobody needs dockerd for packets"
        h1.start_daemon()
        assert h1.inspect("web")["State"]["Running"]
        assert h1.on("web", "net1")["IPAddress"] == web
        assert eventually(lambda: h2.reaches("peer", web))
        time.sleep(20)  # longer than an endpoint lives that Docker does not list
        assert hosts.endpoints() == endpoints
        h1.ok("rm", "-f", "web")
        h2.ok("rm", "-f", "peer")
        assert eventually(lambda: not hosts.left_overs()), hosts.left_overs()
    finally:
        h1.options = before
        h1.stop_daemon()
        h1.start_daemon()


def test_dockerd_starts_while_agent_and_datastore_are_still_to_come(hosts: Hosts) -> None:
    """As at boot: containers that Docker restarts must not hang on who comes later."""
    h1, h2 = hosts.h1, hosts.h2
    for docker in (h1, h2):
        docker.network("net1")
    h1.run("always", "net1", "--restart", "always")
    h2.run("peer", "net1")
    h1.stop_daemon()
    h1.stop_service()
    hosts.live.stop_agent("h1", signal.SIGKILL)
    h1.start_service()
    starting = threading.Thread(target=h1.start_daemon)
    starting.start()
    try:
        eventually(lambda: _is_loading(h1))
    finally:
        hosts.live.start_agent("h1")
        starting.join()
    assert eventually(lambda: h1.inspect("always")["State"]["Running"])
    address = h1.on("always", "net1")["IPAddress"]
    assert eventually(lambda: h2.reaches("peer", address))


def test_the_agent_is_killed_while_containers_start(hosts: Hosts) -> None:
    h1 = hosts.h1
    h1.network("net1")
    h1.run("peer", "net1")
    hosts.live.stop_agent("h1", signal.SIGKILL)
    found: list[dict[str, object]] = []
    running = threading.Thread(target=lambda: found.append(h1.run("web", "net1")))
    running.start()
    hosts.live.start_agent("h1")
    running.join()
    address = str(found[0]["IPAddress"])
    assert eventually(lambda: h1.reaches("peer", address))


def test_l19_what_docker_forgot_is_cleaned_up(
    hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver's endpoint that Docker does not know, as after its crash in the middle."""
    h1 = hosts.h1
    network = h1.network("net1")
    pool = h1.plugin("IpamDriver.RequestPool", {"V6": False})[1]["PoolID"]
    address = h1.plugin("IpamDriver.RequestAddress", {"PoolID": pool})[1]["Address"]
    endpoint = "f" * 64
    status, answer = h1.plugin(
        "NetworkDriver.CreateEndpoint",
        {"NetworkID": network, "EndpointID": endpoint, "Interface": {"Address": address}},
    )
    assert status == 200, answer
    assert len(hosts.endpoints()) == 1
    # It asks twice, and leaves without an end.
    joining = {"NetworkID": network, "EndpointID": endpoint, "SandboxKey": "/var/run/none"}
    first = h1.plugin("NetworkDriver.Join", joining)
    assert first[0] == 200, first
    assert h1.plugin("NetworkDriver.Join", joining) == first
    leaving = {"NetworkID": network, "EndpointID": endpoint}
    for _ in range(2):
        assert h1.plugin("NetworkDriver.Leave", leaving)[0] == 200
    h1.run("lives", "net1")
    seconds = 60.0
    assert eventually(lambda: len(hosts.endpoints()) == 1, lambda: h1.service_log, seconds)
    # Its address goes a moment after it.
    assert eventually(lambda: len(hosts.handles()) == 1, lambda: h1.service_log)
    h1.ok("rm", "-f", "lives")
    assert eventually(lambda: not hosts.left_overs()), hosts.left_overs()


def test_an_endpoint_is_closed_until_policy_can_see_its_labels(hosts: Hosts) -> None:
    h1, h2 = hosts.h1, hosts.h2
    network = h1.network("net1")
    h2.network("net1")
    h2.run("other", "net1")
    hosts.apply(DENY_UNLABELLED)
    pool = h1.plugin("IpamDriver.RequestPool", {"V6": False})[1]["PoolID"]
    address = h1.plugin("IpamDriver.RequestAddress", {"PoolID": pool})[1]["Address"]
    status, answer = h1.plugin(
        "NetworkDriver.CreateEndpoint",
        {"NetworkID": network, "EndpointID": "e" * 64, "Interface": {"Address": address}},
    )
    assert status == 200, answer
    assert not [text for text in hosts.endpoints().values() if address in text], "held"
    h1.plugin("NetworkDriver.DeleteEndpoint", {"NetworkID": network, "EndpointID": "e" * 64})
    h1.plugin("IpamDriver.ReleaseAddress", {"PoolID": pool, "Address": address.partition("/")[0]})

    # A whole container, asked from its first moment on: never once answered.
    answered: list[bool] = []
    stop = threading.Event()
    label = "org.projectcalico.label.role=web"
    target = "10.65.7.9"

    def ask() -> None:
        while not stop.is_set():
            answered.append(h2.reaches("other", target))

    h1.ok("network", "create", "-d", "tortie", "--ipam-driver", "tortie-ipam", "--subnet",
          "10.65.0.0/16", "fixed")  # fmt: skip
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for n in range(3):
            h1.run(f"web{n}", "fixed", "--ip", target, "--label", label)
            h1.ok("rm", "-f", f"web{n}")
    finally:
        stop.set()
        asking.join()
    assert answered
    assert not any(answered)


def _is_loading(docker: Docker) -> bool:
    return "Loading containers: start" in docker.daemon_log.rpartition("Starting up")[2]
