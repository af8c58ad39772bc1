"""The units under a real systemd: started, confined, killed, upgraded, removed, rebooted."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.hosts.conftest import Machines, install_program
from tests.hosts.machine import Machine
from tests.hosts.stream import FORBIDDEN_PORT, PORT, UDP_PORT, unharmed

from tortie.kernel import netns
from tortie.kernel.capabilities import Capability, of_process
from tortie.lib.errors import TortieError

WEB = "192.168.7.7"

POLICY = f"""
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {{name: web, namespace: default}}
spec:
  selector: role == 'web'
  ingress:
    - action: Allow
      protocol: TCP
      source: {{selector: role == 'cat'}}
      destination: {{ports: [80, {PORT}]}}
    - action: Allow
      protocol: UDP
      source: {{selector: role == 'cat'}}
      destination: {{ports: [{UDP_PORT}]}}
"""


SETTING = """
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {{name: default}}
spec: {{logPrefix: other-{}}}
"""


@pytest.fixture(scope="module")
def guarded(cluster: Machines) -> Machines:
    """The quickstart's cluster, with a policy that lets some of the stream pass."""
    cluster["h1"].tortie("apply", "-f", "-", stdin=POLICY)
    time.sleep(1)
    return cluster


def workload(machine: Machine, name: str) -> str:
    return f"/proc/{machine.pid}/root/run/netns/{name}"


def pid_of(machine: Machine, unit: str) -> int:
    """As seen from here."""
    inside = int(machine.systemctl("show", "-p", "MainPID", "--value", unit))
    assert inside, f"{unit} does not run: {machine.log(unit)}"
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            status = (process / "status").read_text()
            network = netns.identity(f"/proc/{process.name}/ns/net")
        except (OSError, TortieError):
            continue  # it ended, or is none of ours
        line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
        if line.split()[-1] == str(inside) and network == machine.network_identity:
            return int(process.name)
    raise AssertionError(f"process {inside} of {machine.name} is not to be found")


def wait(what: str, is_so: Callable[[], bool], seconds: float = 30) -> None:
    give_up = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < give_up, what
        time.sleep(0.3)


def health(machine: Machine, what: str) -> int:
    """HTTP status; 0 if nobody answers."""
    asked = (
        "import http.client\n"
        "c = http.client.HTTPConnection('localhost', 9099, timeout=3)\n"
        f"c.request('GET', '/{what}'); print(c.getresponse().status)"
    )
    return int(machine.run(sys.executable, "-c", asked).stdout or 0)


def ready(machine: Machine) -> bool:
    return health(machine, "readiness") == 200


def tables(machine: Machine) -> str:
    return machine.ok("nft", "list", "tables")


def test_systemd_finds_nothing_wrong(cluster: Machines) -> None:
    script = "cd /etc/systemd/system && systemd-analyze verify ./tortie-* 2>&1"
    assert cluster["h1"].ok("sh", "-c", script) == ""
    for name in ("tortie-agent", "tortie-close", "tortie-keeper", "tortie-bird"):
        assert cluster["h1"].systemctl("show", "-p", "NRestarts", "--value", name) == "0"


def test_each_process_may_do_what_it_needs_and_no_more(cluster: Machines) -> None:
    machine = cluster["h1"]
    net_admin, bind, raw = Capability.NET_ADMIN, 10, 13
    assert of_process(pid_of(machine, "tortie-agent")) == {net_admin}
    assert of_process(pid_of(machine, "tortie-keeper")) == {net_admin}
    assert of_process(pid_of(machine, "tortie-bird")) == {net_admin, bind, raw}
    for unit in ("tortie-agent", "tortie-keeper", "tortie-bird"):
        status = Path(f"/proc/{pid_of(machine, unit)}/status").read_text()
        assert "\nNoNewPrivs:\t1\n" in status
        assert "\nSeccomp:\t2\n" in status
    mounts = Path(f"/proc/{pid_of(machine, 'tortie-agent')}/mounts").read_text().splitlines()
    root = next(line for line in mounts if line.split()[1] == "/")
    assert "ro" in root.split()[3].split(",")


def test_where_things_are(cluster: Machines) -> None:
    machine = cluster["h2"]
    assert machine.ok("cat", "/var/lib/calico/nodename") == "h2"
    modes = machine.ok("stat", "-c", "%a", "/run/tortie", "/var/lib/calico").split()
    assert modes == ["700", "755"], "nodename is for all, sockets are not"
    assert machine.ok("stat", "-c", "%a", "/etc/calico/calico.env").strip() == "644", "the user's"
    assert '"interfacePrefix":"cali"' in machine.ok("cat", "/var/lib/tortie/host.json")


def kill_the_agent(machine: Machine) -> None:
    machine.ok("systemctl", "kill", "--signal=KILL", "tortie-agent")


def restart_the_agent(machine: Machine) -> None:
    machine.ok("systemctl", "restart", "tortie-agent")


def kill_the_keeper_and_the_agent(machine: Machine) -> None:
    machine.ok("systemctl", "kill", "--signal=KILL", "tortie-keeper", "tortie-agent")


def kill_bird(machine: Machine) -> None:
    machine.ok("systemctl", "kill", "--signal=KILL", "tortie-bird")


def restart_bird(machine: Machine) -> None:
    machine.ok("systemctl", "restart", "tortie-bird")


def upgrade(machine: Machine) -> None:
    """A unit that differs, as another version's would; and files newer than the process."""
    machine.ok("sed", "-i", "s/^LimitNOFILE=.*/LimitNOFILE=4096/",
               "/etc/systemd/system/tortie-agent.service")  # fmt: skip
    said = machine.tortie("node", "install")
    assert "replaced /etc/systemd/system/tortie-agent.service" in said
    assert "restarted tortie-agent.service" in said
    assert "tortie-keeper" not in said


def change_a_setting(machine: Machine) -> None:
    """The agent ends by itself: with no new privileges it cannot start itself anew."""
    machine.tortie("apply", "-f", "-", stdin=SETTING.format(time.monotonic_ns()))


AT_THE_RECEIVER = (
    kill_the_agent, restart_the_agent, kill_the_keeper_and_the_agent, kill_bird, restart_bird,
    upgrade, change_a_setting,
)  # fmt: skip
AT_THE_SENDER = (kill_the_agent, kill_bird)


@pytest.mark.parametrize(
    ("host", "event"),
    [*(("h1", event) for event in AT_THE_RECEIVER), *(("h2", event) for event in AT_THE_SENDER)],
)
def test_packets_do_not_notice(
    guarded: Machines, host: str, event: Callable[[Machine], None]
) -> None:
    """Neither those that may pass nor those that may not; at the receiver's or the sender's."""
    h1, h2, machine = guarded["h1"], guarded["h2"], guarded[host]
    before = machine.systemctl("show", "-p", "MainPID", "tortie-agent", "tortie-bird")
    with unharmed(workload(h2, "cat"), workload(h1, "web"), WEB):
        event(machine)
        wait("another process", lambda: machine.systemctl("show", "-p", "MainPID", "tortie-agent",
                                                          "tortie-bird") != before)  # fmt: skip
        wait("readiness", lambda: ready(machine))
    assert "early" not in tables(machine)


def test_an_agent_that_hangs_is_replaced(guarded: Machines) -> None:
    machine = guarded["h3"]
    drop_in = "/etc/systemd/system/tortie-agent.service.d/watchdog.conf"
    machine.write(drop_in, "[Service]\nWatchdogSec=5s\n")
    machine.ok("systemctl", "daemon-reload")
    machine.ok("systemctl", "restart", "tortie-agent")
    wait("readiness", lambda: ready(machine))
    before = pid_of(machine, "tortie-agent")
    time.sleep(8)
    assert pid_of(machine, "tortie-agent") == before, "one that works is left alone"
    status = machine.systemctl("show", "-p", "StatusText", "--value", "tortie-agent")
    assert "loop: enforced up to revision" in status
    os.kill(before, signal.SIGSTOP)
    wait("another agent", lambda: ready(machine), 60)
    assert pid_of(machine, "tortie-agent") != before
    machine.ok("rm", "-r", str(Path(drop_in).parent))
    machine.ok("systemctl", "daemon-reload")


def test_what_can_be_attached_from_within_the_sandbox(guarded: Machines) -> None:
    """Namespaces that came after the agent, of another's process, and a machine's tap."""
    machine = guarded["h3"]
    machine.ok("ip", "netns", "add", "late")
    machine.tortie("workload", "add", "late", "--netns", "late")
    with machine.start("unshare", "--net", "sh", "-c", "echo $$; exec sleep 100") as process:
        try:
            assert process.stdout is not None
            pid = process.stdout.readline().strip()
            machine.tortie("workload", "add", "other", "--netns", f"/proc/{pid}/ns/net")
            machine.tortie("workload", "add", "vm", "--tap")
            said = machine.tortie("workload", "list")
            assert all(name in said for name in ("late", "other", "vm"))
            for name in ("late", "other", "vm"):
                machine.tortie("workload", "remove", name)
        finally:
            process.kill()


def test_networks_for_docker(guarded: Machines) -> None:
    """Confined as its unit says, it still answers where Docker looks for it."""
    machine = guarded["h3"]
    machine.ok("systemctl", "start", "tortie-docker")
    sockets = "/run/docker/plugins/*.sock"
    wait("its socket", lambda: machine.run("sh", "-c", f"ls {sockets}").returncode == 0)
    asked = (
        "import glob, http.client, socket\n"
        f"for path in glob.glob('{sockets}'):\n"
        "    c = http.client.HTTPConnection('x'); c.sock = socket.socket(socket.AF_UNIX)\n"
        "    c.sock.connect(path)\n"
        "    c.request('POST', '/Plugin.Activate'); print(c.getresponse().read().decode())"
    )
    assert "NetworkDriver" in machine.ok(sys.executable, "-c", asked)
    assert machine.systemctl("is-active", "tortie-docker") == "active"
    machine.ok("systemctl", "stop", "tortie-docker")


def test_addresses_for_virtual_machines(guarded: Machines) -> None:
    """Confined as its unit says, it starts a dnsmasq that gives root up, and ends it."""
    machine = guarded["h3"]
    machine.ok("sh", "-c", "echo OPTIONS=--dns 10.0.0.53 > /etc/calico/dhcp.env")
    machine.ok("systemctl", "start", "tortie-dhcp")
    shown = "cat /run/tortie/dhcp/host/pid && ps -o user= -p $(cat /run/tortie/dhcp/host/pid)"

    def serves() -> bool:
        return "dnsmasq" in machine.run("sh", "-c", shown).stdout

    try:
        machine.tortie("workload", "add", "vm", "--tap", "--dhcp")
        wait("a dnsmasq", serves)
        before = machine.ok("cat", "/run/tortie/dhcp/host/pid")
        machine.ok("sh", "-c", f"kill -9 {before}")
        wait("another one", lambda: serves() and before != machine.ok(
            "cat", "/run/tortie/dhcp/host/pid"))  # fmt: skip
        said = machine.log("tortie-dhcp")
        assert "refused" not in said, said
        machine.ok("systemctl", "stop", "tortie-dhcp")
        assert machine.run("pgrep", "-x", "dnsmasq").returncode != 0
    finally:
        machine.tortie("workload", "remove", "vm")


def test_the_hole_would_be_seen(guarded: Machines) -> None:
    """Without our tables the forbidden port answers: so the tests above could have failed."""
    h1, h2 = guarded["h1"], guarded["h2"]
    with netns.open_socket_in(workload(h1, "web"), 2) as server:
        server.bind(("0.0.0.0", FORBIDDEN_PORT))
        server.listen()

        def passes() -> bool:
            with netns.open_socket_in(workload(h2, "cat"), 2) as one:
                one.settimeout(2)
                return one.connect_ex((WEB, FORBIDDEN_PORT)) == 0

        assert not passes()
        h1.tortie("apply", "-f", "-", stdin=POLICY.replace(f"80, {PORT}", f"80, {FORBIDDEN_PORT}"))
        wait("the port opens", passes)
        h1.tortie("apply", "-f", "-", stdin=POLICY)


def test_uninstalling_with_workloads(guarded: Machines) -> None:
    h1, h2 = guarded["h1"], guarded["h2"]
    refused = h1.run("tortie", "node", "uninstall")
    assert refused.returncode == 1
    assert "1 workloads are here (cali" in refused.stderr
    with unharmed(workload(h2, "cat"), workload(h1, "web"), WEB):
        h1.tortie("node", "uninstall", "--keep-policy")
        assert h1.systemctl("list-unit-files", "tortie-*", "--no-legend") == ""
        assert "table inet tortie\n" in tables(h1)
        time.sleep(2)
        said = h1.tortie("node", "install")
        assert "started tortie-agent.service" in said
        wait("readiness", lambda: ready(h1))


def test_nothing_is_left(guarded: Machines) -> None:
    """The last one of this cluster."""
    h2 = guarded["h2"]
    h2.tortie("node", "uninstall", "--force")
    assert tables(h2) == ""
    assert "proto 80" not in h2.ok("ip", "route") + h2.ok("ip", "-6", "route")
    assert "proto bird" not in h2.ok("ip", "route")
    assert "state DOWN" in h2.ok("sh", "-c", "ip link show | grep cali"), "cut off, not open"
    assert h2.ok("find", "/etc", "/var/lib", "/run", "-xdev", "-name", "*tortie*") == ""
    assert h2.run("ls", "/var/lib/calico").returncode != 0
    running = h2.ok("ps", "-eo", "args")
    assert "tortie" not in running
    assert "bird" not in running
    # What the user wrote is the user's.
    assert "ETCD_ENDPOINTS" in h2.ok("cat", "/etc/calico/calico.env")


def test_a_boot_without_the_datastore(spare: Machine, tmp_path: Path) -> None:
    """Workloads' interfaces are closed from before the network until their policy is known."""
    root = tmp_path / "disk"
    root.mkdir()
    script = [sys.executable, "-P", "-m", "tortie", "node", "install", "--root", str(root)]
    subprocess.run(script, check=True, capture_output=True)
    (root / "etc/calico/calico.env").write_text(
        "DATASTORE_TYPE=etcdv3\nETCD_ENDPOINTS=http://192.0.2.99:2379\nFELIX_HEALTHENABLED=true\n"
    )
    spare.boot(root)
    install_program(spare)
    wait("the units of boot", lambda: spare.systemctl("is-active", "tortie-close") == "active")
    assert tables(spare).split("\n")[:2] == ["table inet tortie-early", "table arp tortie-early"]
    assert spare.ok("sysctl", "-n", "net.ipv4.ip_forward") == "1\n"
    wait("it waits", lambda: "waiting for the datastore" in spare.log("tortie-agent"))
    assert spare.systemctl("is-active", "tortie-agent") == "active"
    status = spare.systemctl("show", "-p", "StatusText", "--value", "tortie-agent")
    assert status == "waiting for the datastore"
    assert (health(spare, "liveness"), health(spare, "readiness")) == (200, 503)
    # A firewall that starts anew, and an agent that does.
    spare.run("nft", "flush", "ruleset")
    spare.ok("systemctl", "restart", "tortie-agent")
    wait("closed again", lambda: "tortie-early" in tables(spare))
    # The datastore is there: early rules go when the agent's come.
    spare.write("/etc/calico/calico.env", "DATASTORE_TYPE=embedded\nFELIX_HEALTHENABLED=true\n")
    spare.ok("systemctl", "restart", "tortie-agent")
    wait("readiness", lambda: ready(spare))
    assert tables(spare) == "table inet tortie\ntable arp tortie\n"
