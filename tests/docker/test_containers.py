"""What a Docker user does: networks, containers, labels and policy, over two hosts."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.docker.conftest import Hosts
from tests.docker.dockerd import eventually

from tortie.lab.description import POOL, POOL6

pytestmark = pytest.mark.timeout(180)  # daemons, on a machine that may be busy

FIXED6 = POOL6.address(0x707).address_text

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


def test_members_of_a_network_reach_each_other_across_hosts_and_nobody_else_does(
    hosts: Hosts,
) -> None:
    h1, h2 = hosts.h1, hosts.h2
    for docker in (h1, h2):
        docker.network("front")
    h2.network("back")
    web = h1.run("web", "front")["IPAddress"]
    h2.run("friend", "front")
    h2.run("stranger", "back")
    assert eventually(lambda: h2.reaches("friend", web))
    assert not h2.reaches("stranger", web)
    assert h1.on("web", "front")["IPPrefixLen"] == 32
    # Docker's own names work on its host.
    h2.run("other", "front")
    assert "here" in h2.exec("friend", "sh", "-c", "printf 'GET / HTTP/1.0\\r\\n\\r\\n' "
                             "| nc -w 1 $(nslookup other | awk '/^Address/ {a=$NF} END {print a}')"
                             " 80").stdout  # fmt: skip


def test_labels_of_containers_are_what_policies_select(hosts: Hosts) -> None:
    h1, h2 = hosts.h1, hosts.h2
    for docker in (h1, h2):
        docker.network("net1")
    hosts.apply(WEB_FROM_CLIENTS)
    label = "org.projectcalico.label.role"
    web = h1.run("web", "net1", "--label", f"{label}=web", "--label", "role=client")
    h2.run("client", "net1", "--label", f"{label}=client")
    h2.run("other", "net1", "--label", "com.example.role=client")
    assert eventually(lambda: h2.reaches("client", web["IPAddress"]))
    assert not h2.reaches("other", web["IPAddress"]), "a member, but policy says otherwise"
    [endpoint] = [text for text in hosts.endpoints().values() if web["IPAddress"] + "/" in text]
    assert '"role":"web"' in endpoint
    assert h1.inspect("web")["Id"] in endpoint


def test_addresses_by_name(hosts: Hosts) -> None:
    h1, h2 = hosts.h1, hosts.h2
    for docker in (h1, h2):
        docker.network("net1", "--subnet", str(POOL), "--ipv6", "--subnet", str(POOL6))
    mac = "02:42:ac:11:65:02"
    found = h1.run("fixed", "net1", "--ip", "10.65.7.7", "--ip6", FIXED6,
                   "--mac-address", mac)  # fmt: skip
    assert (found["IPAddress"], found["MacAddress"]) == ("10.65.7.7", mac)
    assert found["GlobalIPv6Address"] == FIXED6
    taken = h2.refused("run", "--rm", "--network", "net1", "--ip", "10.65.7.7", "tortie/busybox:1",
                       "/bin/true")  # fmt: skip
    assert "already in use" in taken
    nowhere = h2.refused("run", "--rm", "--network", "net1", "--ip", "192.0.2.1",
                         "tortie/busybox:1", "/bin/true")  # fmt: skip
    assert "does not belong" in nowhere, "Docker knows the subnet"
    h2.run("peer", "net1")
    assert eventually(lambda: h2.reaches("peer", "10.65.7.7"))
    assert eventually(lambda: h2.exec("peer", "ping", "-6", "-c", "1", "-W", "1",
                                      FIXED6).returncode == 0)  # fmt: skip
    h1.ok("rm", "-f", "fixed")
    assert h2.run("again", "net1", "--ip", "10.65.7.7")["IPAddress"] == "10.65.7.7"


def test_a_container_on_two_networks_is_a_member_of_both(hosts: Hosts) -> None:
    h1, h2 = hosts.h1, hosts.h2
    for docker in (h1, h2):
        docker.network("front")
        docker.network("back")
    proxy = h1.run("proxy", "front")["IPAddress"]
    h2.run("client", "front")
    database = h2.run("database", "back")["IPAddress"]
    assert eventually(lambda: h2.reaches("client", proxy))
    assert not h1.reaches("proxy", database)

    h1.ok("network", "connect", "back", "proxy")
    inner = h1.on("proxy", "back")["IPAddress"]
    assert eventually(lambda: h1.reaches("proxy", database))
    assert eventually(lambda: h2.reaches("database", inner))
    assert eventually(lambda: h2.reaches("client", proxy)), "as before"
    assert not h2.reaches("client", database), "nobody is let through"

    h1.ok("network", "disconnect", "front", "proxy")
    assert eventually(lambda: not h2.reaches("client", proxy))
    assert eventually(lambda: h1.reaches("proxy", database))
    assert eventually(lambda: h2.reaches("database", inner))
    assert len(hosts.endpoints()) == 3


def test_an_internal_network_leads_nowhere_else(hosts: Hosts) -> None:
    h1, h2 = hosts.h1, hosts.h2
    for docker in (h1, h2):
        docker.network("inside", "--internal")
        docker.network("outside")
    member = h1.run("member", "inside")["IPAddress"]
    h2.run("other", "inside")
    open_to_all = h2.run("open", "outside")["IPAddress"]
    hosts.apply("""\
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: open}
spec: {selector: has(outside), ingress: [{action: Allow}], egress: [{action: Allow}]}
""")
    assert eventually(lambda: h2.reaches("other", member))
    assert not h1.reaches("member", open_to_all)
    h1.run("free", "outside")
    assert eventually(lambda: h1.reaches("free", open_to_all))


def test_restart_kill_and_thirty_at_once_leave_nothing(hosts: Hosts) -> None:
    h1 = hosts.h1
    h1.network("net1")
    address = h1.run("web", "net1")["IPAddress"]
    h1.run("peer", "net1")
    assert eventually(lambda: h1.reaches("peer", address))
    h1.ok("restart", "-t", "0", "web")
    address = h1.on("web", "net1")["IPAddress"]
    assert eventually(lambda: h1.reaches("peer", address))
    h1.ok("kill", "-s", "KILL", "web")
    assert eventually(lambda: len(hosts.endpoints()) == 1)
    h1.ok("start", "web")
    address = h1.on("web", "net1")["IPAddress"]
    assert eventually(lambda: h1.reaches("peer", address))

    label = "org.projectcalico.label.number"
    with ThreadPoolExecutor(30) as pool:
        numbers = range(30)
        found = list(
            pool.map(
                lambda n: h1.run(f"many{n}", "net1", "--label", f"{label}={n}"),
                numbers,
            )
        )
    assert len({settings["IPAddress"] for settings in found}) == 30

    def labelled() -> bool:
        texts = hosts.endpoints().values()
        return all(
            any(f'"number":"{n}"' in text and settings["IPAddress"] + "/" in text for text in texts)
            for n, settings in enumerate(found)
        )

    assert eventually(labelled), "each has its own"
    assert h1.reaches("many7", found[23]["IPAddress"])
    h1.ok("rm", "-f", *(f"many{n}" for n in numbers), "web", "peer")
    assert eventually(lambda: not hosts.left_overs()), hosts.left_overs()
