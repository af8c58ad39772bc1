"""The systemd units of a host, as a table. Pure: `node_install` writes them.

    tortie-keeper  the socket that owns our nftables tables; before the network
    tortie-close   workload interfaces closed, until the agent knows policy; before the network
    tortie-agent   the agent, by way of `tortie node run`
    tortie-bird    BIRD; started by tortie-bird.path when the agent has written its configuration
    tortie-docker  networks for Docker; started with Docker, where there is one
    tortie-dhcp    addresses for virtual machines, where its settings are
    tortie-kube-controllers  where Kubernetes' API is to be followed: where its kubeconfig is

A further daemon of a host is one more row: its name, its text, the
target that starts it at boot, and whether an upgrade restarts it.

What a unit may do is what it needs: each setting says so in the unit itself,
where `systemctl cat` shows it to who wonders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ENVIRONMENT_FILE = "/etc/calico/calico.env"
RUN_DIRECTORY = "/run/tortie"
DHCP_ENVIRONMENT_FILE = "/etc/calico/dhcp.env"
KUBE_CONTROLLERS_CONFIG = "/etc/calico/kube-controllers.kubeconfig"


class Program(NamedTuple):
    """What the units start, and where it is."""

    python: str
    """The interpreter, with its environment."""
    keeper: str
    """The file of the keeper."""
    bird: str
    directories: tuple[str, ...]
    """Where its files are: they must be mounted, and must not be hidden from it."""

    @property
    def tortie(self) -> str:
        """The command line; -P: nothing is imported from where it happens to be started."""
        return f"{self.python} -P -m tortie"


class Unit(NamedTuple):
    name: str
    text: Callable[[Program], str]
    wanted_by: str = ""
    """What starts it, a target or a service; empty: other units of the table do."""
    restarts: bool = False
    """By an upgrade. What holds packets up must not be."""


def _keeper(program: Program) -> str:
    return f"""\
[Unit]
Description=Tortie: keeps the socket that owns the nftables tables
# Before the network, and to the very end: while it lives, no `nft flush ruleset`
# of others opens what is closed.
DefaultDependencies=no
{_mounts(program)}
After=local-fs.target
Before=network-pre.target
IgnoreOnIsolate=yes
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={program.python} -I -S {program.keeper} {RUN_DIRECTORY}
Restart=always
RestartSec=100ms
{_run_directory()}
OOMScoreAdjust=-900
# A netlink socket that changes nftables, and nothing else.
CapabilityBoundingSet=CAP_NET_ADMIN
RestrictAddressFamilies=AF_UNIX AF_NETLINK
RestrictNamespaces=yes
PrivateDevices=yes
{_sandbox(program)}
"""


def _close(program: Program) -> str:
    return f"""\
[Unit]
Description=Tortie: workload interfaces closed until their policy is known
DefaultDependencies=no
{_mounts(program)}
Wants=tortie-keeper.service network-pre.target
# A firewall that starts with `flush ruleset` comes first; it matters only where
# the kernel has no owned tables (before Linux 6.9).
After=local-fs.target tortie-keeper.service nftables.service
Before=network-pre.target tortie-agent.service
IgnoreOnIsolate=yes

[Service]
Type=oneshot
RemainAfterExit=yes
EnvironmentFile=-{ENVIRONMENT_FILE}
# --forward: Docker, finding forwarding off, switches it on and drops what others forward.
ExecStart={program.tortie} node close --forward
{_run_directory()}
StateDirectory=tortie
StateDirectoryMode=0755
# It changes nftables and net sysctls.
CapabilityBoundingSet=CAP_NET_ADMIN
RestrictAddressFamilies=AF_UNIX AF_NETLINK
RestrictNamespaces=yes
PrivateDevices=yes
{_sandbox(program)}
"""


def _agent(program: Program) -> str:
    return f"""\
[Unit]
Description=Tortie: the agent, routes and policy of this host's workloads
{_mounts(program)}
Wants=network-online.target tortie-keeper.service tortie-close.service tortie-bird.path
After=network-online.target tortie-keeper.service tortie-close.service
# It never gives up: while it is away, what it decided last stays in force.
StartLimitIntervalSec=0

[Service]
Type=notify
# Calico's names: ETCD_ENDPOINTS, NODENAME, IP, AS, FELIX_*, ...
Environment=WAIT_FOR_DATASTORE=true TORTIE_BIRD=external
EnvironmentFile=-{ENVIRONMENT_FILE}
ExecStart={program.tortie} node run
Restart=always
RestartSec=1s
# Its loop has hung: another one takes over, and packets do not notice.
WatchdogSec=3min
# The helper that enters namespaces ends with it.
KillMode=mixed
TimeoutStopSec=10s
{_run_directory()}
# tortie: journals of attached workloads. calico: nodename, mtu.
StateDirectory=tortie calico
StateDirectoryMode=0755
OOMScoreAdjust=-900
LimitNOFILE=65536
# A core dump would hold the datastore's keys.
LimitCORE=0
# NET_ADMIN: links, routes, nftables, net sysctls; the agent keeps this one alone.
# SYS_ADMIN and SYS_PTRACE: its helper enters namespaces of containers, some by
# /proc/PID/ns/net. Root's power over others' files is not among them.
CapabilityBoundingSet=CAP_NET_ADMIN CAP_SYS_ADMIN CAP_SYS_PTRACE
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6
# Network namespaces are entered; no other kind, and none is made for gain.
RestrictNamespaces=net
# Interfaces of virtual machines.
DevicePolicy=closed
DeviceAllow=/dev/net/tun rw
{_sandbox(program)}
"""


def _bird(program: Program) -> str:
    bird = f"{RUN_DIRECTORY}/bird"
    return f"""\
[Unit]
Description=Tortie: BIRD, routes by BGP
After=network-online.target tortie-agent.service
# The agent writes it where routes come by BGP, and takes it away where they do not.
ConditionPathExists={bird}/bird.conf
StartLimitIntervalSec=0

[Service]
Type=exec
# RECOVER=-R once it has run since boot: routes of the one before it stay in the
# kernel until the peers have told theirs again.
EnvironmentFile=-{bird}/start.env
ExecStart={program.bird} -f -c {bird}/bird.conf -s {bird}/bird.ctl -P {bird}/bird.pid $RECOVER
Restart=always
RestartSec=1s
# Told to end it would withdraw its routes; killed, its peers wait for the next
# one (graceful restart) and packets flow meanwhile. The agent withdraws them
# when routing moves away from BGP.
KillSignal=SIGKILL
{_run_directory()}
OOMScoreAdjust=-900
# Routes and TCP passwords; port 179; raw sockets of BFD.
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_NET_RAW
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6
RestrictNamespaces=yes
PrivateDevices=yes
{_sandbox(program)}
"""


def _bird_path(_: Program) -> str:
    return f"""\
[Unit]
Description=Tortie: starts BIRD when the agent has written its configuration

[Path]
PathExists={RUN_DIRECTORY}/bird/bird.conf
Unit=tortie-bird.service
"""


def _docker(program: Program) -> str:
    return f"""\
[Unit]
Description=Tortie: networks for Docker
{_mounts(program)}
After=tortie-agent.service
# Docker asks its plugins about the networks that it finds when it starts.
Before=docker.service
StartLimitIntervalSec=0

[Service]
# Ready when its sockets are there, whatever else is still to come.
Type=notify
EnvironmentFile=-{ENVIRONMENT_FILE}
ExecStart={program.tortie} docker serve
Restart=always
RestartSec=1s
# The socket that Docker finds us by is in docker/plugins.
RuntimeDirectory=tortie docker/plugins
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes
StateDirectory=tortie
StateDirectoryMode=0755
# The agent attaches containers; what is left is routes inside of them, and rules
# for Docker's chain DOCKER-USER (NET_RAW: the old iptables).
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_SYS_ADMIN CAP_SYS_PTRACE
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6
RestrictNamespaces=net
PrivateDevices=yes
{_sandbox(program)}
"""


def _dhcp(program: Program) -> str:
    return f"""\
[Unit]
Description=Tortie: addresses for this host's virtual machines, by DHCP
{_mounts(program)}
# It may be empty; hosts without it have no guests to serve. OPTIONS= are of `tortie dhcp serve`.
ConditionPathExists={DHCP_ENVIRONMENT_FILE}
Wants=network-online.target
After=network-online.target tortie-agent.service
StartLimitIntervalSec=0

[Service]
Type=notify
EnvironmentFile=-{ENVIRONMENT_FILE}
EnvironmentFile=-{DHCP_ENVIRONMENT_FILE}
ExecStart={program.tortie} dhcp serve $OPTIONS
Restart=always
RestartSec=1s
WatchdogSec=3min
# It ends its dnsmasqs itself; what is left when it has crashed, systemd ends.
KillMode=mixed
TimeoutStopSec=10s
{_run_directory()}
StateDirectory=tortie
StateDirectoryMode=0755
# A core dump would hold the datastore's keys.
LimitCORE=0
# NET_ADMIN, NET_RAW: addresses of links; dnsmasq's neighbours and ICMPv6. NET_BIND_SERVICE: ports
# 67 and 547. SETUID, SETGID: dnsmasq gives root up. KILL: to end it then.
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SETUID CAP_SETGID CAP_KILL
RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6
RestrictNamespaces=yes
PrivateDevices=yes
{_sandbox(program)}
"""


def _kube_controllers(program: Program) -> str:
    return f"""\
[Unit]
Description=Tortie: the datastore kept in step with the Kubernetes API
{_mounts(program)}
# Made by `tortie kube kubeconfig controllers`; hosts without it have nothing to do here. Where
# several have it, one works and the others stand by.
ConditionPathExists={KUBE_CONTROLLERS_CONFIG}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
# Calico's names: ETCD_ENDPOINTS, ENABLED_CONTROLLERS, ...
Environment=KUBECONFIG={KUBE_CONTROLLERS_CONFIG}
EnvironmentFile=-{ENVIRONMENT_FILE}
ExecStart={program.tortie} kube controllers
Restart=always
RestartSec=5s
# A core dump would hold keys and tokens.
LimitCORE=0
# It speaks HTTP and gRPC, and touches nothing of this host.
CapabilityBoundingSet=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
PrivateDevices=yes
ProtectKernelTunables=yes
{_sandbox(program)}
"""


UNITS = (
    Unit("tortie-keeper.service", _keeper),
    Unit("tortie-close.service", _close, wanted_by="sysinit.target"),
    Unit("tortie-agent.service", _agent, wanted_by="multi-user.target", restarts=True),
    Unit("tortie-bird.service", _bird),
    Unit("tortie-bird.path", _bird_path, wanted_by="multi-user.target"),
    Unit("tortie-docker.service", _docker, wanted_by="docker.service", restarts=True),
    Unit("tortie-dhcp.service", _dhcp, wanted_by="multi-user.target", restarts=True),
    Unit(
        "tortie-kube-controllers.service",
        _kube_controllers,
        wanted_by="multi-user.target",
        restarts=True,
    ),
)
"""In the order in which they are started."""


def unit_file(unit: Unit, program: Program) -> str:
    text = f"# By `tortie node install`.\n{unit.text(program)}"
    return f"{text}\n[Install]\nWantedBy={unit.wanted_by}\n" if unit.wanted_by else text


def _mounts(program: Program) -> str:
    return f"RequiresMountsFor={' '.join(program.directories)}"


def _run_directory() -> str:
    return """\
# Sockets that outlive whoever made them: kept while any of the units comes and goes.
RuntimeDirectory=tortie
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes"""


def _sandbox(program: Program) -> str:
    """What none of the units needs."""
    return f"""\
NoNewPrivileges=yes
# /proc/sys stays writable: net sysctls are part of the work.
ProtectSystem=strict
ProtectHome={_home(program)}
PrivateTmp={_temporary(program)}
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
UMask=0077"""


def _home(program: Program) -> str:
    """Hidden, unless the program itself lives there."""
    return "read-only" if _below(program, "/home", "/root", "/run/user") else "yes"


def _temporary(program: Program) -> str:
    return "no" if _below(program, "/tmp", "/var/tmp") else "yes"  # noqa: S108 - names, not files


def _below(program: Program, *places: str) -> bool:
    return any(
        Path(directory).is_relative_to(place)
        for directory in program.directories
        for place in places
    )
