"""The second line on a kernel without owner tables: `skbedit`, as the agent asks for it."""

from pathlib import Path

from tests.soak.guest import run_in_guest

_PROGRAM = """
from tortie.dataplane.driver.guard import GuardDriver
from tortie.dataplane.driver.link import Links
from tortie.dataplane.driver.sysctl import SysctlDriver
from tortie.dataplane.driver.unseen_rule import UnseenRuleDriver
from tortie.dataplane.settings import Settings
from tortie.kernel.rtnl.connection import Rtnl
settings = Settings(host="guest", guard_links=True)
rtnl = Rtnl.open()
links = Links(SysctlDriver(), settings)
guards, rule = GuardDriver(rtnl, links, settings), UnseenRuleDriver(rtnl, settings)
for name in links.observe_all(rtnl.links()):
    guards.on_link(name)
rule.apply()
print("refused", guards.apply(), "ways", sorted(guards._filters))
"""


_PINGS = """
import sys
from tests.netns.dataplane_host import pings
for to in ("10.9.0.1", "fd00:9::1"):
    print(sys.argv[1], to, "yes" if pings(to) else "no")
"""


def test_what_comes_in_is_marked_and_goes_nowhere_until_it_is_cleared(tmp_path: Path) -> None:
    """A workload reaches its host, then no more; and again while something takes the mark off:
    there is no nftables for these families in that kernel, so filters behind and before ours."""
    said = run_in_guest(
        tmp_path,
        f"""mkdir -p /run/netns; ip netns add w
        ip link add cali1 type veth peer name eth0 netns w
        ip addr add 10.9.0.1/24 dev cali1; ip addr add fd00:9::1/64 dev cali1 nodad
        ip link set cali1 up; ip -n w link set eth0 up
        ip -n w addr add 10.9.0.2/24 dev eth0; ip -n w addr add fd00:9::2/64 dev eth0 nodad
        tries() {{
            ip netns exec w $PYTHON - $1 <<'PROGRAM'
{_PINGS}
PROGRAM
        }}
        edit="protocol all matchall action skbedit mark"
        tries before
        $PYTHON - <<'PROGRAM'
{_PROGRAM}
PROGRAM
        tc filter show dev cali1 ingress; ip rule
        tries guarded
        tc filter add dev cali1 ingress pref 5 $edit 0x0/0xffff0000 continue
        tc filter add dev cali1 egress pref 2 $edit 0x80000/0x80000 continue
        tries cleared
        tc filter del dev cali1 ingress pref 5
        tries flushed""",
    )
    assert "refused [] ways ['from', 'to']" in said, said
    for to in ("10.9.0.1", "fd00:9::1"):
        for when, reached in (
            ("before", "yes"), ("guarded", "no"), ("cleared", "yes"), ("flushed", "no"),
        ):  # fmt: skip
            assert f"{when} {to} {reached}" in said, said
