"""The agent's metrics: put together when Prometheus asks, from what each part counts anyway.

Names that begin with `felix_` mean what they mean in Calico, so that its dashboards and alerts
work; where Felix has a summary, ours has its sum and count. What Felix has for machinery that is
not here (iptables, ipset(8), BPF) is left out. The others are `tortie_`.

Source: Calico, reference "Monitoring Felix with Prometheus".
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tortie.agent import process_metrics
from tortie.agent.flow_log import FlowLog
from tortie.agent.http import Response
from tortie.agent.ingest import AgentInbox, Ingest
from tortie.agent.loop import Loop
from tortie.agent.status import Progress
from tortie.calc.graph import Graph
from tortie.dataplane.dataplane import Dataplane
from tortie.dataplane.driver.nftables import INET
from tortie.dataplane.manager.counts import Counts, RuleCount
from tortie.datastore.syncer import Status, Syncer
from tortie.kernel.conntrack import Counted
from tortie.kernel.nft import counters
from tortie.lib.metrics import (
    CONTENT_TYPE,
    Family,
    Histogram,
    Kind,
    Sample,
    counter,
    exposition,
    gauge,
    labelled,
)
from tortie.model.names import workload_of_endpoint

_RESYNC_STATE = {Status.CONNECTING: 1, Status.RESYNC: 2, Status.IN_SYNC: 3}
"""As Felix numbers them."""


class Parts(NamedTuple):
    """Whose numbers are told."""

    host: str
    graph: Graph
    dataplane: Dataplane
    loop: Loop
    inbox: AgentInbox
    ingest: Ingest
    syncer: Syncer
    progress: Progress
    flow_log: FlowLog | None
    lag: Histogram
    """Of the event loop."""


class Metrics:
    """
    Args:
        interpreter: tell of Python, where Felix would tell of Go.
        process: tell of this process, as every Prometheus client does.
    """

    def __init__(self, parts: Parts, *, interpreter: bool = True, process: bool = True) -> None:
        self._parts = parts
        self._interpreter = interpreter
        self._process = process

    async def answer(self, path: str) -> Response:
        """`/metrics`, and nothing else."""
        if path != "/metrics":
            return Response("404 Not Found", "try /metrics\n")
        # In a thread: a listing of ten thousand rules would hold up the loop.
        by_handle = await asyncio.to_thread(counters.read, INET)
        return Response("200 OK", exposition(self.families(by_handle)), CONTENT_TYPE)

    def families(self, by_handle: Mapping[int, Counted]) -> Iterator[Family]:
        """
        Args:
            by_handle: what the rules of `INET` have counted.
        """
        yield from self._cluster()
        yield from self._calculation()
        yield from self._work()
        yield from self._kernel()
        yield from self._flows()
        yield from _rules(self._parts.dataplane.counts(by_handle))
        yield from self._endpoints()
        if self._interpreter:
            yield from process_metrics.interpreter()
        if self._process:
            yield from process_metrics.process()

    def _cluster(self) -> Iterator[Family]:
        parts = self._parts
        yield gauge("felix_host", "This host's name, as a label.", 1, host=parts.host)
        for what, count in parts.graph.cluster()._asdict().items():
            words = what.replace("_", " ")
            yield gauge(f"felix_cluster_num_{what}", f"Number of {words} in the cluster.", count)

    def _calculation(self) -> Iterator[Family]:
        parts = self._parts
        found = parts.graph.statistics()
        timings = parts.loop.timings
        yield gauge(
            "felix_active_local_endpoints",
            "Workload and host endpoints of this host.",
            found.endpoints.endpoint_count + found.host_endpoint_count,
        )
        yield gauge(
            "felix_active_local_policies",
            "Policies and profiles that apply to an endpoint of this host.",
            found.rules.active_count,
        )
        yield gauge(
            "felix_active_local_selectors", "Sets that those policies name.", found.sets.set_count
        )
        yield labelled(
            "felix_calc_graph_updates_processed",
            "counter",
            "Changes of the datastore that were taken in, by kind.",
            "type",
            found.update_counts,
        )
        yield counter(
            "felix_calc_graph_output_events",
            "Objects of desired state that were told to the dataplane.",
            found.sequencer.emitted_count,
        )
        yield timings.calculation.summary(
            "felix_calc_graph_update_time_seconds", "Time that working out a batch of changes took."
        )
        yield labelled(
            "felix_int_dataplane_messages",
            "counter",
            "Objects of desired state that were told to the dataplane, by kind.",
            "type",
            {kind.name.lower(): count for kind, count in found.sequencer.counts.items()},
        )
        yield gauge(
            "felix_resync_state",
            "Of the datastore: 1 connecting, 2 reading all, 3 in sync.",
            _RESYNC_STATE[parts.ingest.status],
        )
        syncer = parts.syncer.statistics()
        yield counter(
            "felix_resyncs_started", "Complete readings of the datastore.", syncer.listings
        )
        yield counter(
            "tortie_datastore_interruptions_total",
            "Lost connections to the datastore, and lost histories.",
            syncer.interruptions,
        )
        yield counter(
            "tortie_datastore_repairs_total",
            "Keys that a watch had lost and a comparison found.",
            syncer.repairs,
        )
        yield gauge(
            "tortie_invalid_objects",
            "Stored objects that are not valid, and count as absent.",
            len(parts.ingest.invalid),
        )
        yield gauge(
            "tortie_problem_objects",
            "Objects that cannot be enforced as they are written.",
            found.problem_count,
        )
        yield gauge("tortie_inbox_waiting", "Changes that wait to be taken in.", len(parts.inbox))

    def _work(self) -> Iterator[Family]:
        parts = self._parts
        timings, loop = parts.loop.timings, parts.loop.statistics()
        yield timings.apply.summary(
            "felix_int_dataplane_apply_time_seconds", "Time that bringing changes out took."
        )
        yield counter(
            "felix_int_dataplane_failures",
            "Applies that failed, and were or will be tried again.",
            loop.failures,
        )
        yield timings.batch.summary(
            "felix_int_dataplane_msg_batch_size", "Changes that were taken in at once."
        )
        if timings.first_apply_seconds is not None:
            yield gauge(
                "felix_int_dataplane_initial_resync_time_seconds",
                "Time that the first apply took.",
                timings.first_apply_seconds,
            )
        yield timings.enforced.family(
            "tortie_enforcement_seconds",
            "From a change's arrival from the datastore to its being in force in the kernel; of "
            "changes that came together, the first.",
        )
        yield timings.apply.family("tortie_apply_seconds", "Time that bringing changes out took.")
        yield timings.batch.family("tortie_batch_changes", "Changes that were taken in at once.")
        yield timings.calculation.family(
            "tortie_calculation_seconds", "Time that working out a batch of changes took."
        )
        yield parts.lag.family(
            "tortie_loop_lag_seconds",
            "Time that the event loop was busy at a stretch: what came meanwhile had to wait.",
        )
        yield counter("tortie_loop_turns_total", "Times that the loop woke up.", loop.turns)
        yield gauge(
            "tortie_enforced_revision",
            "Revision of the datastore that is in force here.",
            parts.progress.revision,
        )

    def _kernel(self) -> Iterator[Family]:
        found = self._parts.dataplane.statistics()
        nft = found.nftables
        sizes: tuple[tuple[str, int, str], ...] = (
            ("felix_nft_chains", nft.chains, "Chains of ours."),
            ("felix_nft_rules", nft.rules, "Rules of ours."),
        )
        for name, value, text in sizes:
            yield gauge(name, text, value, ip_version="inet", table="tortie")
        yield counter("felix_nft_calls", "Transactions with nftables.", nft.commits)
        yield counter("felix_nft_errors", "Transactions that it did not take.", nft.failures)
        yield counter("felix_nft_list_calls", "Readings of what is there.", nft.resyncs)
        yield gauge("felix_ipsets_calico", "Sets and maps of ours.", nft.sets, ip_version="inet")
        yield gauge("felix_ipsets_total", "Sets and maps of ours.", nft.sets)
        yield gauge("tortie_nft_elements", "Elements of sets and maps.", nft.elements)
        yield counter(
            "tortie_nft_repairs_total",
            "Readings that found changes by others, and repaired them.",
            nft.repairs,
        )
        yield gauge("tortie_routes", "Routes of ours.", found.routes)
        yield gauge(
            "tortie_pending_objects",
            "Routes, neighbours and sysctls that are not as they should be.",
            found.pending,
        )
        yield gauge(
            "tortie_refused_objects",
            "Objects that are closed because the kernel refuses them.",
            found.refused,
        )
        yield counter(
            "tortie_connections_cut_total",
            "Connections that were cut because policy forbids them now, or their address has gone.",
            found.connections_cut,
        )

    def _flows(self) -> Iterator[Family]:
        if self._parts.flow_log is None:
            return
        found = self._parts.flow_log.statistics()
        yield counter("tortie_flow_packets_total", "Logged packets seen.", found.packet_count)
        yield counter(
            "tortie_flow_packets_lost_total",
            "Logged packets that were lost before they were seen.",
            found.lost_count,
        )
        yield counter(
            "tortie_flow_packets_uncounted_total",
            "Logged packets for which there was no room among the flows.",
            found.uncounted,
        )
        yield gauge("tortie_flows", "Flows that are kept.", found.flow_count)

    def _endpoints(self) -> Iterator[Family]:
        dataplane = self._parts.dataplane
        up = dataplane.endpoints_up()
        yield labelled(
            "tortie_endpoints",
            "gauge",
            "Workload endpoints of this host.",
            "state",
            {"up": sum(up.values()), "down": len(up) - sum(up.values())},
        )
        traffic = process_metrics.traffic()
        found = [
            (f"{one.namespace}/{workload_of_endpoint(one.name)}", interface, traffic[interface])
            for one, interface in dataplane.interfaces().items()
            if interface in traffic
        ]
        for way, sent, verb in ((0, "sent", "sent"), (2, "received", "was sent")):
            for index, unit in ((way, "bytes"), (way + 1, "packets")):
                yield Family(
                    f"tortie_endpoint_{sent}_{unit}_total",
                    "counter",
                    f"{unit.capitalize()} that the workload {verb}.",
                    [
                        Sample("", {"endpoint": name, "interface": link}, counts[index])
                        for name, link, counts in found
                    ],
                )


def _rules(found: Counts) -> Iterator[Family]:
    kind: Kind = "counter"
    for unit in ("packets", "bytes"):
        yield Family(
            f"tortie_rule_{unit}_total",
            kind,
            f"{unit.capitalize()} that a rule has decided: the first of each connection, and all "
            "that it denies.",
            [
                Sample("", _rule_labels(one), getattr(one.counted, unit))
                for one in found.rules
                if one.decider.policy is not None
            ],
        )
        yield Family(
            f"tortie_dropped_{unit}_total",
            kind,
            f"{unit.capitalize()} that were dropped where no rule of a policy decided.",
            [
                Sample(
                    "",
                    {
                        "reason": one.decider.reason,
                        "tier": one.decider.tier,
                        "direction": one.direction,
                    },
                    getattr(one.counted, unit),
                )
                for one in found.rules
                if one.decider.policy is None
            ],
        )
    yield Family(
        "tortie_verdict_packets_total",
        kind,
        "Packets that policy has let through or denied, known connections' left out.",
        [Sample("", _verdict_labels(one.name), one.all.packets) for one in found.verdicts],
    )
    yield Family(
        "tortie_verdict_packets_logged_total",
        kind,
        "Of those, the ones that were logged.",
        [Sample("", _verdict_labels(one.name), one.logged.packets) for one in found.verdicts],
    )


def _rule_labels(one: RuleCount) -> dict[str, str]:
    return {
        "tier": one.decider.tier,
        "policy": str(one.decider.policy),
        "direction": one.direction,
        "rule": str(one.decider.rule),
        "action": one.action,
    }


def _verdict_labels(name: str) -> dict[str, str]:
    verdict, _, direction = name.partition("-")
    return {"verdict": verdict, "direction": direction}
