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
    assert tortie("apply", "-f", policy_first) == (0, "Successfully applied 2 resource(s)\n", "")
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
    assert tortie("apply", "-f", empty) == (2, "", "tortie: No resources specified\n")
    assert tortie("apply", "--skip-empty", "-f", empty).code == 0


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
        (TIER + "---\n" + HEAD + "kind: ClusterInformation\nmetadata: {name: default}\n",
         "cannot be written by hand"),
    ],
)  # fmt: skip
def test_bad_input_is_told_and_nothing_is_applied(tortie: Shell, text: str, says: str) -> None:
    outcome = tortie("apply", "-f", tortie.write("bad.yaml", text))
    assert (outcome.code, outcome.out) == (2, "")
    assert says in outcome.err
    assert outcome.err.startswith("tortie: ")
    assert outcome.err.count("\n") == 1
    assert "sec" not in tortie("get", "tiers").out


def test_create_and_replace_look_at_every_name_first(tortie: Shell) -> None:
    tortie("apply", "-f", tortie.write("t.yaml", TIER))
    both = tortie.write("both.yaml", NODE + "---\n" + TIER)
    taken = tortie("create", "-f", both)
    assert taken.code == 1
    assert "both.yaml:6:1: Tier(sec) already exists; nothing was created" in taken.err
    missing = tortie("replace", "-f", both)
    assert missing.code == 1
    assert "Node(n1) does not exist; nothing was replaced" in missing.err
    assert tortie("get", "nodes").out == "NAME\n"
    skipped = tortie("create", "--skip-exists", "-f", both)
    assert skipped.out == "Successfully created 1 'Node' resource(s)\n"


def test_deleting_what_is_not_there(tortie: Shell) -> None:
    tortie("apply", "-f", tortie.write("n.yaml", NODE))
    outcome = tortie("delete", "node", "n1", "n2")
    assert outcome == (1, "", "tortie: Node(n2) does not exist\n")
    assert tortie("get", "node", "n1").code == 0
    outcome = tortie("delete", "-s", "node", "n1", "n2")
    assert outcome.out == "Successfully deleted 1 'Node' resource(s)\n"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["get", "nod"], 2, "unknown kind 'nod'; did you mean 'node'?"),
        (["get"], 2, "say which kind"),
        (["get", "node", "-o", "toml"], 2, "unknown output format 'toml'"),
        (["get", "node", "x"], 1, "Node(x) does not exist"),
        (["get", "np/x", "y"], 2, "is not of the form KIND/NAME"),
        (["get", "np", "x", "-A"], 2, "a name needs one namespace"),
        (["get", "np", "-A", "-n", "x"], 2, "cannot go together"),
        (["get", "node", "--nonsense"], 2, "unrecognized arguments: --nonsense"),
        (["delete", "node"], 2, "say which Node"),
        (["delete"], 2, "give kinds and names, or files"),
        (["delete", "tier", "default"], 2, "built in"),
        (["delete", "clusterinfo", "default"], 2, "cannot be deleted by hand"),
        (["apply"], 2, "-f/--filename"),
        (
            ["apply", "-f", "/nonexistent/x.yaml"],
            2,
            "cannot read /nonexistent/x.yaml: No such file",
        ),
        (["get", "-c", "/nonexistent/cfg", "node"], 3, "no configuration file /nonexistent/cfg"),
    ],
)
def test_mistakes_on_the_command_line(
    tortie: Shell, words: list[str], code: int, says: str
) -> None:
    tortie("apply", "-f", tortie.write("n.yaml", NODE))
    outcome = tortie(*words)
    assert outcome.code == code
    assert says in outcome.err
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


def test_missing_datastore(tortie: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORTIE_EMBEDDED_PATH", str(tmp_path / "none.db"))
    outcome = tortie("get", "nodes")
    assert outcome.code == 3
    assert "none.db" in outcome.err
    assert outcome.err.count("\n") == 1
    monkeypatch.setenv("DATASTORE_TYPE", "carrier-pigeon")
    assert tortie("get", "nodes").code == 2


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
    from tortie.ctl.kinds import ALIASES, COLUMNS
    from tortie.model.catalogue import TYPES

    assert set(COLUMNS) == set(TYPES) == set(ALIASES.values())
    for alias in ALIASES:
        assert tortie("get", alias.upper(), "-o", "wide", "-A").code == 0
