"""`python -m benchmarks [NAME …]`: run them, print a table, then JSON."""

import sys
from collections.abc import Callable, Iterator

from benchmarks import (
    bgp,
    calc,
    cni,
    commands,
    dataplane,
    docker,
    elements,
    enforcement,
    explain,
    idle,
    kube,
    kube_nodes,
    memory,
    neutron,
    openstack,
    paths,
    repair,
    startup,
    traffic,
)
from benchmarks.results import Result, document, table

BENCHMARKS: dict[str, Callable[[], Iterator[Result]]] = {
    "bgp": bgp.run,
    "calc": calc.run,
    "dataplane": dataplane.run,
    "cni": cni.run,
    "commands": commands.run,
    "docker": docker.run,
    "elements": elements.run,
    "enforcement": enforcement.run,
    "explain": explain.run,
    "idle": idle.run,
    "kube": kube.run,
    "kube-nodes": kube_nodes.run,
    "memory": memory.run,
    "neutron": neutron.run,
    "openstack": openstack.run,
    "paths": paths.run,
    "repair": repair.run,
    "startup": startup.run,
    "traffic": traffic.run,
}


def main(names: list[str]) -> int:
    unknown = set(names) - BENCHMARKS.keys()
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    results: list[Result] = []
    for name in names or BENCHMARKS:
        print(f"{name} …", file=sys.stderr, flush=True)
        results.extend(BENCHMARKS[name]())
    print(table(results))
    print()
    print(document(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
