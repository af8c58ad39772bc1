"""Giving up privileges, on the real kernel."""

import os
import subprocess
import sys

from tortie.kernel.capabilities import Capability, of_process

CHILD = """
import os, sys
from tortie.kernel.capabilities import Capability, keep, of_process
keep((Capability.NET_ADMIN,))
print(sorted(of_process()))
{then}
"""


def run(then: str, *before: str) -> str:
    child = CHILD.format(then=then)
    command = [*before, sys.executable, "-c", child]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


AGAIN = """
sys.stdout.flush()
os.execv(sys.executable, [sys.executable, "-c",
    "from tortie.kernel.capabilities import *; print(len(of_process()), no_new_privileges())"])
"""


def test_what_is_not_kept_is_gone() -> None:
    assert Capability.SYS_ADMIN in of_process(os.getpid()), "else nothing is shown"
    assert run("") == f"[{int(Capability.NET_ADMIN)}]\n"


def test_gone_is_gone() -> None:
    then = "import ctypes; print(ctypes.CDLL(None).unshare(0x40000000))"
    assert run(then).splitlines()[1] == "-1"


def test_root_gets_it_back_with_a_new_program() -> None:
    count, flag = run(AGAIN).splitlines()[1].split()
    assert int(count) > 1
    assert flag == "False"


def test_not_where_there_are_no_new_privileges() -> None:
    """So there the agent leaves its restart to whoever supervises it."""
    assert run(AGAIN, "setpriv", "--no-new-privs").splitlines()[1] == "1 True"
