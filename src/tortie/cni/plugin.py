"""The CNI plugin: hands a runtime's request to the agent, and prints its answer.

A runtime starts this once for each container, so it is a file of its own (`tortie cni install`
copies it), run as `python3 -I -S`, and imports only what is built into the interpreter until
something goes wrong. It parses no JSON on its way: the request is quoted whole, and the answer
is cut out of one of three envelopes, told apart by how they begin:

    {"result":…}      printed; exit 0
    {"error":…}       CNI's error object, printed; exit 1
    {"delegate":…}    run that IPAM plugin of CNI_PATH, perhaps with another configuration, and
                      ask again with what it said

When no agent listens, ADD fails with code 11 (try again later), and DEL writes what is to be
removed into a directory that the agent works off when it is back.

Where there is Perl, which starts faster, `plugin.pl` does what is usual, and this the rest.

What it is depends on the name it is started by: `tortie-ipam` and `calico-ipam` are IPAM.
"""

import _socket
import posix
import sys
from posix import environ, read, write

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SOCKET = "/run/tortie/attach.sock"
SPOOL = "/var/lib/tortie/cni"
RELEASE = "0"
TIMEOUT_SECONDS = 110.0
"""Below kubelet's two minutes, above what a request may take in the agent and its undoing."""

VERSIONS = '["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]'
NEWEST = "1.1.0"
NAMES = (
    b"CNI_COMMAND", b"CNI_CONTAINERID", b"CNI_NETNS", b"CNI_IFNAME", b"CNI_ARGS", b"CNI_PATH",
    b"CNI_NETNS_OVERRIDE",
)  # fmt: skip
REQUEST_MAX_BYTES = 1 << 20
"""As in `attach/requests.py`."""

ESCAPES = {code: f"\\u{code:04x}" for code in range(32)}
ESCAPES |= {ord(short): f"\\{name}" for short, name in zip('\n\t"\\', 'nt"\\', strict=True)}
"""What must not stand in a JSON string (RFC 8259, section 7)."""

TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50
IO_FAILURE = 5
BAD_ENVIRONMENT = 4
BAD_CONFIG = 6


class Away(Exception):
    """No agent, or no answer from it."""


def main() -> int:
    command = environ.get(b"CNI_COMMAND", b"").decode(errors="replace")
    if not command or len(sys.argv) > 1:
        return about()
    if command == "VERSION":
        return show(f'{{"cniVersion":"{NEWEST}","supportedVersions":{VERSIONS}}}')
    config = standard_input()
    line = request(command, config)
    if len(line.encode()) > REQUEST_MAX_BYTES:
        limit = f"more than {REQUEST_MAX_BYTES} bytes"
        return fail("", BAD_CONFIG, f"configuration and environment have {limit} as JSON")
    if (away := environ.get(b"TORTIE_AGENT_AWAY")) is not None:  # plugin.pl has waited for it
        return without_agent(command, config, away.decode(errors="replace"))
    try:
        answer = ask(line)
    except Away as error:
        return without_agent(command, config, str(error))
    if answer.startswith('{"delegate":'):
        return delegated(command, config, answer)
    return finish(answer, config)


def request(command: str, config: str, more: str = "") -> str:
    """One line of the attach protocol, `attach/requests.py`."""
    pairs = ",".join(
        f"{quoted(name.decode())}:{quoted(environ[name].decode(errors='replace'))}"
        for name in NAMES
        if name in environ and name != b"CNI_COMMAND"
    )
    # The agent may not see the runtime's mounts; it finds the namespace through us.
    try:
        handle = posix.open(environ.get(b"CNI_NETNS", b""), posix.O_PATH | posix.O_CLOEXEC)
    except OSError:
        handle = -1
    plugin = sys.argv[0].rpartition("/")[2].encode(errors="replace").decode()
    return (
        f'{{"call":"cni","plugin":{quoted(plugin)},"command":{quoted(command)},'
        f'"environment":{{{pairs}}},"handle":{handle},"config":{quoted(config)}{more}}}\n'
    )


def quoted(text: str) -> str:
    """As JSON; its own module is a library to load, which takes as long as the whole exchange."""
    return f'"{text.translate(ESCAPES)}"'


def ask(line: str) -> str:
    """The agent's answer, one line.

    Raises:
        Away: nobody listens there, or there is no answer in time.
    """
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(TIMEOUT_SECONDS)
        sock.connect(SOCKET)
        sock.sendall(line.encode())
        found = b""
        while not found.endswith(b"\n"):
            part = sock.recv(65536)
            if not part:
                raise Away(f"the agent at {SOCKET} closed the connection")
            found += part
        return found.decode()
    except OSError as error:
        raise Away(f"no answer from the agent at {SOCKET}: {error.strerror or error}") from None
    finally:
        sock.close()


def standard_input() -> str:
    parts = []
    while part := read(0, 65536):
        parts.append(part)
    return b"".join(parts).decode(errors="replace")


def show(text: str) -> int:
    data = (text + "\n").encode()
    while data:
        data = data[write(1, data) :]
    return 0


def finish(answer: str, config: str) -> int:
    answer = answer.rstrip("\n")
    if answer.startswith('{"result":'):
        text = answer[len('{"result":') : -1]
        return show(text) if text != "null" else 0
    if answer.startswith('{"error":{"kind":'):  # not CNI's: the agent did not get as far
        import json

        error = json.loads(answer)["error"]
        code = TRY_AGAIN_LATER if error["retryable"] else BAD_CONFIG
        return fail(config, code, error["message"])
    show(answer[len('{"error":') : -1])
    return 1


def fail(config: str, code: int, message: str, details: str = "") -> int:
    """Print CNI's error object; returns the exit code."""
    import json

    version = (parsed(config) or {}).get("cniVersion")
    known = isinstance(version, str) and version in VERSIONS
    error = {"cniVersion": version if known else "0.2.0", "code": code, "msg": message}
    show(json.dumps({**error, "details": details} if details else error))
    return 1


def parsed(config: str) -> "dict[str, Any] | None":
    import json

    try:
        found = json.loads(config)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def about() -> int:
    """Started by hand."""
    import json

    if "-v" in sys.argv:
        return show(RELEASE)
    if "-t" in sys.argv:
        try:
            answer = json.loads(ask(request("STATUS", '{"cniVersion":"1.1.0","name":"test"}')))
        except Away as error:
            answer = {"error": {"msg": str(error)}}
        if "error" in answer:
            sys.stderr.write(f"{answer['error']['msg']}\n")
            return 1
        return show("the agent is ready")
    sys.stderr.write(
        f"tortie CNI plugin {RELEASE}, for versions {VERSIONS}; started by container runtimes.\n"
        "-v: its version; -t: is the agent ready?\n"
    )
    return 0 if {"-h", "--help"} & set(sys.argv) else 1


def without_agent(command: str, config: str, reason: str) -> int:
    """DEL is written down and succeeds; the rest has to be tried again."""
    started = "start it with `tortie agent`; the request may be repeated as it is"
    if command == "STATUS":
        return fail(config, NOT_AVAILABLE, f"{reason}; start it with `tortie agent`")
    if command != "DEL":
        return fail(config, TRY_AGAIN_LATER, reason, started)
    document = parsed(config)
    if document is None:
        return fail(config, BAD_CONFIG, "the configuration is not a JSON object")
    if not environ.get(b"CNI_CONTAINERID"):
        return fail(config, BAD_ENVIRONMENT, "CNI_CONTAINERID is missing")
    line = request(command, config)
    try:
        path = spool(line)
    except OSError as error:
        return fail(config, IO_FAILURE, f"{reason}; and {SPOOL}: {error.strerror}", started)
    try:  # it may have come back before the file was there to be seen
        answer = ask(line)
    except Away:
        ipam = document.get("ipam")  # whoever has the address frees it now: the agent will not
        return told("DEL", config, ipam.get("type") if isinstance(ipam, dict) else None)
    import os

    os.unlink(path)
    if answer.startswith('{"delegate":'):
        return delegated(command, config, answer)
    return finish(answer, config)


def spool(line: str) -> str:
    """Write a request where the agent finds it; on disk when this returns."""
    import hashlib
    import os

    os.makedirs(SPOOL, mode=0o700, exist_ok=True)
    name = hashlib.sha256(line.encode()).hexdigest()[:32]
    path = f"{SPOOL}/{name}.json"
    descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        data = line.encode()
        while data:  # a file system that fills up takes less before it refuses
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(f"{path}.new", path)
    directory = os.open(SPOOL, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return path


DELEGATES = ("host-local", "static", "dhcp")
"""The only IPAM plugins that are ever run, whatever a configuration names (CVE-2021-20206)."""
AFTER_US = ("DEL", "GC", "STATUS")
"""What they hear of when the agent has done its part; of the rest, before."""


def run_delegate(command: str, config: str, name: object) -> "tuple[int, str]":
    """Exit code and output of another IPAM plugin; (0, "") where it is none of `DELEGATES`."""
    if name not in DELEGATES:
        return 0, ""
    import os
    import subprocess

    if command in AFTER_US:
        config = releasing(config)
    for directory in environ.get(b"CNI_PATH", b"").decode().split(":"):
        path = os.path.join(directory, str(name))
        if directory.startswith("/") and os.access(path, os.X_OK):
            done = subprocess.run(  # noqa: S603 - of a fixed list
                [path],
                input=config,
                env={**os.environ, "CNI_COMMAND": command},
                stdout=subprocess.PIPE,
                text=True,
                check=False,
            )
            return done.returncode, done.stdout
    error = f"IPAM plugin {name} is in none of the directories of CNI_PATH"
    return 1, f'{{"cniVersion":"0.2.0","code":7,"msg":{quoted(error)}}}'


def told(command: str, config: str, name: object) -> int:
    """Another IPAM plugin does its part; its error, if any, is ours."""
    code, output = run_delegate(command, config, name)
    if code:
        show(output.strip())
    return code


def releasing(config: str) -> str:
    """host-local finds what to release by container; a subnet has only to be one."""
    if "usepodcidr" not in config.lower():
        return config
    import json

    any_of = {"usepodcidr": "0.0.0.0/0", "usepodcidripv6": "::/0"}

    def replaced(found: "dict[str, Any]") -> "dict[str, Any]":
        subnet = found.get("subnet")
        if isinstance(subnet, str):
            found["subnet"] = any_of.get(subnet.lower(), subnet)
        return found

    return json.dumps(json.loads(config, object_hook=replaced))


def delegated(command: str, config: str, answer: str) -> int:
    """Addresses come from another IPAM plugin: run it, and tell the agent what it said."""
    import json

    said = json.loads(answer)
    name, own = said["delegate"], said.get("config", config)
    if command in AFTER_US:
        return told(command, own, name)
    code, output = run_delegate(command, own, name)
    if code:
        show(output.strip())
        return code
    try:
        more = ask(request(command, config, f',"delegated":{quoted(output)}'))
    except Away as error:
        if command == "ADD":
            run_delegate("DEL", config, name)
        return without_agent(command, config, str(error))
    status = finish(more, config)
    if status and command == "ADD":
        run_delegate("DEL", config, name)
    return status


if __name__ == "__main__":
    # The interpreter takes a millisecond to tidy itself up; nothing here is buffered.
    posix._exit(main())
