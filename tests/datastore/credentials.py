"""Certificates and users for a real etcd."""

import subprocess
from pathlib import Path

from tests.datastore.etcd_server import EtcdServer

from tortie.datastore.etcd import TLSFiles


def etcdctl(server: EtcdServer, *command: str) -> str:
    """What it printed."""
    done = subprocess.run(
        ["etcdctl", f"--endpoints={server.endpoint}", *command],
        check=True,
        capture_output=True,
        env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/usr/local/bin"},
    )
    return done.stdout.decode()


def openssl(*command: str) -> None:
    subprocess.run(["openssl", *command], check=True, capture_output=True)


def make_authority(folder: Path, name: str, *, days: int = 2) -> Path:
    openssl(
        *["req", "-x509", "-days", str(days), "-nodes", "-newkey", "ec", "-pkeyopt"],
        "ec_paramgen_curve:prime256v1",
        *f"-subj /CN={name} -keyout {folder}/{name}.key -out {folder}/{name}.pem".split(),
    )
    return folder / f"{name}.pem"


def make_certificate(
    folder: Path, authority: Path, name: str, *hosts: str, days: int = 2
) -> TLSFiles:
    """A key and a certificate for 127.0.0.1 and `hosts`, good for servers and clients."""
    stem = folder / name
    openssl(
        *["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"],
        *f"-subj /CN={name} -keyout {stem}.key -out {stem}.csr".split(),
    )
    extensions = folder / "extensions"
    names = ",".join(["IP:127.0.0.1", *(f"DNS:{host}" for host in hosts)])
    extensions.write_text(f"subjectAltName={names}\nextendedKeyUsage=serverAuth,clientAuth\n")
    openssl(
        *f"x509 -req -days {days} -in {stem}.csr -CA {authority} -CAkey".split(),
        *f"{authority.with_suffix('.key')} -CAcreateserial".split(),
        *f"-extfile {extensions} -out {stem}.pem".split(),
    )
    return TLSFiles(authority, Path(f"{stem}.pem"), Path(f"{stem}.key"))
