"""The managed plugin of swarm mode, as a directory for `docker plugin create`.

Swarm mode takes no plugin but such a one, on every node. Its content does nothing: it makes a
symbolic link where Docker looks for the plugin's socket, to the socket of the service on the
host, and sleeps. So it needs no capability, no network and no mount but the host's /usr, from
which it has a shell; and when the service restarts, so does nothing else.

Source: Docker Engine plugin configuration, version 1.
"""

import json
import os
import shlex
from pathlib import Path
from typing import Any

from tortie.lib.errors import AlreadyExists, Unavailable

SOCKET = "tortie.sock"
PLUGIN_SOCKETS = "/run/docker/plugins"
"""Where a managed plugin has its socket, inside; Docker mounts a directory of its own there."""

_DIRECTORIES = ("usr", "proc", "sys", "dev", "etc", "tmp", "run/docker/plugins")
_MERGED = ("bin", "lib", "lib64", "sbin")


def swarm_socket(run_directory: Path) -> Path:
    return run_directory / "docker" / "swarm.sock"


def write(directory: Path, socket: Path) -> None:
    """
    Raises:
        AlreadyExists: something is there already.
        Unavailable: it cannot be written.
    """
    try:
        directory.mkdir(parents=True)
        root = directory / "rootfs"
        for name in _DIRECTORIES:
            (root / name).mkdir(parents=True)
        for name in _MERGED:
            if os.path.isdir(f"/usr/{name}"):
                (root / name).symlink_to(f"usr/{name}")
        text = json.dumps(configuration(socket), indent=2)
        (directory / "config.json").write_text(text + "\n")
    except FileExistsError:
        raise AlreadyExists(f"{directory} is there already; name another one") from None
    except OSError as error:
        raise Unavailable(f"{directory}: {error.strerror}") from error


def configuration(socket: Path) -> dict[str, Any]:
    link = f"{PLUGIN_SOCKETS}/{SOCKET}"
    target = shlex.quote(os.fspath(socket))
    return {
        "description": "Routed networks with policy (the service is on the host)",
        "documentation": "",
        "entrypoint": ["/bin/sh", "-c", f"ln -sfn {target} {link} && exec sleep infinity"],
        "workdir": "/",
        "interface": {
            "types": ["docker.networkdriver/1.0", "docker.ipamdriver/1.0"],
            "socket": SOCKET,
        },
        "network": {"type": "none"},
        "linux": {"capabilities": [], "allowAllDevices": False, "devices": None},
        "mounts": [
            {
                "name": "usr",
                "description": "a shell and sleep",
                "type": "bind",
                "source": "/usr",
                "destination": "/usr",
                "options": ["rbind", "ro"],
                "settable": None,
            }
        ],
        "env": [],
        "ipchost": False,
        "pidhost": False,
        "propagatedMount": "",
    }
