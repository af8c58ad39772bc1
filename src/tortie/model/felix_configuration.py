"""The agents' settings as a resource: `default` for all, `node.<name>` for one host.

Every field may be absent (None): then the next source decides, and at last the
built-in default. Durations stay text as in `90s`; names of choices are compared
without regard to case. `tortie.model.validation` checks values, not this struct,
so that one odd setting does not make the others unreadable.
"""

from typing import Annotated

import msgspec

from tortie.model.limits import PRESENT
from tortie.model.metadata import Resource, Spec


class BPFConntrackTimeouts(Spec, frozen=True, kw_only=True):
    """Durations, or `Auto`: the kernel's own."""

    creation_grace_period: str | None = None
    generic_timeout: str | None = None
    icmp_timeout: str | None = None
    tcp_established: str | None = None
    tcp_fins_seen: str | None = None
    tcp_reset_seen: str | None = None
    tcp_syn_sent: str | None = None
    udp_timeout: str | None = None


class ProtoPort(Spec, frozen=True, kw_only=True):
    """A port that stays open whatever policy says."""

    protocol: str = ""
    """`tcp` or `udp`, in any case; empty means tcp."""
    port: int
    net: str = ""
    """Of the peer; empty means any."""


class HealthTimeoutOverride(Spec, frozen=True, kw_only=True):
    name: str
    timeout: str


class RouteTableRange(Spec, frozen=True, kw_only=True):
    """Indices of kernel route tables, both ends included."""

    min: int
    max: int


class FelixConfigurationSpec(Spec, frozen=True, kw_only=True):
    allow_ipip_packets_from_workloads: bool | None = msgspec.field(
        default=None, name="allowIPIPPacketsFromWorkloads"
    )
    allow_vxlan_packets_from_workloads: bool | None = msgspec.field(
        default=None, name="allowVXLANPacketsFromWorkloads"
    )
    aws_src_dst_check: str | None = None
    bpf_attach_type: str | None = None
    bpf_ctlb_log_filter: str | None = msgspec.field(default=None, name="bpfCTLBLogFilter")
    bpf_connect_time_load_balancing: str | None = None
    bpf_connect_time_load_balancing_enabled: bool | None = None
    bpf_conntrack_log_level: str | None = None
    bpf_conntrack_mode: str | None = None
    bpf_conntrack_timeouts: BPFConntrackTimeouts | None = None
    bpf_dsr_optout_cidrs: tuple[str, ...] | None = msgspec.field(
        default=None, name="bpfDSROptoutCIDRs"
    )
    bpf_data_iface_pattern: str | None = None
    bpf_disable_gro_for_ifaces: str | None = msgspec.field(
        default=None, name="bpfDisableGROForIfaces"
    )
    bpf_disable_unprivileged: bool | None = None
    bpf_enabled: bool | None = None
    bpf_enforce_rpf: str | None = msgspec.field(default=None, name="bpfEnforceRPF")
    bpf_exclude_cidrs_from_nat: tuple[str, ...] | None = msgspec.field(
        default=None, name="bpfExcludeCIDRsFromNAT"
    )
    bpf_export_buffer_size_mb: int | None = msgspec.field(
        default=None, name="bpfExportBufferSizeMB"
    )
    bpf_ext_to_service_connmark: int | None = None
    bpf_external_service_mode: str | None = None
    bpf_force_track_packets_from_ifaces: tuple[str, ...] | None = None
    bpf_host_conntrack_bypass: bool | None = None
    bpf_host_networked_nat_without_ctlb: str | None = msgspec.field(
        default=None, name="bpfHostNetworkedNATWithoutCTLB"
    )
    bpf_ip_frag_timeout: str | None = msgspec.field(default=None, name="bpfIPFragTimeout")
    bpf_ip_fragment_reassembly_enabled: bool | None = msgspec.field(
        default=None, name="bpfIPFragmentReassemblyEnabled"
    )
    bpf_jit_hardening: str | None = msgspec.field(default=None, name="bpfJITHardening")
    bpf_kube_proxy_healthz_port: int | None = None
    bpf_kube_proxy_iptables_cleanup_enabled: bool | None = None
    bpf_kube_proxy_min_sync_period: str | None = None
    bpf_l3_iface_pattern: str | None = None
    bpf_log_filters: dict[str, str] | None = None
    bpf_log_level: str | None = None
    bpf_maglev_max_endpoints_per_service: int | None = None
    bpf_maglev_max_services: int | None = None
    bpf_map_size_conntrack: int | None = None
    bpf_map_size_conntrack_cleanup_queue: int | None = None
    bpf_map_size_conntrack_scaling: str | None = None
    bpf_map_size_ip_sets: int | None = msgspec.field(default=None, name="bpfMapSizeIPSets")
    bpf_map_size_if_state: int | None = None
    bpf_map_size_nat_affinity: int | None = msgspec.field(
        default=None, name="bpfMapSizeNATAffinity"
    )
    bpf_map_size_nat_backend: int | None = msgspec.field(default=None, name="bpfMapSizeNATBackend")
    bpf_map_size_nat_frontend: int | None = msgspec.field(
        default=None, name="bpfMapSizeNATFrontend"
    )
    bpf_map_size_per_cpu_conntrack: int | None = None
    bpf_map_size_route: int | None = None
    bpf_overlay_host_source_ip: str | None = msgspec.field(
        default=None, name="bpfOverlayHostSourceIP"
    )
    bpf_psnat_ports: int | str | None = msgspec.field(default=None, name="bpfPSNATPorts")
    bpf_policy_debug_enabled: bool | None = None
    bpf_profiling: str | None = None
    bpf_redirect_to_peer: str | None = None
    cgroup_v2_path: str | None = None
    chain_insert_mode: str | None = None
    dataplane_driver: str | None = None
    dataplane_watchdog_timeout: str | None = None
    debug_disable_log_dropping: bool | None = None
    debug_host: str | None = None
    debug_memory_profile_path: str | None = None
    debug_port: int | None = None
    debug_simulate_calc_graph_hang_after: str | None = None
    debug_simulate_dataplane_apply_delay: str | None = None
    debug_simulate_dataplane_hang_after: str | None = None
    default_endpoint_to_host_action: str | None = None
    device_route_protocol: int | None = None
    device_route_source_address: str | None = None
    device_route_source_address_ipv6: str | None = msgspec.field(
        default=None, name="deviceRouteSourceAddressIPv6"
    )
    disable_conntrack_invalid_check: bool | None = None
    endpoint_reporting_delay: str | None = None
    endpoint_reporting_enabled: bool | None = None
    endpoint_status_path_prefix: str | None = None
    external_nodes_list: tuple[str, ...] | None = None
    failsafe_inbound_host_ports: tuple[ProtoPort, ...] | None = None
    failsafe_outbound_host_ports: tuple[ProtoPort, ...] | None = None
    feature_detect_override: str | None = None
    feature_gates: str | None = None
    floating_ips: str | None = msgspec.field(default=None, name="floatingIPs")
    flow_logs_collector_debug_trace: bool | None = None
    flow_logs_flush_interval: str | None = None
    flow_logs_goldmane_server: str | None = None
    flow_logs_local_reporter: str | None = None
    flow_logs_policy_evaluation_mode: str | None = None
    generic_xdp_enabled: bool | None = msgspec.field(default=None, name="genericXDPEnabled")
    go_gc_threshold: int | None = msgspec.field(default=None, name="goGCThreshold")
    go_max_procs: int | None = None
    go_memory_limit_mb: int | None = msgspec.field(default=None, name="goMemoryLimitMB")
    health_enabled: bool | None = None
    health_host: str | None = None
    health_port: int | None = None
    health_timeout_overrides: tuple[HealthTimeoutOverride, ...] = ()
    interface_exclude: str | None = None
    interface_prefix: str | None = None
    interface_refresh_interval: str | None = None
    ip_forwarding: str | None = None
    ipip_enabled: bool | None = None
    ipip_mtu: int | None = msgspec.field(default=None, name="ipipMTU")
    ipsets_refresh_interval: str | None = None
    iptables_backend: str | None = None
    iptables_filter_allow_action: str | None = None
    iptables_filter_deny_action: str | None = None
    iptables_lock_probe_interval: str | None = None
    iptables_mangle_allow_action: str | None = None
    iptables_mark_mask: int | None = None
    iptables_nat_outgoing_interface_filter: str | None = msgspec.field(
        default=None, name="iptablesNATOutgoingInterfaceFilter"
    )
    iptables_post_write_check_interval: str | None = None
    iptables_refresh_interval: str | None = None
    ipv4_elevated_route_priority: int | None = None
    ipv4_normal_route_priority: int | None = None
    ipv6_elevated_route_priority: int | None = None
    ipv6_normal_route_priority: int | None = None
    ipv6_support: bool | None = None
    istio_ambient_mode: str | None = None
    istio_dscp_mark: int | str | None = msgspec.field(default=None, name="istioDSCPMark")
    kube_node_port_ranges: tuple[int | str, ...] | None = None
    live_migration_route_convergence_time: str | None = None
    local_subnet_l2_reachability: str | None = None
    local_subnet_l2_reachability_refresh_interval: str | None = None
    log_action_rate_limit: str | None = None
    log_action_rate_limit_burst: int | None = None
    log_debug_filename_regex: str | None = None
    log_file_path: str | None = None
    log_prefix: str | None = None
    log_severity_file: str | None = None
    log_severity_screen: str | None = None
    log_severity_sys: str | None = None
    max_ipset_size: int | None = None
    metadata_addr: str | None = None
    metadata_port: int | None = None
    mtu_iface_pattern: str | None = None
    nat_outgoing_address: str | None = None
    nat_outgoing_exclusions: str | None = None
    nat_port_range: int | str | None = None
    netlink_timeout: str | None = None
    nftables_filter_allow_action: str | None = None
    nftables_filter_deny_action: str | None = None
    nftables_flow_table_data_iface_pattern: str | None = None
    nftables_flow_table_offload: str | None = None
    nftables_mangle_allow_action: str | None = None
    nftables_mark_mask: int | None = None
    nftables_mode: str | None = None
    nftables_refresh_interval: str | None = None
    node_selector: str | None = None
    openstack_region: str | None = None
    policy_sync_path_prefix: str | None = None
    program_cluster_routes: str | None = None
    prometheus_go_metrics_enabled: bool | None = None
    prometheus_metrics_ca_file: str | None = msgspec.field(
        default=None, name="prometheusMetricsCAFile"
    )
    prometheus_metrics_cert_file: str | None = None
    prometheus_metrics_client_auth: str | None = None
    prometheus_metrics_enabled: bool | None = None
    prometheus_metrics_host: str | None = None
    prometheus_metrics_key_file: str | None = None
    prometheus_metrics_port: int | None = None
    prometheus_process_metrics_enabled: bool | None = None
    prometheus_wireguard_metrics_enabled: bool | None = msgspec.field(
        default=None, name="prometheusWireGuardMetricsEnabled"
    )
    remove_external_routes: bool | None = None
    reporting_interval: str | None = None
    reporting_ttl: str | None = msgspec.field(default=None, name="reportingTTL")
    require_mtu_file: bool | None = msgspec.field(default=None, name="requireMTUFile")
    route_refresh_interval: str | None = None
    route_source: str | None = None
    route_sync_disabled: bool | None = None
    route_table_range: RouteTableRange | None = None
    route_table_ranges: tuple[RouteTableRange, ...] = ()
    service_loop_prevention: str | None = None
    sidecar_acceleration_enabled: bool | None = None
    usage_reporting_enabled: bool | None = None
    usage_reporting_initial_delay: str | None = None
    usage_reporting_interval: str | None = None
    use_internal_dataplane_driver: bool | None = None
    vxlan_enabled: bool | None = None
    vxlan_mtu: int | None = msgspec.field(default=None, name="vxlanMTU")
    vxlan_mtu_v6: int | None = msgspec.field(default=None, name="vxlanMTUV6")
    vxlan_port: int | None = None
    vxlan_vni: int | None = msgspec.field(default=None, name="vxlanVNI")
    windows_manage_firewall_rules: str | None = None
    wireguard_enabled: bool | None = None
    wireguard_enabled_v6: bool | None = None
    wireguard_host_encryption_enabled: bool | None = None
    wireguard_interface_name: str | None = None
    wireguard_interface_name_v6: str | None = None
    wireguard_keep_alive: str | None = None
    wireguard_listening_port: int | None = None
    wireguard_listening_port_v6: int | None = None
    wireguard_mtu: int | None = msgspec.field(default=None, name="wireguardMTU")
    wireguard_mtu_v6: int | None = msgspec.field(default=None, name="wireguardMTUV6")
    wireguard_routing_rule_priority: int | None = None
    wireguard_threading_enabled: bool | None = None
    workload_source_spoofing: str | None = None
    xdp_enabled: bool | None = None
    xdp_refresh_interval: str | None = None


class FelixConfiguration(Resource, frozen=True, kw_only=True):
    spec: Annotated[FelixConfigurationSpec, PRESENT] = FelixConfigurationSpec()
