"""The figures that an operator sees. That real clients tell them: test_links.py."""

from __future__ import annotations

import json

from fastgw.kafka.statistics import figures_of


def test_the_figures_are_those_of_the_client_and_of_the_brokers_that_have_a_number():
    broker = {
        "nodename": "kafka-1:9092", "nodeid": 1, "state": "UP", "rtt": {"p50": 1500, "p99": 20_000}, "waitresp_cnt": 2,
        "req_timeouts": 3, "txretries": 4, "txerrs": 5, "rxerrs": 6,
    }  # fmt: skip
    told = {
        "name": "fastgw#producer-1", "msg_cnt": 7, "txmsgs": 8, "rxmsgs": 9,
        "brokers": {"one": broker, "bootstrap": broker | {"nodeid": -1}},
    }  # fmt: skip
    assert figures_of(json.dumps(told)) == {
        "client": "fastgw#producer-1",
        "waiting": 7,
        "sent": 8,
        "received": 9,
        "brokers": [
            {
                "broker": "kafka-1:9092",
                "state": "UP",
                "round_trip_p50_ms": 1.5,
                "round_trip_p99_ms": 20,
                "unanswered": 2,
                "timeouts": 3,
                "retries": 4,
                "errors": 11,
            }
        ],
    }
