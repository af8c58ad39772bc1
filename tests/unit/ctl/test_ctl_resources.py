"""`tortie apply|create|replace|delete|get`, end to end over the embedded datastore."""

import io
import json
from pathlib import Path

import pytest
from tests.unit.ctl.shell import Shell

HEAD = "apiVersion: projectcalico.org/v3\n"
TIER = HEAD + "kind: Tier\nmetadata: {name: sec}\nspec: {order: 5}\n"
POLICY = (
    HEAD + "kind: NetworkPolicy\nmetadata: {name: web, namespace: shop}\n"
    "spec: {tier: sec, order: 10, selector: role == 'web', ingress: [{action: Allow}]}\n"
)
POOL = HEAD + "kind: IPPool\nmetadata: {name: blue}\nspec: {cidr: 10.65.0.0/16}\n"
NODE = HEAD + "kind: Node\nmetadata: {name: n1}\nspec: {bgp: {ipv4Address: 192.0.2.1/24}}\n"


def test_apply_get_delete(tortie: Shell) -> None:
    policy_first = tortie.write("a.yaml", POLICY + "---\n" + TIER)
    assert tortie("apply", "-f", policy_first) == (
        0,
        "Successfully applied 2 resource(s)\n",
        "warning: NetworkPolicy(shop/web) selects no endpoint\n",
    )
    assert tortie("get", "np", "-n", "shop", "-o", "wide").out == (
        "NAMESPACE   NAME   TIER   ORDER   SELECTOR\n"
        "shop        web    sec    10      role == 'web'\n"
    )
    assert tortie("get", "tiers").out == (
        "NAME            ORDER\n"
        "sec             5\n"
        "kube-admin      1000\n"
        "default         1000000\n"
        "kube-baseline   10000000\n"
    )
    outcome = tortie("delete", "-f", policy_first)
    assert outcome == (0, "Successfully deleted 2 resource(s)\n", "")
    assert tortie("get", "np", "-A").out == "NAMESPACE   NAME   TIER\n"


def test_one_kind_is_named(tortie: Shell) -> None:
    path = tortie.write("t.yaml", TIER + "---\n" + TIER.replace("sec", "ops"))
    assert tortie("create", "-f", path).out == "Successfully created 2 'Tier' resource(s)\n"
    assert tortie("replace", "-f", path).out == "Successfully replaced 2 'Tier' resource(s)\n"
    assert (
        tortie("delete", "tier", "sec", "ops").out == "Successfully deleted 2 'Tier' resource(s)\n"
    )


def test_what_get_prints_can_be_applied(tortie: Shell) -> None:
    tortie("apply", "-f", tortie.write("a.yaml", "---\n".join([TIER, POLICY, POOL, NODE])))
    for form in ("yaml", "json"):
        shown = tortie("get", "networkpolicy/web", "-n", "shop", "-o", form)
        again = tortie.write(f"again.{form}", shown.out)
        assert tortie("apply", "-f", again).code == 0
        assert tortie("get", "NetworkPolicies/web", "-n", "shop", "-o", form).out == shown.out
        listed = tortie.write(f"list.{form}", tortie("get", "pools", "-o", form, "--export").out)
        assert tortie("delete", "-f", listed).code == 0
        assert tortie("create", "-f", listed).out == "Successfully created 1 'IPPool' resource(s)\n"


def test_formats(tortie: Shell) -> None:
    tortie("apply", "-f", tortie.write("a.yaml", NODE + "---\n" + POOL))
    node = json.loads(tortie("get", "node", "n1", "-o", "json").out)
    assert node["kind"] == "Node"
    assert node["metadata"]["resourceVersion"].isdigit()
    listed = json.loads(tortie("get", "node", "-o", "json").out)
    assert (listed["kind"], len(listed["items"])) == ("NodeList", 1)
    assert tortie("get", "node/n1", "pool/blue", "-o", "name").out == "node/n1\nippool/blue\n"
    assert tortie("get", "nodes", "-o", "wide").out == (
        "NAME   ASN       IPV4           IPV6\nn1     (64512)   192.0.2.1/24\n"
    )
    assert "uid" not in tortie("get", "node", "n1", "-o", "yaml", "--export").out
    assert tortie("get", "profiles").out == "NAME\nprojectcalico-default-allow\n"
    two = tortie("get", "node/n1", "pool/blue").out
    assert two == "NAME\nn1\n\nNAME   CIDR           SELECTOR\nblue   10.65.0.0/16   all()\n"


def test_directories_and_standard_input(tortie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    tortie.write("d/a.yaml", TIER)
    tortie.write(
        "d/b.json",
        json.dumps(
            {"apiVersion": "projectcalico.org/v3", "kind": "Node", "metadata": {"name": "n2"}}
        ),
    )
    tortie.write("d/notes.txt", "no yaml: [")
    deeper = Path(tortie.write("d/c.yml", "# nothing\n")).parent / "deeper"
    deeper.mkdir()
    (deeper / "d.yaml").write_text(NODE)
    directory = str(deeper.parent)
    assert tortie("apply", "-f", directory).out == "Successfully applied 2 resource(s)\n"
    assert tortie("apply", "-R", "-f", directory).out == "Successfully applied 3 resource(s)\n"

    stdin = io.TextIOWrapper(io.BytesIO(POOL.encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert tortie("apply", "-f", "-").out == "Successfully applied 1 'IPPool' resource(s)\n"


def test_no_resources(tortie: Shell) -> None:
    empty = tortie.write("e.yaml", "---\n---\n")
    assert tortie("apply", "-f", empty) == (1, "", f"No resources specified in file {empty}\n")
    assert tortie("apply", "--skip-empty", "-f", empty) == (0, "No resources specified\n", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kind: [\n", "bad.yaml:2:1: not YAML: "),
        (TIER + "---\n" + NODE.replace("Node", "Nod"), "bad.yaml:7:7: unknown kind 'Nod'"),
        (TIER + "---\n" + POOL.replace("0.0/16", "0.1/16"), "bad.yaml:9:14: IPPool(blue): "),
        (TIER + "---\n" + POLICY.replace("sec", "none"), "there is no tier 'none'"),
        (TIER + "---\n" + POLICY.replace("==", "="), "selector, column 6"),
        (TIER + "---\n" + TIER, "Tier(sec) is there twice"),
        (TIER + "---\n" + POOL + "---\n" + POOL.replace("blue", "red"), "overlaps the pool 'blue'"),
        (TIER + "---\n" + HEAD + "kind: ClusterInformation\nmetadata: {name: default}\nspec: {}\n",
         "operation apply is not supported on ClusterInformation: resource is readonly"),
    ],
)  # fmt: skip
def test_bad_input_is_told_and_nothing_is_applied(tortie: Shell, text: str, says: str) -> None:
    outcome = tortie("apply", "-f", tortie.write("bad.yaml", text))
    assert (outcome.code, outcome.out) == (1, "")
    assert says in outcome.err
    assert outcome.err.count("\n") == 1
    assert "sec" not in tortie("get", "tiers").out


def test_what_fails_does_not_keep_the_rest_from_being_written(tortie: Shell) -> None:
    tortie("apply", "-f", tortie.write("t.yaml", TIER))
    both = tortie.write("both.yaml", NODE + "---\n" + TIER)
    missing = tortie("replace", "-f", both)
    assert missing == (
        1,
        "Partial success: replaced the first 1 out of 2 resources:\n",
        "hit error: [resource does not exist: Node(n1) with error: <nil>]\n",
    )
    assert tortie("get", "nodes").out == "NAME\n"
    taken = tortie("create", "-f", both)
    assert taken == (
        1,
        "Partial success: created the first 1 out of 2 resources:\n",
        "hit error: [resource already exists: Tier(sec) with error: <nil>]\n",
    )
    none = tortie("create", "-f", both)
    assert none.out == ""
    assert none.err == (
        "failed to create any resources: [resource already exists: Tier(sec) with error: <nil> "
        "resource already exists: Node(n1) with error: <nil>]\n"
    )
    one = tortie("create", "-f", tortie.write("t.yaml", TIER))
    assert one.err == (
        "failed to create 'Tier' resource: [resource already exists: Tier(sec) with error: <nil>]\n"
    )
    skipped = tortie("create", "--skip-exists", "-f", both)
    assert skipped.out == "Successfully created 2 resource(s)\n"


def test_deleting_what_is_not_there(tortie: Shell) -> None:
    tortie("apply", "-f", tortie.write("n.yaml", NODE))
    outcome = tortie("delete", "node", "n1", "n2")
    assert outcome == (
        1,
        "Successfully deleted 1 'Node' resource(s)\n",
        "Failed to delete 'Node' resource: resource does not exist: Node(n2) with error: <nil>\n",
    )
    outcome = tortie("delete", "-s", "node", "n1", "n2")
    assert outcome.out == "Successfully deleted 2 'Node' resource(s)\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["get", "nod"], "resource type 'nod' is not supported; did you mean 'node'?"),
        (["get"], "say which kind"),
        (["get", "node", "-o", "toml"], "unrecognized output format 'toml'"),
        (["get", "node", "-o", "wid"], "did you mean 'wide'?"),
        (["get", "node", "x"], "resource does not exist: Node(x) with error: <nil>"),
        (["get", "np/x", "y"], "is not of the form KIND/NAME"),
        (["get", "np", "x", "-A"], "cannot use --all-namespaces flag for getting a single"),
        (["get", "np", "-A", "-n", "x"], "cannot use both --namespace and --all-namespaces"),
        (["get", "node", "-n", "x"], "Node is not namespaced"),
        (["get", "node", "--nonsense"], "unknown flag: --nonsense"),
        (["get", "node", "-m"], "unknown shorthand flag: 'm' in -m"),
        (["get", "node", "-o"], "flag needs an argument: 'o' in -o"),
        (["get", "node", "--output"], "flag needs an argument: --output"),
        (["get", "node", "-o", "custom-columns=NAME,AGE"], "Node has no column 'AGE'"),
        (["delete", "node"], "say which Node"),
        (["delete"], "give kinds and names, or files"),
        (["delete", "tier", "default"], "built in"),
        (["delete", "clusterinfo", "default"], "operation delete is not supported"),
        (["apply"], 'required flag(s) "filename" not set'),
        (["apply", "-f", "/nonexistent/x.yaml"], "cannot read /nonexistent/x.yaml: No such file"),
        (["get", "-c", "/nonexistent/cfg", "node"], "no configuration file /nonexistent/cfg"),
        (["version", "now"], "unexpected argument 'now'"),
        (["patch", "node"], "give one kind and one name"),
        (["patch"], "KIND NAME is missing"),
        (["patch", "node", "n1", "-p", "{}", "-t", "odd"], "-t is one of strategic, json, merge"),
    ],
)
def test_mistakes_on_the_command_line(tortie: Shell, words: list[str], says: str) -> None:
    tortie("apply", "-f", tortie.write("n.yaml", NODE))
    outcome = tortie(*words)
    assert outcome.code == 1
    assert says in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


def test_missing_datastore(tortie: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORTIE_EMBEDDED_PATH", str(tmp_path / "none.db"))
    outcome = tortie("get", "nodes")
    assert outcome.code == 1
    assert "none.db" in outcome.err
    assert outcome.err.count("\n") == 1
    monkeypatch.setenv("DATASTORE_TYPE", "carrier-pigeon")
    assert "must be etcdv3 or embedded" in tortie("get", "nodes").err


def test_a_configuration_file(tortie: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the verb or after it."""
    import os

    path = os.environ["TORTIE_EMBEDDED_PATH"]
    for name in ("DATASTORE_TYPE", "TORTIE_EMBEDDED_PATH"):
        monkeypatch.delenv(name)
    config = tortie.write("cfg", "kind: CalicoAPIConfig\nspec:\n  datastoreType: embedded\n"
                          f"  embeddedPath: {path}\n")  # fmt: skip
    assert tortie("get", "nodes", f"--config={config}").code == 0
    assert tortie("-c", config, "get", "nodes").code == 0
    assert tortie("--config", config, "--log-level=debug", "get", "nodes").code == 0


def test_every_kind_has_columns_and_names(tortie: Shell) -> None:
    from tortie.ctl.kinds import ALIASES, COLUMNS, NAMESPACED, plural
    from tortie.model import keys
    from tortie.model.catalogue import TYPES

    assert {kind: plural(kind) for kind in keys.PLURALS} == keys.PLURALS
    assert keys.NAMESPACED == NAMESPACED

    assert set(COLUMNS) == set(TYPES) == set(ALIASES.values())
    for alias in ALIASES:
        everywhere = ["-A"] if ALIASES[alias] in NAMESPACED else []
        assert tortie("get", alias.upper(), "-o", "wide", *everywhere).code == 0
