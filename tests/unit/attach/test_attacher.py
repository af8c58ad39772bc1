"""Add and Remove: what they make, again, at the same time, and cut short at every step."""

import asyncio
import contextlib
import errno
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.attach.bench import ENDPOINTS, Bench, Crash, FakeLink, Moment, request
from tests.unit.ipam.invariants import allocated

from tortie.attach import addition, attacher
from tortie.attach.journal import Journal
from tortie.attach.plumbing import Wanted
from tortie.attach.requests import Port, Remove
from tortie.lib.errors import (
    AlreadyExists,
    InvalidInput,
    KernelRefused,
    NotFound,
    TortieError,
    Unavailable,
)
from tortie.model.keys import ResourceKey
from tortie.model.metadata import Metadata
from tortie.model.node import ClusterInformation, ClusterInformationSpec, Node

MOST_STEPS = 60


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def stored_endpoint(bench: Bench, name: str = "h1-tortie-web-eth0") -> Any:
    return json.loads(bench.entries()[f"{ENDPOINTS}prod/{name}"])


def test_add_makes_everything_and_says_what(bench: Bench) -> None:
    found = bench.add(
        labels={"app": "web"},
        profiles=("kns.prod",),
        ports=(Port(name="http", port=80),),
        families=(4, 6),
    )
    endpoint = stored_endpoint(bench)
    assert endpoint["metadata"]["labels"] == {
        "app": "web",
        "projectcalico.org/namespace": "prod",
        "projectcalico.org/orchestrator": "tortie",
    }
    spec = endpoint["spec"]
    assert (spec["node"], spec["workload"], spec["endpoint"]) == ("h1", "web", "eth0")
    assert spec["ipNetworks"] == list(found.addresses)
    assert spec["interfaceName"] == found.interface
    assert spec["profiles"] == ["kns.prod"]
    assert spec["ports"] == [{"name": "http", "protocol": "TCP", "port": 80}]
    assert spec["mac"] == found.mac
    assert found.interface.startswith("cali")
    assert len(found.interface) == 15
    assert set(bench.addresses().values()) == {"tortie.prod.web.eth0"}
    assert bench.waited == [found.revision]
    assert list(found.timings) == [
        "journal", "addresses", "link", "endpoint", "enforced", "recorded",
    ]  # fmt: skip
    addresses = bench.plumbing["h1"].addresses[found.interface]
    assert list(map(str, addresses)) == list(found.addresses)
    assert bench.check() == ()


def test_a_held_workload_has_a_link_and_no_endpoint_until_policy_may_see_it(bench: Bench) -> None:
    pair = {"device": "pair", "netns": "", "inside": "tmp0", "mac": "02:00:00:00:00:07"}
    held = bench.add(**pair, held=True, network="net1")
    assert held.revision == 0
    assert held.interface in bench.plumbing["h1"].links
    assert not [key for key in bench.entries() if key.startswith(ENDPOINTS)]
    assert bench.waited == []
    bench.restart()
    opened = bench.add(**pair, network="net1", labels={"app": "web"})
    assert (opened.interface, opened.addresses) == (held.interface, held.addresses)
    assert stored_endpoint(bench)["metadata"]["labels"]["app"] == "web"
    assert bench.waited == [opened.revision]
    assert opened.network == "net1"
    bench.remove()
    assert bench.left_overs() == []


def test_add_again_answers_the_same(bench: Bench) -> None:
    first = bench.add()
    revision = bench.store.revision
    again = bench.add()
    assert (again.addresses, again.interface, again.revision) == (
        first.addresses,
        first.interface,
        first.revision,
    )
    assert bench.store.revision == revision


def test_remove_leaves_nothing_and_may_be_repeated(bench: Bench) -> None:
    bench.add(families=(4, 6))
    assert bench.remove().found is True
    assert bench.left_overs() == []
    assert bench.waited[-1] == bench.waited[0] + 1
    assert bench.remove().found is False
    with pytest.raises(NotFound, match="not attached to host h1"):
        bench.check()


def test_an_address_is_free_only_after_it_is_unprogrammed(bench: Bench) -> None:
    bench.add()
    bench.wait_error = Unavailable("nft is busy")
    assert bench.remove().pending is True
    assert bench.plumbing["h1"].links == {}
    assert len(bench.addresses()) == 1
    bench.wait_error = None
    assert bench.run(bench.host().recover()) is True
    assert bench.left_overs() == []


def test_a_restart_knows_what_is_attached(bench: Bench) -> None:
    found = bench.add()
    bench.add("db")
    listed = bench.restart().listed().workloads
    assert [workload.key.workload for workload in listed] == ["db", "web"]
    assert listed[1].addresses == found.addresses
    assert bench.run(bench.host().recover()) is True
    assert len(bench.host().listed().workloads) == 2


def test_a_move_keeps_the_address(bench: Bench) -> None:
    first = bench.add(host="h1")
    bench.remove(host="h1", keep_addresses=True)
    assert bench.left_overs("h1") == list(bench.addresses())
    assert bench.add(host="h2").addresses == first.addresses
    assert bench.endpoints() == ["prod/h2-tortie-web-eth0"]
    bench.remove(host="h2")
    assert bench.left_overs("h2") == []


def test_a_move_in_the_other_order_keeps_it_too(bench: Bench) -> None:
    first = bench.add(host="h1")
    assert bench.add(host="h2").addresses == first.addresses
    bench.remove(host="h1")
    assert bench.endpoints() == ["prod/h2-tortie-web-eth0"]
    assert len(bench.addresses()) == 1


def test_a_failed_move_keeps_the_address(bench: Bench) -> None:
    bench.add(host="h1")
    bench.wait_error = Unavailable("late")
    with pytest.raises(Unavailable):
        bench.add(host="h2")
    assert len(bench.addresses()) == 1
    assert bench.plumbing["h2"].links == {}
    bench.wait_error = None
    assert bench.run(bench.host("h2").recover()) is True
    assert len(bench.addresses()) == 1
    assert bench.endpoints() == ["prod/h1-tortie-web-eth0"]


def goes_on_on_h1(bench: Bench) -> None:
    """The workload has its address on h1 as if it had never been about to leave."""
    handle = "tortie.prod.web.eth0"
    assert bench.endpoints() == ["prod/h1-tortie-web-eth0"]
    bench.run(bench.host("h2").allocator.release(handle, only_host=True))
    assert len(bench.addresses()) == 1
    bench.remove(host="h1")
    assert bench.left_overs("h1") == []


@pytest.mark.parametrize("keep", [False, True])
def test_a_move_that_is_called_off_leaves_the_address_where_it_was(
    bench: Bench, keep: bool
) -> None:
    bench.add(host="h1")
    bench.add(host="h2")
    bench.add("web-eth0", host="h1")  # alike, and another one
    bench.remove(host="h2", keep_addresses=keep)
    bench.remove("web-eth0", host="h1")
    goes_on_on_h1(bench)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", ["add", "remove"])
def test_a_move_cut_short_at_any_step_and_called_off(
    bench: Bench, call: str, moment: Moment
) -> None:
    for at in range(1, MOST_STEPS):
        bench.add(host="h1")
        if call == "remove":
            bench.add(host="h2")
        bench.steps.fail_at(at, moment, Crash())
        with contextlib.suppress(Crash):
            bench.add(host="h2") if call == "add" else bench.remove(host="h2")
        failed = bench.steps.failed
        bench.steps.disarm()
        assert bench.run(bench.restart("h2").recover()) is True
        bench.remove(host="h2")
        goes_on_on_h1(bench)
        if not failed:
            break
    assert 6 < at < MOST_STEPS - 1


def test_a_new_container_is_one_transaction_and_no_read(bench: Bench) -> None:
    bench.is_ready = True
    bench.add("first", container_id="c0")  # and with it, the allocator's view
    before = len(bench.steps.taken)
    bench.add(container_id="c1")
    steps = ["journal", "make", "transact", "configure", "wait", "journal"]
    assert bench.steps.taken[before:] == steps


def test_an_address_that_the_datastore_forgot_is_passed_over_when_asked_again(
    bench: Bench,
) -> None:
    """As when a host's Node was deleted, and its addresses with it, while its workloads run."""
    bench.is_ready = True
    first = bench.add("first", container_id="c0")
    for key in bench.entries():
        if key.startswith("/calico/ipam/"):
            bench.run(bench.clients["h1"].delete(key))
    bench.restart()  # it has no view of before
    with pytest.raises(AlreadyExists, match="is in use by"):
        bench.add(container_id="c1")
    found = bench.add(container_id="c1")
    assert found.addresses != first.addresses
    assert bench.endpoints() == ["prod/h1-tortie-first-eth0", "prod/h1-tortie-web-eth0"]


def test_an_endpoint_that_is_there_already_takes_what_the_new_container_is(bench: Bench) -> None:
    """Its transaction with the addresses cannot be; they come without it, and it is replaced."""
    bench.is_ready = True
    bench.add("first", container_id="c0")
    [key] = [key for key in bench.entries() if key.startswith(ENDPOINTS)]
    other = key.replace("first", "web")
    bench.run(bench.clients["h1"].put(other, bench.entries()[key].replace(b"first", b"web")))
    found = bench.add(container_id="c1")
    assert stored_endpoint(bench)["spec"]["ipNetworks"] == list(found.addresses)
    assert stored_endpoint(bench)["spec"]["containerID"] == "c1"
    assert "endpoint" in found.timings


@pytest.mark.parametrize("step", ["make", "configure"])
def test_a_link_that_cannot_be_made_costs_nobody_anything(bench: Bench, step: str) -> None:
    bench.is_ready = True
    bench.add("first", container_id="c0")
    revision = bench.store.revision
    at = {"make": 2, "configure": 4}[step]
    bench.steps.fail_at(at, "before", KernelRefused("no", errno.EPERM))
    with pytest.raises(KernelRefused):
        bench.add(container_id="c1")
    assert bench.steps.taken[at - 1] == step
    assert bench.plumbing["h1"].open == 0
    if step == "make":
        assert bench.store.revision == revision, "nothing was written"
    bench.remove("first")
    assert bench.left_overs() == []


def test_a_slow_link_holds_up_nobody_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addition, "PATIENCE_SECONDS", 0.05)
    bench.is_ready = True
    bench.add("first", container_id="c0")
    plumbing, goes_on = bench.plumbing["h1"], asyncio.Event()
    make = plumbing.make

    async def slow(wanted: Wanted) -> FakeLink:
        if wanted.netns == "/slow":
            await goes_on.wait()
        return await make(wanted)

    monkeypatch.setattr(plumbing, "make", slow)

    async def go() -> None:
        host = bench.host()
        late = asyncio.create_task(host.add(request(container_id="c1", netns="/slow")))
        await asyncio.sleep(0)
        await host.add(request("other", container_id="c2"))
        assert not late.done()
        goes_on.set()
        assert "endpoint" in (await late).timings, "in a transaction of its own"

    bench.run(go())
    assert bench.plumbing["h1"].open == 0
    assert len(bench.endpoints()) == 3


def test_a_container_that_is_not_new_is_looked_up_after_all(bench: Bench) -> None:
    first = bench.add(container_id="c1")
    bench.remove(keep_addresses=True)
    bench.is_ready = True
    bench.wait_error = Unavailable("late")
    with pytest.raises(Unavailable):
        bench.add(container_id="c1", host="h2")
    assert len(bench.addresses()) == 1, "they were there before it, and stay"
    bench.wait_error = None
    bench.run(bench.host("h2").recover())
    assert bench.add(container_id="c1", host="h2").addresses == first.addresses


def test_addresses_of_an_assignment_whose_answer_was_lost_are_its_own(bench: Bench) -> None:
    bench.is_ready = True
    bench.add("first", container_id="c0")
    bench.remove("first")
    bench.steps.fail_at(3, "after", Unavailable("lost", maybe_applied=True))
    bench.wait_error = Unavailable("late")
    with pytest.raises(Unavailable, match="late"):
        bench.add(container_id="c1")
    assert bench.steps.failed
    bench.wait_error = None
    bench.run(bench.host().recover())
    assert bench.left_overs() == []


def test_addresses_kept_for_a_move_that_never_came_can_be_released(bench: Bench) -> None:
    bench.add()
    bench.remove(keep_addresses=True)
    assert len(bench.addresses()) == 1
    assert bench.remove().found is True
    assert bench.left_overs() == []


def test_a_failed_add_is_undone(bench: Bench) -> None:
    bench.wait_error = Unavailable("nft is busy")
    with pytest.raises(Unavailable, match="nft is busy"):
        bench.add()
    bench.wait_error = None
    bench.run(bench.host().recover())
    assert bench.left_overs() == []


def test_an_add_that_takes_too_long_is_undone(bench: Bench) -> None:
    async def never(revision: int, timeout_seconds: float) -> None:
        if not bench.waited:
            bench.waited.append(revision)
            await asyncio.Event().wait()

    bench.on_wait = never
    with pytest.raises(Unavailable, match=r"not attached after 1 s \(done: .*endpoint"):
        bench.add(timeout_seconds=1.0)
    assert bench.left_overs() == []


def test_a_repeated_add_that_fails_undoes_nothing(bench: Bench) -> None:
    found = bench.add()
    bench.wait_error = Unavailable("late")
    with pytest.raises(Unavailable):
        bench.add(labels={"app": "web"})
    assert bench.host().listed().workloads[0].addresses == found.addresses
    assert list(bench.plumbing["h1"].links) == [found.interface]


@pytest.mark.parametrize("container", ["", "c1"])
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kind", ["crash", "unavailable"])
def test_an_add_cut_short_at_any_step_leaves_nothing(
    bench: Bench, moment: Moment, kind: str, container: str
) -> None:
    bench.is_ready = True  # a new container is not looked up
    for at in range(1, MOST_STEPS):
        error = Crash() if kind == "crash" else Unavailable("lost", maybe_applied=True)
        bench.steps.fail_at(at, moment, error)
        try:
            bench.add(families=(4, 6), container_id=container)
        except (Crash, TortieError):
            assert bench.run(bench.restart().recover()) is True
            if bench.host().listed().workloads:
                bench.remove()  # it died with the last step done: all of it is there
            assert bench.left_overs() == [], f"step {at} of {bench.steps.taken}"
        else:
            if not bench.steps.failed:
                break
            bench.remove()
            assert bench.left_overs() == []
    assert 6 < at < MOST_STEPS - 1


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kind", ["crash", "unavailable"])
def test_a_remove_cut_short_at_any_step_is_finished(
    bench: Bench, moment: Moment, kind: str
) -> None:
    for at in range(1, MOST_STEPS):
        bench.steps.disarm()
        bench.add(families=(4, 6))
        error = Crash() if kind == "crash" else Unavailable("lost", maybe_applied=True)
        bench.steps.fail_at(at, moment, error)
        with contextlib.suppress(Crash, TortieError):
            bench.remove()
        done = not bench.steps.failed
        bench.steps.disarm()
        assert bench.run(bench.restart().recover()) is True
        bench.remove()
        assert bench.left_overs() == [], f"step {at}"
        if done:
            break
    assert 6 < at < MOST_STEPS - 1


def test_an_add_after_a_crash_gets_a_working_link(bench: Bench) -> None:
    for at in range(1, MOST_STEPS):
        bench.steps.fail_at(at, "after", Crash())
        try:
            bench.add()
        except Crash:
            bench.restart()
            bench.add()
        done = not bench.steps.failed
        bench.steps.disarm()
        assert bench.check() == ()
        if done:
            break
        bench.remove()
        assert bench.left_overs() == []


def test_remove_without_a_datastore_takes_the_link_and_finishes_later(bench: Bench) -> None:
    bench.add()
    bench.host()
    client = bench.clients["h1"]
    fault, client.fault = client.fault, _away
    answer = bench.remove()
    assert (answer.found, answer.pending) == (True, True)
    assert bench.plumbing["h1"].links == {}
    assert bench.run(bench.host().recover()) is False
    client.fault = fault
    assert bench.run(bench.host().recover()) is True
    assert bench.left_overs() == []


async def _away(moment: str, call: str) -> None:
    raise Unavailable("the datastore is away")


def test_replay_finishes_pending_work_by_itself(bench: Bench) -> None:
    bench.steps.fail_at(5, "after", Crash())  # the endpoint is there
    with pytest.raises(Crash):
        bench.add()

    async def go() -> None:
        task = asyncio.create_task(bench.restart().replay())
        for _ in range(200):
            if not bench.left_overs():
                break
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(go())
    assert bench.left_overs() == []


def test_calls_for_one_workload_take_turns(bench: Bench) -> None:
    async def go() -> None:
        host = bench.host()
        calls: list[Any] = [host.add(request()) for _ in range(5)]
        calls += [host.remove(Remove(namespace="prod", workload="web"))]
        calls += [host.add(request(f"w{number}")) for number in range(5)]
        await asyncio.gather(*calls)

    asyncio.run(go())
    assert len(bench.endpoints()) == len(bench.addresses()) == 5
    assert len(bench.host().listed().workloads) == 5


def test_a_datastore_that_is_not_ready_refuses(bench: Bench) -> None:
    spec = ClusterInformationSpec(datastore_ready=False)
    key = ResourceKey("ClusterInformation", "default")
    bench.put(key, ClusterInformation(metadata=Metadata(name="default"), spec=spec))
    with pytest.raises(Unavailable, match="datastoreReady false"):
        bench.add()
    assert bench.left_overs() == []


def test_a_failed_add_is_undone_in_the_datastore_when_it_is_ready_again(bench: Bench) -> None:
    key = ResourceKey("ClusterInformation", "default")

    def lock(is_locked: bool) -> None:
        spec = ClusterInformationSpec(datastore_ready=not is_locked)
        bench.put(key, ClusterInformation(metadata=Metadata(name="default"), spec=spec))

    async def locked_meanwhile(revision: int, timeout_seconds: float) -> None:
        await bench.clients["h1"].put(key.path, locked)
        raise Unavailable("late")

    lock(True)
    locked = bench.entries()[key.path]
    lock(False)
    bench.on_wait = locked_meanwhile
    with pytest.raises(Unavailable, match="late"):
        bench.add()
    assert bench.plumbing["h1"].links == {}
    assert len(bench.addresses()) == len(bench.endpoints()) == 1
    assert bench.run(bench.host().recover()) is False
    lock(False)
    bench.on_wait = bench._wait
    assert bench.run(bench.host().recover()) is True
    assert bench.left_overs() == []


def test_interfaces_outside_policy_or_taken_are_refused(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match="must start with 'cali'"):
        bench.add(host_interface="eth7")
    bench.add(host_interface="cali7")
    with pytest.raises(AlreadyExists, match="belongs to tortie workload prod/web"):
        bench.add("db", host_interface="cali7")
    with pytest.raises(AlreadyExists, match="attached with interface 'cali7'"):
        bench.add(host_interface="cali8")
    assert list(bench.plumbing["h1"].links) == ["cali7"]
    assert len(bench.addresses()) == 1


def test_the_interface_prefix_is_a_setting(bench: Bench) -> None:
    bench.restart(prefix="tap")
    assert bench.add().interface.startswith("tap")


def test_a_broken_rule_is_told_before_anything_is_made(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match="protocol"):
        bench.add(ports=(Port(name="x", protocol="ICMP", port=1),))
    with pytest.raises(InvalidInput, match="in no IPPool"):
        bench.add(addresses=("192.0.2.1",))
    assert bench.left_overs() == []


def test_check_names_what_is_missing(bench: Bench) -> None:
    found = bench.add()
    bench.plumbing["h1"].links.clear()
    bench.run(bench.host().allocator.release("tortie.prod.web.eth0"))
    bench.run(bench.clients["h1"].delete(f"{ENDPOINTS}prod/h1-tortie-web-eth0"))
    link, address, endpoint = bench.check()
    assert link == "no link"
    assert found.addresses[0].removesuffix("/32") in address
    assert "does not exist" in endpoint


def test_a_damaged_journal_file_does_not_stop_the_others(bench: Bench, tmp_path: Path) -> None:
    bench.add()
    (tmp_path / "h1" / "0.json").write_text("{")
    assert len(Journal(tmp_path / "h1").entries) == 1


def test_a_full_disk_refuses_add_but_not_remove(bench: Bench) -> None:
    bench.add()
    bench.journals["h1"].full = True
    with pytest.raises(Unavailable, match="No space left"):
        bench.add("db")
    assert bench.endpoints() == ["prod/h1-tortie-web-eth0"]
    assert bench.remove().found is True
    assert bench.left_overs() == []


def test_l17_a_host_that_was_declared_dead_by_mistake(bench: Bench) -> None:
    """Its workload's records were cleared, its address given away; then it is back."""
    node = ResourceKey("Node", "h1")
    bench.put(node, Node(metadata=Metadata(name="h1")))
    [lost] = bench.add().addresses
    bench.host()
    bench.run(bench.clients["h1"].delete(node.path))
    bench.run(bench.clients["h1"].delete(f"{ENDPOINTS}prod/h1-tortie-web-eth0"))
    bench.run(bench.host("h2").allocator.release("tortie.prod.web.eth0"))
    given = bench.add("db", host="h2", addresses=(lost.partition("/")[0],))
    assert given.addresses == (lost,)
    bench.restart()
    assert any("IPAM does not know" in problem for problem in bench.check()), "CHECK tells"
    assert bench.add("new").addresses != (lost,)
    # Another Add of the one that lost its address is told so, and takes nothing from anybody.
    again = bench.add()
    assert again.addresses != (lost,)
    bench.remove()
    assert bench.addresses()[lost.partition("/")[0]] == "tortie.prod.db.eth0"
    assert bench.check("db", host="h2") == ()


def test_l15_records_of_earlier_and_later_releases_are_read(bench: Bench, tmp_path: Path) -> None:
    """Up and down: what a release does not know it leaves out, what is not there has a default."""
    bench.add()
    [path] = (tmp_path / "h1").glob("*.json")
    newest = json.loads(path.read_text().splitlines()[-1])
    optional = ("container_id", "network", "ipam", "default_routes", "device", "keep_addresses")
    earlier = {name: value for name, value in newest.items() if name not in optional}
    path.write_text(json.dumps(earlier))  # one object, without a line's end
    assert [entry.phase for entry in Journal(tmp_path / "h1").entries] == ["attached"]
    path.write_text(json.dumps({**newest, "of_the_next_release": {"a": [1]}}) + "\n")
    bench.restart()
    assert bench.check() == ()
    assert bench.remove().found is True
    assert bench.left_overs() == []


def test_half_a_line_is_no_record(bench: Bench, tmp_path: Path) -> None:
    bench.add()
    [path] = (tmp_path / "h1").glob("*.json")
    whole = path.read_bytes()
    begun, attached = whole.splitlines(keepends=True)
    for cut in range(len(attached) - 1):
        path.write_bytes(begun + attached[:cut])
        assert [entry.phase for entry in Journal(tmp_path / "h1").entries] == ["adding"]
    path.write_bytes(whole)
    assert [entry.phase for entry in Journal(tmp_path / "h1").entries] == ["attached"]
    for torn in (begun[:-9], b""):  # the host stopped before the first line was on disk
        path.write_bytes(torn)
        assert Journal(tmp_path / "h1").entries == []
        assert not path.exists()


def test_leaks_are_not_collected_while_the_datastore_is_locked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacher, "TIDY_SECONDS", 0.001)

    def set_ready(ready: bool) -> None:
        spec = ClusterInformationSpec(datastore_ready=ready)
        key = ResourceKey("ClusterInformation", "default")
        bench.put(key, ClusterInformation(metadata=Metadata(name="default"), spec=spec))

    async def tidy(seconds: float) -> None:
        """Until nothing is left, but no longer than that."""
        running = asyncio.create_task(bench.host().tidy())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while allocated({e.key: e.value for e in bench.store.entries("/calico/")}):
                    await asyncio.sleep(0.002)
        running.cancel()

    bench.run(bench.host().allocator.assign({4}, "net.lost", {}))
    set_ready(False)
    locked = bench.entries()
    bench.run(tidy(0.3))
    assert bench.entries() == locked
    set_ready(True)
    bench.run(tidy(20.0))
    assert bench.addresses() == {}
