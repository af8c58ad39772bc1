"""Keys and revisions in pages against a dict."""

from hypothesis import given
from hypothesis import strategies as st

from tortie.datastore.delivered import Delivered

directories = st.sampled_from(["/calico/a/", "/calico/b/red/", "/calico/b/red", "/x/", ""])
keys = st.builds(
    "{}{}".format,
    directories,
    st.one_of(
        st.integers(0, 400).map(str),
        st.text(max_size=3),
        st.sampled_from(["\udc80", "é\udcff", "\0"]),
    ),
)
revisions = st.one_of(st.none(), st.integers(1, 2**63 - 1), st.integers(1, 9))
LAST = "\U0010ffff" * 4


def ordered(key: str) -> bytes:
    return key.encode(errors="surrogateescape")


several = st.dictionaries(keys, revisions, max_size=400)
one = st.dictionaries(keys, revisions, min_size=1, max_size=1)


@given(st.lists(st.one_of(several, one, one), max_size=8))
def test_pages_hold_what_a_dict_holds(history: list[dict[str, int | None]]) -> None:
    paged, plain = Delivered(), dict[str, int]()
    for changes in history:
        paged.record(changes.items())
        for key, revision in changes.items():
            if revision is None:
                plain.pop(key, None)
            else:
                plain[key] = revision
        assert paged.between("", LAST) == plain
        low, high = sorted([*changes, "/calico/a/3", "/calico/b/"], key=ordered)[:2]
        inside = {
            key: revision
            for key, revision in plain.items()
            if ordered(low) <= ordered(key) <= ordered(high)
        }
        assert paged.between(low, high) == inside
        assert len(paged) == len(plain)
        assert all(paged.get(key) == plain.get(key) for key in changes)
        assert all(paged.get(key) == revision for key, revision in list(plain.items())[:20])


def test_a_sorted_load_is_small_and_in_order() -> None:
    paged = Delivered()
    wanted = [f"/calico/resources/v3/kind/ns/node--1-k8s-pod--{n:05}-eth0" for n in range(5000)]
    for start in range(0, len(wanted), 1000):
        paged.record((key, 7) for key in wanted[start : start + 1000])
    assert list(paged.between("", LAST)) == wanted
    pages = paged._pages
    assert sum(len(page.rests) for page in pages) < 16 * len(wanted)
    assert len(pages) < len(wanted) / 50
