"""Extracts the figures that are logged from librdkafka's statistics."""

from __future__ import annotations

from typing import Any

import orjson


def figures_of(statistics: str) -> dict[str, Any]:
    """The figures of one client and of its connection to each broker, from librdkafka's JSON (its STATISTICS.md).

    Round trips are in milliseconds. Counts start at the client's start. An operator enables the statistics with
    `statistics.interval.ms` in `[kafka.client]`.
    """
    told = orjson.loads(statistics)
    return {
        "client": told["name"],
        "waiting": told["msg_cnt"],
        "sent": told["txmsgs"],
        "received": told["rxmsgs"],
        "brokers": [
            {
                "broker": one["nodename"],
                "state": one["state"],
                "round_trip_p50_ms": one["rtt"]["p50"] / 1000,
                "round_trip_p99_ms": one["rtt"]["p99"] / 1000,
                "unanswered": one["waitresp_cnt"],
                "timeouts": one["req_timeouts"],
                "retries": one["txretries"],
                "errors": one["txerrs"] + one["rxerrs"],
            }
            for one in told["brokers"].values()
            if one["nodeid"] >= 0
        ],
    }
