"""Every command of `tortie`, as data: the parser, help, completion and man pages rest on it.

Verbs, flags and short forms are calicoctl's, of both its generations; kubectl's habits are
added where they do not disagree. Keep this module cheap: `tortie --help` imports it.
"""

from __future__ import annotations

from tortie.ctl.grammar import Command, Flag

_CONFIG = Flag(
    "config", "where the datastore's address is; /etc/calico/calicoctl.cfg",
    short="c", value="FILE", completes="file",
)  # fmt: skip
COMMON = (
    _CONFIG,
    Flag("log-level", "taken for calicoctl's sake", short="", value="LEVEL", is_hidden=True),
    Flag("context", "taken for calicoctl's sake", value="CONTEXT", is_hidden=True),
    Flag("allow-version-mismatch", "taken for calicoctl's sake", is_hidden=True),
)
"""Every command takes these."""

_FILE = Flag(
    "filename", "file or directory of YAML or JSON; - is standard input; repeatable",
    short="f", value="FILE", repeats=True, completes="file",
)  # fmt: skip
_RECURSIVE = Flag("recursive", "directories within directories, too", short="R")
_SKIP_EMPTY = Flag("skip-empty", "files without resources are no error")
_NAMESPACE = Flag("namespace", "the namespace; default", short="n", value="NS")
_FILES = (_FILE, _RECURSIVE, _SKIP_EMPTY, _NAMESPACE)
_DRY_RUN = Flag(
    "dry-run", "say what would be done, and do nothing",
    value="WHERE", optional="server", choices=("none", "client", "server"),
)  # fmt: skip
_FELIX_CONFIG = Flag(
    "felix-config", "the agent's; /etc/calico/felix.cfg", value="FILE", completes="file"
)
_DIRECTORIES = (
    Flag("run-directory", "the agent's sockets; /run/tortie", value="DIRECTORY", completes="file"),
    Flag("state-directory", "what outlives a reboot; /var/lib/tortie", value="DIRECTORY",
         completes="file"),
)  # fmt: skip
_KIND_NAME = "KIND [NAME ...] | KIND/NAME ..."

COMMANDS = (
    Command(
        "apply", "tortie.ctl.apply", "create or update resources from files",
        flags=(*_FILES, _DRY_RUN),
        examples=(
            ("apply -f policy.yaml", "create what is missing, update what is there"),
            ("apply -R -f manifests/", "every .yaml, .yml and .json file below a directory"),
            ("apply -f policy.yaml --dry-run", "check it against the datastore, write nothing"),
        ),
        notes=(
            "After a policy was applied, a line on standard error says how many endpoints it "
            "selects, with a warning if there are none.",
        ),
    ),
    Command(
        "create", "tortie.ctl.create", "create resources from files; they must not exist",
        flags=(*_FILES, _DRY_RUN, Flag("skip-exists", "what exists already is no error")),
        examples=(("create -f pool.yaml --skip-exists", "leave what is there as it is"),),
    ),
    Command(
        "replace", "tortie.ctl.replace", "replace resources from files; they must exist",
        flags=(*_FILES, _DRY_RUN),
        examples=(("replace -f policy.yaml", "with metadata.resourceVersion only that version"),),
    ),
    Command(
        "delete", "tortie.ctl.delete", "delete resources, by kind and name or from files",
        words=_KIND_NAME, most=None, completes="resource",
        flags=(
            *_FILES, Flag("skip-not-exists", "what does not exist is no error", short="s"),
        ),
        examples=(
            ("delete policy web -n shop", "one policy"),
            ("delete -f policy.yaml", "what a file names; its specs do not matter"),
        ),
    ),
    Command(
        "get", "tortie.ctl.get", "show resources, by kind and name or from files",
        words=_KIND_NAME, most=None, completes="resource",
        flags=(
            Flag(
                "output", "ps, wide, yaml, json, name, csv, custom-columns=A,B, jsonpath=…, "
                "go-template=…, go-template-file=…", short="o", value="FORMAT",
                completes="output",
            ),
            *_FILES,
            Flag("all-namespaces", "of every namespace", short="Aa"),
            Flag("export", "without what is this cluster's own"),
            Flag("watch", "go on, showing each change", short="w"),
            Flag("selector", "only what has these labels: a=b,c!=d or Calico's", short="l",
                 value="SELECTOR"),
            Flag("show-labels", "another column: the labels"),
        ),
        examples=(
            ("get nodes -o wide", "a table with more columns"),
            ("get policy web -n shop -o yaml", "one, as YAML that apply takes"),
            ("get wep -A -l 'app=web' --show-labels", "by label, of all namespaces"),
            ("get nodes -o jsonpath='{.items[*].metadata.name}'", "one field of each"),
        ),
    ),
    Command(
        "patch", "tortie.ctl.patch", "change fields of one resource",
        words="KIND NAME", least=1, most=2, completes="resource",
        flags=(
            Flag("patch", "the change, as JSON or YAML", short="p", value="PATCH"),
            Flag("type", "strategic, json (RFC 6902) or merge (RFC 7386); strategic", short="t",
                 value="TYPE", choices=("strategic", "json", "merge")),
            _NAMESPACE,
        ),
        examples=(
            ("patch node n1 -p '{\"spec\":{\"bgp\":{\"asNumber\":64513}}}'", "set one field"),
            ("patch ippool blue -t json -p "
             "'[{\"op\":\"replace\",\"path\":\"/spec/disabled\",\"value\":true}]'",
             "the same by path"),
        ),
    ),
    Command(
        "label", "tortie.ctl.label", "set or remove a label of one resource",
        words="KIND NAME KEY=VALUE | KIND NAME KEY --remove", least=2, most=3,
        completes="resource",
        flags=(
            Flag("overwrite", "another value may be there"),
            Flag("remove", "remove the label"),
            _NAMESPACE,
        ),
        examples=(
            ("label node n1 rack=r7", "set it"),
            ("label node n1 rack=r8 --overwrite", "change it"),
            ("label node n1 rack --remove", "remove it"),
        ),
    ),
    Command(
        "edit", "tortie.ctl.edit", "change one resource in an editor",
        words="KIND NAME | KIND/NAME", least=1, most=2, completes="resource",
        flags=(_NAMESPACE,),
        notes=("The editor is $VISUAL, else $EDITOR, else vi.",),
    ),
    Command(
        "diff", "tortie.ctl.diff", "what apply would change",
        flags=_FILES,
        notes=("Exit code 0: nothing; 1: there are differences; 2: it could not be told.",),
    ),
    Command(
        "validate", "tortie.ctl.validate", "check files without a datastore", flags=_FILES,
    ),
    Command(
        "convert", "tortie.ctl.convert",
        "print Kubernetes' policies, or Calico's API v1, as resources of today",
        flags=(
            _FILE, _RECURSIVE, _NAMESPACE,
            Flag("output", "yaml or json; yaml", short="o", value="FORMAT",
                 choices=("yaml", "json")),
            Flag("ignore-validation", "do not check what comes of it"),
        ),
        examples=(("convert -f policy.yaml", "as YAML that apply takes"),),
        notes=(
            "Known are NetworkPolicy, ClusterNetworkPolicy, AdminNetworkPolicy and "
            "BaselineAdminNetworkPolicy of Kubernetes, and policy, profile, ipPool, bgpPeer, "
            "hostEndpoint, workloadEndpoint and node of Calico's API before v3.0. What has no like "
            "here is named on standard error.",
        ),
    ),
    Command(
        "explain", "tortie.ctl.explain", "what a kind or one of its fields is",
        words="KIND[.FIELD ...]", least=1, most=1, completes="kind",
        flags=(Flag("recursive", "all fields below it, too"),),
        examples=(("explain networkpolicy.spec.ingress.source", "one field"),),
    ),
    Command(
        "ipam show", "tortie.ctl.ipam_show", "use of address pools, or of one address",
        flags=(
            Flag("ip", "who has this address", value="IP"),
            Flag("show-blocks", "each block, too"),
            Flag("show-borrowed", "addresses that hosts have from blocks of others"),
            Flag("show-configuration", "IPAM's settings"),
            Flag("show-hosts", "each host's blocks, one character for each: · empty to █ full"),
            Flag("forecast", "when every block of a pool will be taken, by the pace of claims"),
        ),
        notes=(
            "The forecast rests on when the blocks that are there were claimed, in the last week. "
            "Blocks that were given back meanwhile have left no trace, and hosts can share what "
            "they have: it is the earliest that another host may find no block.",
        ),
    ),
    Command(
        "ipam check", "tortie.ctl.ipam_check", "find addresses that leaked or are used twice",
        flags=(
            Flag("show-all-ips", "every address that is looked at"),
            Flag("show-problem-ips", "every address with a problem"),
            Flag("output", "write a report that ipam release takes", short="o", value="FILE",
                 completes="file"),
            Flag("fix", "say what can be repaired; with --dry-run=false, do it"),
            Flag("dry-run", "with --fix: change nothing (the default)"),
            Flag("grace", "with --fix: how long a leak must be seen for (default 10)",
                 value="SECONDS"),
            Flag("kubeconfig", "taken for calicoctl's sake", value="FILE", is_hidden=True),
        ),
        notes=(
            "Repaired are handles and affinities that contradict the blocks, and addresses whose "
            "host has no Node and which no endpoint has. What needs to be decided is left alone.",
        ),
    ),
    Command(
        "ipam release", "tortie.ctl.ipam_release", "free addresses that nobody uses",
        flags=(
            Flag("ip", "this address", value="IP"),
            Flag("from-report", "what all these reports of ipam check call leaked", value="FILE",
                 repeats=True, completes="file"),
            Flag("force", "though the datastore is not locked"),
        ),
    ),
    Command(
        "ipam split", "tortie.ctl.ipam_split", "split a pool into smaller ones",
        words="NUMBER", least=1, most=1,
        flags=(
            Flag("cidr", "the pool with this CIDR", value="CIDR"),
            Flag("name", "the pool of this name", value="POOL"),
        ),
        notes=("The datastore must be locked: nobody is to claim a block meanwhile.",),
    ),
    Command(
        "ipam configure", "tortie.ctl.ipam_configure", "change IPAM's settings",
        flags=(
            Flag("strictaffinity", "hosts do not borrow from blocks of others", value="true|false"),
            Flag("max-blocks-per-host", "of each family; 0 is the built-in limit", value="NUMBER"),
            Flag("kubevirt-ip-persistence", "VMs keep their addresses", value="Enabled|Disabled"),
            Flag("ip-cooldown-seconds", "how long a released address rests", value="SECONDS"),
        ),
    ),
    Command(
        "datastore migrate lock", "tortie.ctl.datastore_lock",
        "agents and plugins keep what they have, and wait",
    ),
    Command(
        "datastore migrate unlock", "tortie.ctl.datastore_unlock", "agents and plugins go on",
    ),
    Command(
        "datastore migrate export", "tortie.ctl.datastore_export",
        "print what is in the datastore, for import",
        flags=(Flag("all", "workload endpoints and profiles, too"),),
    ),
    Command(
        "datastore migrate import", "tortie.ctl.datastore_import",
        "put what export printed into an empty datastore",
        flags=(Flag("filename", "what export printed", short="f", value="FILE",
                    completes="file"),),
    ),
    Command(
        "datastore roles", "tortie.ctl.datastore_roles",
        "a role of etcd for each component: show how to make them, or make them",
        flags=(
            Flag("apply", "make them; without it nothing is changed"),
            Flag("users", "a user for each, too: whom a client certificate names"),
            Flag("host", "for this host alone: its agent's and its plugins'", value="HOST",
                 repeats=True),
            Flag("namespace", "with --host: of its workload endpoints; without it, those of all "
                 "hosts", short="n", value="NS", repeats=True),
            Flag("region", "with --host: OpenStack's, if agents are told one", value="REGION"),
        ),
        notes=(
            "What is printed without --apply are the commands that etcdctl would have to be "
            "given: all of them, or those that are missing if the datastore says what is there. "
            "Only etcd's user root may see and change roles.",
            "An agent that brings workloads in needs tortie-agent and tortie-cni.",
        ),
        examples=(
            ("datastore roles", "the commands that make every role"),
            ("datastore roles --users --apply", "make them, and a user of each one's name"),
            ("datastore roles --host n1 -n default --apply", "narrower ones, of one host"),
        ),
    ),
    Command(
        "datastore migrate-policy-names", "tortie.ctl.datastore_policy_names",
        "move policies from before v3.32 to where today's names put them",
    ),
    Command(
        "flows", "tortie.ctl.flows", "who was let through or denied on this host, by which rule",
        flags=(
            Flag("follow", "go on, showing what comes", short="f"),
            Flag("verdict", "only allow, or only deny", value="VERDICT",
                 choices=("allow", "deny")),
            Flag("from", "from this workload, address or network; repeatable", value="WHO",
                 repeats=True),
            Flag("to", "to this workload, address or network; repeatable", value="WHO",
                 repeats=True),
            Flag("port", "to this port: 80, tcp/80 or icmp; repeatable", value="PORT",
                 repeats=True),
            Flag("since", "only what was seen so lately: 90s, 10m; 1h", value="TIME"),
            Flag("output", "wide or json (one object a line)", short="o", value="FORMAT",
                 choices=("wide", "json")),
            _DIRECTORIES[0],
        ),
        examples=(
            ("flows --verdict deny -f", "each denial as it happens"),
            ("flows --from default/cat --to default/web --since 10m", "between two workloads"),
            ("patch felixconfiguration default -p "
             "'{\"spec\":{\"flowLogsLocalReporter\":\"Enabled\"}}'",
             "have what is allowed seen, too"),
        ),
        notes=(
            "The agent of this host keeps the flows of the last hour, and tells them to root. "
            "What is denied is always seen; what is allowed, with its packets and bytes, and what "
            "staged policies would have made of it, with flowLogsLocalReporter: Enabled in the "
            "FelixConfiguration. FLOWLOGSDENIED=false in felix.cfg turns all of it off.",
            "Each flow was judged by the policy of its source (as it left) or of its destination "
            "(as it arrived); the rule is named as tortie policy why names it. Of a storm of "
            "packets the kernel logs a hundred a second; a line on standard error says how many "
            "more there were.",
        ),
    ),
    Command(
        "cluster diags", "tortie.ctl.cluster_diags", "collect what helps to find a fault",
        flags=(
            Flag("since", "taken for calicoctl's sake", value="TIME", is_hidden=True),
            Flag("max-logs", "taken for calicoctl's sake", value="NUMBER", is_hidden=True),
            Flag("max-parallelism", "taken for calicoctl's sake", value="NUMBER", is_hidden=True),
            Flag("focus-nodes", "taken for calicoctl's sake", value="NODES", is_hidden=True),
            Flag("skip-temp-dir-cleanup", "taken for calicoctl's sake", is_hidden=True),
        ),
    ),
    Command(
        "node checksystem", "tortie.ctl.node_checksystem", "has this machine what an agent needs?",
        flags=(Flag("kernel-config", "the kernel's configuration", value="FILE",
                    completes="file"),),
    ),
    Command(
        "node diags", "tortie.ctl.node_diags", "collect what helps to find a fault on this host",
        flags=(Flag("log-dir", "logs; /var/log/calico", value="DIRECTORY", completes="file"),),
    ),
    Command(
        "node install", "tortie.ctl.node_install",
        "systemd units that make this host a node, now and at each boot",
        flags=(
            Flag("root", "write below this directory, and start nothing", value="DIRECTORY",
                 completes="file"),
            Flag("no-start", "write the units, and start nothing"),
            Flag("dry-run", "say what would be written, and do nothing"),
            Flag("print", "print every file, and do nothing"),
        ),
        examples=(
            ("node install", "again after each upgrade: packets do not notice"),
            ("node install --print", "what it consists of, and why each setting is there"),
        ),
        notes=(
            "Settings are in /etc/calico: calico.env, calicoctl.cfg and felix.cfg, as Calico has "
            "them. Files of yours are never replaced; changes of a unit belong into a drop-in "
            "(systemctl edit).",
        ),
    ),
    Command(
        "node uninstall", "tortie.ctl.node_uninstall", "this host is no node any more",
        flags=(
            Flag("keep-policy", "leave rules and routes in the kernel: packets go on"),
            Flag("force", "though there are workloads: they are cut off"),
            Flag("root", "what was installed below this directory", value="DIRECTORY",
                 completes="file"),
            Flag("dry-run", "say what would be removed, and do nothing"),
        ),
        notes=(
            "With --keep-policy workloads stay as reachable, and as protected, as they are, until "
            "tortie node install takes over again; where routes come by BGP, other hosts forget "
            "this one when their graceful restart is over (two minutes).",
        ),
    ),
    Command(
        "node close", "tortie.ctl.node_close",
        "close workloads' interfaces until the agent knows their policy",
        flags=(
            Flag("forward", "then switch forwarding on, before Docker does it in its way"),
            *_DIRECTORIES, _FELIX_CONFIG,
        ),
        notes=(
            "For the time before the agent: a unit of tortie node install runs it at boot. "
            "Where the agent's rules are in force it does nothing; the agent removes what it "
            "did when its own rules come into force.",
        ),
    ),
    Command(
        "node run", "tortie.ctl.node_run", "make this host a node, and become its agent",
        flags=(
            Flag("ip", "IPv4 address of this host, or autodetect", value="IP"),
            Flag("ip6", "IPv6 address of this host, or autodetect; none", value="IP"),
            Flag("as", "its AS number, if it has one of its own", value="NUMBER"),
            Flag("name", "of the node; NODENAME, else the host's name", value="NAME"),
            Flag("ip-autodetection-method", "see node autodetect; first-found", value="METHOD"),
            Flag("ip6-autodetection-method", "see node autodetect; first-found", value="METHOD"),
            _FELIX_CONFIG,
            Flag("no-default-ippools", "make no pool, even if there is none"),
            Flag("dryrun", "show what would be started, and do nothing"),
            Flag("log-dir", "taken for calicoctl's sake", value="DIR", is_hidden=True),
            Flag("node-image", "taken for calicoctl's sake", value="IMAGE", is_hidden=True),
            Flag("backend", "taken for calicoctl's sake", value="BACKEND",
                 choices=("bird", "none"), is_hidden=True),
            Flag("init-system", "taken for calicoctl's sake", is_hidden=True),
        ),
    ),
    Command(
        "doctor", "tortie.ctl.doctor", "what is wrong with this host, and what to do about it",
        flags=(
            Flag("output", "how to print", short="o", value="FORMAT", choices=("table", "json")),
            Flag("check", "only this one, by number or name; repeatable", value="CHECK",
                 repeats=True),
            Flag("quiet", "say nothing of what is good", short="q"),
            *_DIRECTORIES, _FELIX_CONFIG,
            Flag("environment-file", "of the agent's unit; /etc/calico/calico.env", value="FILE",
                 completes="file"),
        ),
        examples=(
            ("doctor", "every check; as root, or some cannot be told"),
            ("doctor -q", "what is not good"),
            ("doctor --check 14 --check clocks", "two of them"),
        ),
        notes=(
            "The exit code is 1 if there is a problem; warnings do not count. Numbers of checks "
            "stay what they are.",
        ),
    ),
    Command(
        "version", "tortie.ctl.version", "the version of this command and of the cluster",
        flags=(
            Flag("client", "only this command's"),
            Flag("poll", "again and again, as in 10s", value="TIME"),
        ),
    ),
    Command(
        "completion", "tortie.ctl.completion", "a script that completes commands in a shell",
        words="bash|zsh|fish", least=1, most=1, completes="shell",
        examples=(
            ("completion bash > /etc/bash_completion.d/tortie", "for all users"),
        ),
    ),
    Command(
        "man", "tortie.ctl.manual", "the manual page of a command, for man(1)",
        words="[COMMAND ...]", most=None, is_hidden=True,
    ),
    Command(
        "__complete", "tortie.ctl.complete", "what could come next; for shells",
        words="[WORD ...]", most=None, is_hidden=True,
    ),
)  # fmt: skip

BY_PATH = {command.path: command for command in COMMANDS}

ELSEWHERE = {
    "node status": "BGP sessions: with whom, since when, why not up",
    "node autodetect": "which address would be taken for this node's",
}
"""Commands with a parser of their own; listed with the others."""

GROUPS = {
    "ipam": "addresses: pools, blocks, who has which",
    "datastore": "lock, move and repair the datastore",
    "datastore migrate": "move a datastore to another one",
    "cluster": "the cluster as a whole",
    "node": "this host as a node of the cluster",
}
"""First words that are no commands themselves."""
