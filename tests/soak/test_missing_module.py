"""K21: a kernel that lacks what we need says so before anything is relied on."""

from pathlib import Path

from tests.soak.guest import run_in_guest


def test_k21_a_kernel_without_what_we_need(tmp_path: Path) -> None:
    """checksystem names it and fails; an agent's apply fails, and touches nobody's rules."""
    said = run_in_guest(
        tmp_path,
        """nft list ruleset > /run/before
        $BIN/tortie node checksystem; echo "code $?"
        $PYTHON - <<'PROGRAM'
import asyncio
from tortie.dataplane.dataplane import Dataplane
from tortie.dataplane.settings import Settings
from tortie.kernel.conntrack import Conntrack
from tortie.kernel.nft.connection import Nft
from tortie.kernel.rtnl.connection import Rtnl
from tortie.lib.errors import TortieError
dataplane = Dataplane(Settings(host="guest"), Nft.open(), Rtnl.open(), Conntrack.open())
try:
    asyncio.run(dataplane.apply())
except TortieError as error:
    print("apply:", error, "in sync:", dataplane.in_sync)
print("forwarding", open("/proc/sys/net/ipv4/ip_forward").read())
PROGRAM
        nft list ruleset | cmp - /run/before && echo unchanged""",
    )
    assert "code 1" in said, said
    assert "nftables for both families" in said
    line = next(one for one in said.splitlines() if one.startswith("nftables for both families"))
    assert "FAIL" in line, said
    assert "apply: " in said, said
    assert "in sync: False" in said
    assert "forwarding 0" in said, "nothing is opened where nothing can be enforced"
    assert "unchanged" in said
