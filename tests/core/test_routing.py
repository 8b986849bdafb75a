"""Which route a request belongs to, and whether it may enter."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw import config, errors
from fastgw.admission import KEPT, KEYED, NEVER, PLAIN, STOP, UNKNOWN, Admission, Refusal
from fastgw.core.routing import Router
from fastgw.messages import Head

ROUTES = """
[gateway]
name = "shop"
{gateway}
[kafka]
bootstrap = "localhost:9092"
[[route]]
method = "POST"
path = "/orders"
topic = "orders"
max_body = "1KiB"
[[route]]
method = ["GET", "HEAD"]
path = "/orders/{{id}}"
topic = "orders"
timeout = "2s"
[[route]]
method = "GET"
path = "/orders/latest"
topic = "orders"
[[route]]
method = "GET"
path = "/a/{{x}}/c"
topic = "orders"
[[route]]
method = "GET"
path = "/a/b/{{y}}"
topic = "orders"
[[route]]
method = "GET"
path = "/a/b/c/d"
topic = "orders"
[[route]]
method = "GET"
path = "/straße/7"
topic = "orders"
[[route]]
method = ["QUERY", "GET"]
path = "/search"
topic = "orders"
"""


class FakeHeaders(dict[str, list[str]]):
    """Request headers as a front has them."""

    def get(self, key: str) -> str | None:
        return self[key][0] if key in self else None

    def get_all(self, key: str) -> Sequence[str]:
        return super().get(key, [])


def intake_with(gateway: str = "") -> Router:
    cfg = config.loads(ROUTES.format(gateway=gateway), "test.toml")
    return Router(cfg.routes, cfg.limits, cfg.gateway.hosts)


INTAKE = intake_with()


def head(method="GET", path="/orders/7", query="", hosts=("shop.test",), length=None, is_streamed=False, **h):
    headers = FakeHeaders({name: value if isinstance(value, list) else [value] for name, value in h.items()})
    return Head(method, path, query, headers, hosts, length, is_streamed)


def admitted(*args, **kwargs) -> Admission:
    verdict = INTAKE.admit(head(*args, **kwargs))
    assert isinstance(verdict, Admission), verdict
    return verdict


def refused(*args, intake=INTAKE, **kwargs) -> Refusal:
    verdict = intake.admit(head(*args, **kwargs))
    assert isinstance(verdict, Refusal), verdict
    return verdict


def test_a_static_path_finds_its_route():
    assert admitted("POST", "/orders", length=10).route_number == 0


def test_path_parameters_are_taken_by_name():
    assert admitted("GET", "/orders/7").params == (("id", "7"),)
    assert admitted("HEAD", "/orders/7").method == "HEAD"


@pytest.mark.parametrize(
    ("path", "number", "params"),
    [
        ("/orders/latest", 2, ()),
        ("/a/b/c", 4, (("y", "c"),)),
        ("/a/z/c", 3, (("x", "z"),)),
        ("/a/b/c/d", 5, ()),
        ("/a/b/z", 4, (("y", "z"),)),
    ],
)
def test_the_leftmost_literal_wins(path, number, params):
    verdict = admitted("GET", path)
    assert (verdict.route_number, verdict.params) == (number, params)


@pytest.mark.parametrize("path", ["/", "/nothing", "/orders/7/more", "/orders/", "//orders", "/orders//", "/a/z/d"])
def test_a_path_without_route_is_404(path):
    assert refused("GET", path).ending is errors.NO_ROUTE


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_method_that_the_path_does_not_take_is_405_with_allow(method):
    verdict = refused(method, "/orders")
    assert verdict.ending is errors.WRONG_METHOD
    assert verdict.headers == [("allow", "POST")]


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "post", "BREW", "lloGET"])
def test_a_method_that_no_path_takes_ends_the_connection_as_well(method):
    """It may be the rest of a body that was longer than it said."""
    assert refused(method, "/orders").headers == [("allow", "POST"), ("connection", "close")]
    assert refused(method, "/nowhere").headers == [("connection", "close")]


@pytest.mark.parametrize(
    "host",
    ["", "a b", "a,b", "a, b", "x@a", "a/b", "a?", "a\\b", "a:b", "a:1:2", "a:123456", "[::1", "::1", "\u00e4.test"],
)
def test_a_host_that_is_none_is_refused(host):
    assert refused("GET", "/orders/7", hosts=(host,)).ending is errors.MALFORMED


@pytest.mark.parametrize(
    "host", ["a", "a.b-c_d", "10.0.0.1:80", "[::1]:8080", "[::ffff:10.0.0.1]", "a:", "xn--4ca.test"]
)
def test_a_host_may_be_a_name_or_an_address_with_or_without_port(host):
    admitted(hosts=(host,))


def test_a_host_is_checked_the_second_time_as_well():
    strict = intake_with('hosts = ["shop.test"]')
    for _ in range(2):
        assert isinstance(strict.admit(head(hosts=("shop.test",))), Admission)
        assert isinstance(strict.admit(head(hosts=("evil.test",))), Refusal)


def test_many_different_hosts_are_not_remembered_for_ever():
    for number in range(3000):
        assert isinstance(INTAKE.admit(head(hosts=(f"h{number}.test",))), Admission)
    assert INTAKE.hosts_remembered <= 1024


def test_a_long_host_is_not_remembered():
    before = INTAKE.hosts_remembered
    assert isinstance(INTAKE.admit(head(hosts=("h" * 256,))), Admission)
    assert INTAKE.hosts_remembered == before


def test_a_query_that_is_not_percent_encoded_is_refused():
    assert refused("GET", "/orders/7", query="a=\u00e4").ending is errors.MALFORMED


@pytest.mark.parametrize(
    "path",
    [
        "/orders/../etc", "/..", "/orders/.", "/./orders", "/orders/%2e", "/orders/%2E%2e", "/orders/.%2e",
        "/orders/a%2F..%2Fb", "/orders/%2f.", "/orders/%00", "/orders/a%00b", "/orders/%zz", "/orders/%", "/orders/%2",
        "/orders/%%41", "/%u0041", "/orders/\x00", "/orders/a b", "/orders/\xe4", "orders", "*", "",
    ],
)  # fmt: skip
def test_an_unsound_path_is_malformed(path):
    assert refused("GET", path).ending is errors.MALFORMED


@pytest.mark.parametrize(
    ("path", "number", "params"),
    [
        ("/orders/%6catest", 2, ()),
        ("/%6frders/a%2Fb", 1, (("id", "a%2Fb"),)),
        ("/orders/a+b", 1, (("id", "a+b"),)),
        ("/orders/%ff", 1, (("id", "%ff"),)),
        ("/orders/...", 1, (("id", "..."),)),
        ("/orders/%252e%252e", 1, (("id", "%252e%252e"),)),
        ("/stra%C3%9Fe/7", 6, ()),
    ],
)
def test_a_path_is_split_first_and_each_segment_is_decoded_once(path, number, params):
    verdict = admitted("GET", path)
    assert (verdict.route_number, verdict.path, verdict.params) == (number, path, params)


@pytest.mark.parametrize("path", ["/orders%2Flatest", "/a%2Fb/c", "/a/b%2fc", "/stra%DFe/7"])
def test_an_encoded_slash_separates_nothing(path):
    assert refused("GET", path).ending is errors.NO_ROUTE


@pytest.mark.parametrize("hosts", [(), ("a", "b"), ("a", "a")])
def test_exactly_one_host_is_wanted(hosts):
    assert refused("GET", "/orders/7", hosts=hosts).ending is errors.MALFORMED


def test_only_listed_hosts_are_served_where_there_is_a_list():
    strict = intake_with('hosts = ["shop.test"]')
    for host in ("shop.test", "SHOP.test:8080"):
        assert isinstance(strict.admit(head(hosts=(host,))), Admission)
    assert refused(hosts=("evil.test",), intake=strict).ending is errors.MISDIRECTED


def test_a_body_up_to_the_limit_is_taken_and_one_byte_more_is_not():
    assert admitted("POST", "/orders", length=1024).body_bytes == 1024
    verdict = refused("POST", "/orders", length=1025)
    assert verdict.ending is errors.BODY_TOO_LARGE
    assert "1024" in verdict.detail
    assert "1025" in verdict.detail
    assert refused("POST", "/orders", length=2**64 - 1).ending is errors.BODY_TOO_LARGE


@pytest.mark.parametrize(("method", "path"), [("POST", "/orders"), ("GET", "/orders/7"), ("HEAD", "/orders/7")])
def test_a_body_of_unknown_length_is_taken_with_any_method(method, path):
    assert admitted(method, path, is_streamed=True).body_bytes == UNKNOWN
    assert admitted(method, path, is_streamed=True, length=5).body_bytes == 5


def test_options_of_everything_is_answered_with_all_methods_and_has_no_record():
    verdict = refused("OPTIONS", "*")
    assert (verdict.is_options, verdict.headers) == (True, [("allow", "GET, HEAD, POST, QUERY")])
    assert refused("OPTIONS", "*", hosts=()).ending is errors.MALFORMED
    assert refused("GET", "*").ending is errors.MALFORMED


def test_no_body_at_all_is_fine():
    assert admitted("POST", "/orders").body_bytes == 0
    assert admitted("GET", "/orders/7").body_bytes == 0


def test_a_target_above_the_limit_is_414_on_static_paths_too():
    assert refused("POST", "/orders", query="q" * 9000).ending is errors.TARGET_TOO_LONG
    assert refused("GET", "/orders/" + "x" * 9000).ending is errors.TARGET_TOO_LONG


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        ("wait=1", 1),
        ("respond-async, wait=1", 1),
        ('wait="1"', 1),
        ("WAIT = 1", 1),
        ("wait=1; foo=bar", 1),
        (["respond-async", "wait=1"], 1),
        (["", "wait=1"], 1),
        ("wait=1, wait=2", 1),
        ("wait=2, wait=1", 2),
        ('foo="a, wait=1", bar', 2),
        ('foo="a\\", wait=1", wait=1', 1),
        ('foo="a, wait=1', 2),
        ("wait=100", 2),
        ("wait=x", 2),
        ("wait=-1", 2),
        ("respond-async", 2),
        ("", 2),
    ],
)
def test_prefer_wait_lowers_the_timeout_and_never_raises_it(prefer, seconds):
    assert admitted("GET", "/orders/7", prefer=prefer).timeout_ns == seconds * 1_000_000_000


@pytest.mark.parametrize("prefer", ["wait=0", 'respond-async, wait="00"', ["x", "wait = 0"]])
def test_who_waits_for_nothing_gets_no_record_that_nobody_could_answer(prefer):
    verdict = refused("GET", "/orders/7", prefer=prefer)
    assert (verdict.ending, verdict.route_number) == (errors.MALFORMED, 1)
    assert "Prefer: wait" in verdict.detail


CATCH_ALL = """
[gateway]
name = "shop"
[kafka]
bootstrap = "localhost:9092"
[[route]]
method = "GET"
path = "/files/{rest...}"
topic = "orders"
[[route]]
method = "GET"
path = "/files/{id}/size"
topic = "orders"
[[route]]
method = "GET"
path = "/files/list"
topic = "orders"
[[route]]
method = ["GET", "POST"]
path = "/all/{kind}/{rest...}"
topic = "orders"
head = false
[[route]]
method = "HEAD"
path = "/all/{k}/{r...}"
topic = "orders"
"""


@pytest.mark.parametrize(
    ("path", "number", "params"),
    [
        ("/files/", 0, (("rest", ""),)),
        ("/files/a", 0, (("rest", "a"),)),
        ("/files/a%2Fb//c/", 0, (("rest", "a%2Fb//c/"),)),
        ("/files//", 0, (("rest", "/"),)),
        ("/files/7/size", 1, (("id", "7"),)),
        ("/files/7/size/", 0, (("rest", "7/size/"),)),
        ("/files/list", 2, ()),
        ("/files/list/", 0, (("rest", "list/"),)),
        ("/all/x/", 3, (("kind", "x"), ("rest", ""))),
        ("/all/x/y/z", 3, (("kind", "x"), ("rest", "y/z"))),
    ],
)
def test_the_rest_of_a_path_is_what_no_other_route_takes(path, number, params):
    cfg = config.loads(CATCH_ALL, "test.toml")
    verdict = Router(cfg.routes, cfg.limits, ()).admit(head("GET", path))
    assert isinstance(verdict, Admission), verdict
    assert (verdict.route_number, verdict.params) == (number, params)


@pytest.mark.parametrize(
    ("path", "ending"),
    [
        ("/files", errors.NO_ROUTE),
        ("/all//x", errors.NO_ROUTE),
        ("/files/../a", errors.MALFORMED),
        ("/files/a/%2e%2e", errors.MALFORMED),
    ],
)
def test_the_rest_of_a_path_begins_behind_a_slash_and_holds_no_dots(path, ending):
    cfg = config.loads(CATCH_ALL, "test.toml")
    assert refused("GET", path, intake=Router(cfg.routes, cfg.limits, ())).ending is ending


def test_head_is_taken_wherever_get_is_unless_it_is_switched_off():
    cfg = config.loads(CATCH_ALL, "test.toml")
    assert [route.methods for route in cfg.routes] == [
        ("GET", "HEAD"),
        ("GET", "HEAD"),
        ("GET", "HEAD"),
        ("GET", "POST"),
        ("HEAD",),
    ]
    verdict = Router(cfg.routes, cfg.limits, ()).admit(head("HEAD", "/all/x/y"))
    assert isinstance(verdict, Admission)
    assert verdict.route_number == 4
    without = config.loads(CATCH_ALL.replace('/files/list"', '/files/list"\nhead = false'), "test.toml")
    assert refused("HEAD", "/files/list", intake=Router(without.routes, without.limits, ())).headers == [
        ("allow", "GET")
    ]


def test_a_query_has_a_body_of_a_known_type():
    """RFC 10008, section 2."""
    verdict = admitted("QUERY", "/search", length=10, **{"content-type": "application/sql"})
    assert (verdict.method, verdict.body_bytes) == ("QUERY", 10)
    assert admitted("QUERY", "/search", **{"content-type": "application/sql"}).body_bytes == 0
    assert refused("QUERY", "/search", length=10).ending is errors.MALFORMED
    assert admitted("GET", "/search").method == "GET"


def test_a_path_that_does_not_take_queries_says_so_and_keeps_the_connection():
    verdict = refused("QUERY", "/orders", **{"content-type": "application/sql"})
    assert (verdict.ending, verdict.headers) == (errors.WRONG_METHOD, [("allow", "POST")])


def test_no_request_streams_unless_its_route_does():
    assert admitted("GET", "/orders/7").kind == PLAIN


STREAMS = """
[gateway]
name = "shop"
secrets = ["a secret of at least 32 characters"]
[kafka]
bootstrap = "localhost:9092"
[[route]]
method = ["GET", "QUERY"]
path = "/orders/{id}"
topic = "orders"
reply = "stream"
resume = true
cancel = true
[[route]]
method = "GET"
path = "/files"
topic = "orders"
reply = "stream"
resume = true
[[route]]
method = "GET"
path = "/notes/{id}"
topic = "orders"
reply = "stream"
resume = true
cancel = true
[[route]]
method = "DELETE"
path = "/notes/{id}"
topic = "orders"
"""


def streaming(path, **h):
    cfg = config.loads(STREAMS, "test.toml")
    return Router(cfg.routes, cfg.limits, ()).admit(head("DELETE", path, **h))


def test_delete_stops_a_stream_that_can_be_resumed_and_cancelled():
    position = {"last-event-id": "x.1.2"}
    verdict = streaming("/orders/7", **position)
    assert (verdict.kind, verdict.route_number) == (STOP, 0)
    assert streaming("/orders/7", query="last_event_id=x.1.2").kind == STOP
    assert streaming("/orders/7").ending is errors.MALFORMED
    assert "Last-Event-ID" in streaming("/orders/7").detail
    assert streaming("/files", **position).ending is errors.WRONG_METHOD
    assert streaming("/files", **position).headers == [("allow", "GET, HEAD")]
    verdict = streaming("/notes/7", **position)
    assert (verdict.kind, verdict.route_number) == (PLAIN, 3), "another route has this method"


@given(st.text(max_size=60), st.text(max_size=20), st.sampled_from(["GET", "POST", "HEAD", "PUT", "QUERY"]))
def test_any_path_gets_a_verdict(path, query, method):
    assert isinstance(INTAKE.admit(head(method, path, query)), Admission | Refusal)


@pytest.mark.parametrize("path", ["/nowhere", "/orders/" + "7" * 10_000])
@pytest.mark.parametrize("hosts", [(), ("a", "b")])
def test_a_request_that_names_no_single_host_is_malformed_whatever_its_path(hosts, path):
    assert refused("GET", path, hosts=hosts).ending is errors.MALFORMED


KEYS = """
[gateway]
name = "shop"
secrets = ["a secret of at least 32 characters"]
[kafka]
bootstrap = "localhost:9092"
[store]
dir = "store"
[[route]]
method = "POST"
path = "/accept"
topic = "orders"
idempotency = "accept"
[[route]]
method = "POST"
path = "/require"
topic = "orders"
idempotency = "require"
[[route]]
method = "POST"
path = "/off"
topic = "orders"
"""
LONG = "k" * 10_000


@pytest.mark.parametrize(
    ("path", "lines", "kind"),
    [
        ("/accept", [], PLAIN),
        ("/accept", ["k"], KEYED),
        ("/accept", [LONG], None),
        ("/accept", ["a", "b"], None),
        ("/require", [], None),
        ("/require", ['"k"'], KEYED),
        ("/require", ['""'], None),
        ("/off", [LONG], PLAIN),
    ],
)
def test_a_request_has_a_key_where_its_route_takes_keys(path: str, lines: list[str], kind: int | None) -> None:
    cfg = config.loads(KEYS, "test.toml")
    router = Router(cfg.routes, cfg.limits, (), tickets=cfg.tickets)
    headers = {"idempotency-key": lines} if lines else {}
    verdict = router.admit(head("POST", path, **headers))
    if kind is None:
        assert isinstance(verdict, Refusal)
        assert (verdict.ending, verdict.route_number) == (errors.KEY_INVALID, 1 if path == "/require" else 0)
    else:
        assert isinstance(verdict, Admission)
        assert verdict.kind == kind


@pytest.mark.parametrize(
    ("lines", "prefer", "kind", "defer_after_s"),
    [
        (["k"], "respond-async", KEYED, 0),
        (["k"], "respond-async, wait=2", KEYED, 2),
        (["k"], "wait=2", KEYED, None),
        (["k"], "", KEYED, None),
        ([], "respond-async", KEPT, 0),
    ],
)
def test_a_request_with_a_key_is_deferred_where_its_client_and_its_route_want_that(
    lines: list[str], prefer: str, kind: int, defer_after_s: int | None
) -> None:
    cfg = config.loads(KEYS.replace('idempotency = "accept"', 'idempotency = "accept"\nlater = true'), "test.toml")
    router = Router(cfg.routes, cfg.limits, (), tickets=cfg.tickets)
    headers = {name: value for name, value in (("idempotency-key", lines), ("prefer", prefer)) if value}
    verdict = router.admit(head("POST", "/accept", **headers))
    assert isinstance(verdict, Admission)
    assert (verdict.kind, verdict.is_async) == (kind, "async" in prefer)
    assert verdict.defer_after_ns == (NEVER if defer_after_s is None else defer_after_s * 1_000_000_000)


def test_a_request_with_a_key_waits_no_longer_than_its_client_and_is_never_deferred() -> None:
    cfg = config.loads(KEYS, "test.toml")
    assert cfg.tickets is None
    router = Router(cfg.routes, cfg.limits, ())
    verdict = router.admit(head("POST", "/accept", **{"idempotency-key": "k", "prefer": "respond-async, wait=2"}))
    assert isinstance(verdict, Admission)
    assert (verdict.kind, verdict.timeout_ns) == (KEYED, 2_000_000_000)
