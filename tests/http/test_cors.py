"""What `[cors]` takes, and which headers it becomes."""

from __future__ import annotations

import pytest

from fastgw import config
from fastgw.errors import ConfigError
from fastgw.http.cors import Policies, Policy, dressed
from fastgw.messages import Head
from tests.core.test_routing import FakeHeaders

TEXT = """
[gateway]
name = "shop"
[kafka]
bootstrap = "localhost:9092"
[[route]]
method = "POST"
path = "/o"
topic = "orders"
"""


def policy(settings, **headers):
    cfg = config.loads(f"{TEXT}[cors]\n{settings}", "test.toml")
    return Policy(cfg.cors, **headers)


def preflight(**headers):
    lines = {"origin": ["https://a.test"], "access-control-request-method": ["POST"]}
    lines |= {name.replace("_", "-"): [value] for name, value in headers.items()}
    return Head("OPTIONS", "/o", "", FakeHeaders(lines), ["shop.test"], None, False)


def test_credentials_are_allowed_to_listed_pages_only():
    headers = dict(policy('origins = ["https://a.test"]\ncredentials = true').of_answer("https://a.test"))
    assert headers["access-control-allow-credentials"] == "true"
    assert headers["access-control-allow-origin"] == "https://a.test"


def test_any_page_gets_the_same_answer_so_it_does_not_vary():
    any_page = policy('origins = "*"')
    assert any_page.of_answer(None) == any_page.of_answer("https://a.test")
    assert "vary" not in dict(any_page.of_answer(None))


@pytest.mark.parametrize("origin", [None, "", "null", "https://A.test", "https://a.test.evil", "https://a.test/"])
def test_an_origin_is_compared_letter_by_letter(origin):
    assert policy('origins = ["https://a.test"]').of_answer(origin) == [("vary", "origin")]


def test_a_private_network_may_be_reached_where_that_is_allowed_and_asked_for():
    name = "access-control-allow-private-network"
    asked = preflight(access_control_request_private_network="true")
    allowed = policy('origins = "*"\nprivate_network = true')
    assert dict(allowed.of_preflight(asked, ["POST"]))[name] == "true"
    assert name not in dict(allowed.of_preflight(preflight(), ["POST"]))
    assert name not in dict(policy('origins = "*"').of_preflight(asked, ["POST"]))


def test_methods_and_headers_may_be_said():
    headers = dict(
        policy('origins = "*"\nmethods = ["PUT"]\nheaders = ["X-A", "content-type"]', request_headers=["x-b"])
        .of_preflight(preflight(), ["POST"])
    )  # fmt: skip
    assert headers["access-control-allow-methods"] == "PUT"
    assert headers["access-control-allow-headers"].endswith("x-request-id, x-b, x-a")


def test_what_a_service_says_about_cors_is_left_out():
    said = [("access-control-allow-origin", "*"), ("x-a", "1"), ("access-control-max-age", "9")]
    assert dressed(said, [("vary", "origin")]) == [("x-a", "1"), ("vary", "origin")]


def test_without_any_cors_there_are_no_policies():
    cfg = config.loads(TEXT, "test.toml")
    assert not Policies(cfg.cors, cfg.routes)


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ('origins = "*"\ncredentials = true', "list the origins"),
        ('origins = ["*", "https://a.test"]', "either"),
        ('origins = "https://a.test/"', "no slash"),
        ('origins = "https://*.a.test"', 'no "*"'),
        ('origins = "a.test"', "scheme and host"),
        ('origins = "https://A.test"', '"https://a.test"'),
        ('origins = "https://a.test:443"', '"https://a.test"'),
        ('origins = "null"', "sandboxed"),
        ("origins = []", "origins"),
        ("", "required"),
        ('origins = "https://a.test"\nheaders = ["*"]\ncredentials = true', "headers"),
        ('origins = "https://a.test"\nexpose = ["*"]\ncredentials = true', "expose"),
    ],
)
def test_what_browsers_would_not_take_is_refused_with_what_to_write(settings, hint):
    with pytest.raises(ConfigError, match=r"cors") as refused:
        config.loads(f"{TEXT}[cors]\n{settings}", "test.toml")
    assert hint in str(refused.value)


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://[::1]:8443", "capacitor://localhost"])
def test_origins_of_any_kind_are_taken(origin):
    assert dict(policy(f'origins = "{origin}"').of_answer(origin))["access-control-allow-origin"] == origin


def test_a_routes_own_table_is_checked_as_well_and_named():
    with pytest.raises(ConfigError, match=r"route\[0\]\.cors\.credentials"):
        config.loads(f'{TEXT}[route.cors]\norigins = "*"\ncredentials = true', "test.toml")


def test_the_worker_reads_what_the_supervisor_has_read():
    cfg = config.loads(f'{TEXT}cors = "off"\n[cors]\norigins = "*"', "test.toml")
    assert config.from_json(config.to_json(cfg)) == cfg
    assert not Policies(None, cfg.routes)
    assert Policies(cfg.cors, cfg.routes).of(None) is not None
    assert Policies(cfg.cors, cfg.routes).of(0) is None


def test_pages_may_use_keys_positions_and_status_urls_and_read_what_they_are_told_about_them():
    allowed = policy('origins = "*"')
    headers = dict(allowed.of_preflight(preflight(), ["POST"]))["access-control-allow-headers"].split(", ")
    assert {"idempotency-key", "last-event-id", "prefer"} <= set(headers)
    exposed = dict(allowed.of_answer(None))["access-control-expose-headers"].split(", ")
    assert {"location", "retry-after", "preference-applied", "idempotency-replayed"} <= set(exposed)


def test_status_urls_have_the_common_policy_and_show_what_their_routes_show():
    more = 'later = true\nresponse_headers = ["x-told"]\n[store]\ndir = "store"\n[cors]\norigins = "https://a.test"'
    secret = '[gateway]\nsecrets = ["a secret that has at least 32 bytes"]\n'
    cfg = config.loads(TEXT.replace("[gateway]\n", secret) + more, "test.toml")
    tickets = cfg.tickets
    found = Policies(cfg.cors, (*cfg.routes, tickets)).of(tickets.number)
    headers = dict(found.of_answer("https://a.test"))
    assert headers["access-control-allow-origin"] == "https://a.test"
    assert "x-told" in headers["access-control-expose-headers"].split(", ")
