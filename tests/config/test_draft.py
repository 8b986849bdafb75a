"""The tables of a file and their keys: what is unknown, what is missing, and what is told beside it."""

from __future__ import annotations

from tests.config.files import (
    GATEWAY,
    KAFKA,
    MINIMAL,
    ROUTE,
    assert_told,
    mistakes,
    told_about,
    told_in_one_line,
)

MISTAKES = {
    # tables
    "": ["gateway:", "[gateway] table", "none"],
    GATEWAY + ROUTE: ["kafka:", "none"],
    GATEWAY + KAFKA: ["route:", "[[route]]"],
    GATEWAY + KAFKA + "[route]\nx=1": ["route:", "one or more [[route]] tables", "a table"],
    "gateway = 5\n" + KAFKA + ROUTE: ["gateway:", "a table", "got 5"],
    "route = [1]\n" + GATEWAY + KAFKA: ["route[0]:", "a table", "got 1"],
    # unknown keys, at each level
    MINIMAL + "[gatway]\n": ["gatway:", 'did you mean "gateway"?'],
    MINIMAL + "[zzz]\n": ["zzz:", "[[route]]", "[kafka]"],
    GATEWAY + "worker = 2\n" + KAFKA + ROUTE: ["gateway.worker:", 'did you mean "workers"?'],
    MINIMAL + 'timout = "5s"\n': ["route[0].timout:", 'did you mean "timeout"?'],
    MINIMAL + '"Time out" = "5s"\n': ['route[0]."Time out":', 'did you mean "timeout"?'],
    MINIMAL + "zzz = 1\n": ["route[0].zzz:", "known here: name, method, path"],
    MINIMAL + '[[listen]]\nbind = "a:1"\nport = 3\n': ["listen[0].port:", "an unknown one"],
    GATEWAY + 'listen = [{ bnd = "a:1" }]\n' + KAFKA + ROUTE: ["gateway.listen[0].bnd:", 'did you mean "bind"?'],
    MINIMAL + "[limits]\nmax_bodi = 3\n": ["limits.max_bodi:", 'did you mean "max_body"?'],
    MINIMAL + '[cluster]\nmod = "single"\n': ["cluster.mod:", 'did you mean "mode"?'],
    MINIMAL + '[admin]\nlisten_on = ""\n': ["admin.listen_on:", 'did you mean "listen"?'],
    # missing keys
    "[gateway]\n" + KAFKA + ROUTE: ["gateway.name:", "required"],
    GATEWAY + "[kafka]\n" + ROUTE: ["kafka.bootstrap:", "required"],
    GATEWAY + KAFKA + '[[route]]\nmethod = "GET"\npath = "/"\n': ["route[0].topic:", "required"],
    # wrong types
    GATEWAY + "name2 = 1979-05-27\n" + KAFKA + ROUTE: ["gateway.name2:"],
    # clashes
    GATEWAY + 'listen = ["a:1"]\n' + KAFKA + ROUTE + '[[listen]]\nbind = "b:1"\n': [
        "gateway.listen:",
        "[[listen]]",
        "both",
    ],
}


@told_in_one_line(MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_place(content: str, told: list[str]) -> None:
    assert_told(content, told)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    content = """[gateway]
name = "shop"
workers = "two"
hosts = ["a", "b:1", 3]
zzz = 1

[limits]
max_body = "x"

[kafka]
bootstrap = "${NOWHERE}"

[kafka.client]
"acks" = 1
"group.id" = "x"

[[route]]
method = "GET"
path = "/a"

[[route]]
method = ["GET", "GOT"]
path = "/hello/*"
topic = "t"

[[route]]
method = "GET"
path = "/b"
topic = "t"
timeout = 5

[[route]]
method = "GET"
path = "/b"
topic = "t"
key = "path.id"

[cluster]
node_count = 3

[zzz]
"""
    found = mistakes(content)
    assert told_about(content)[0] == "shop.toml: 16 mistakes"
    assert [line.partition(": expected")[0] for line in found] == [
        "3: gateway.workers",
        "4: gateway.hosts[1]",
        "4: gateway.hosts[2]",
        "5: gateway.zzz",
        "8: limits.max_body",
        "11: kafka.bootstrap",
        "14: kafka.client.acks",
        '15: kafka.client."group.id"',
        "17: route[0].topic",
        "22: route[1].method[1]",
        "23: route[1].path",
        "30: route[2].timeout",
        "32: route[3]",
        "36: route[3].key",
        "39: cluster.node_count",
        "41: zzz",
    ]
