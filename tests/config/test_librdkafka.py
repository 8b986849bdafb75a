"""`[kafka.client]`: which librdkafka properties may be set."""

from __future__ import annotations

from tests.config.files import (
    GATEWAY,
    KAFKA,
    ROUTE,
    assert_told,
    loads,
    told_in_one_line,
)


def test_librdkafka_properties_pass_with_their_types() -> None:
    client = (
        '[kafka.client]\n"security.protocol" = "SSL"\n"socket.keepalive.enable" = true\n"queued.min.messages" = 5\n'
    )
    assert loads(GATEWAY + KAFKA + client + ROUTE).kafka.client == {
        "security.protocol": "SSL",
        "socket.keepalive.enable": True,
        "queued.min.messages": 5,
    }


MISTAKES = {
    GATEWAY + KAFKA + '[kafka.client]\n"acks" = 1\n' + ROUTE: [
        "kafka.client.acks:",
        "the outcome of a request depends on it",
    ],
    GATEWAY + KAFKA + '[kafka.client]\n"linger.ms" = 1\n' + ROUTE: [
        'kafka.client."linger.ms":',
        "kafka.linger sets it",
    ],
    GATEWAY + KAFKA + '[kafka.client]\n"group.id" = "x"\n' + ROUTE: ['"group.id":', "cluster.group_id"],
    GATEWAY + KAFKA + '[kafka.client]\n"group.protocol" = "x"\n' + ROUTE: ['"group.protocol":', "cluster.mode"],
    GATEWAY + KAFKA + '[kafka.client]\n"isolation.level" = "read_uncommitted"\n' + ROUTE: [
        'kafka.client."isolation.level":',
        "aborted",
    ],
    GATEWAY + KAFKA + '[kafka.client]\n"allow.auto.create.topics" = true\n' + ROUTE: [
        'kafka.client."allow.auto.create.topics":',
        "`fastgw topics`",
    ],
    GATEWAY + KAFKA + '[kafka.client]\n"topic.acks" = 1\n' + ROUTE: [
        'kafka.client."topic.acks":',
        "the outcome of a request depends on it",
    ],
    GATEWAY + KAFKA + '[kafka.client]\n"topic.blacklist" = "orders"\n' + ROUTE: ["blacklist", "see its topics"],
    GATEWAY + KAFKA + '[kafka.client]\n"fetch.min.bytes" = 100\n' + ROUTE: ["fetch.min.bytes", "must not wait"],
    GATEWAY + KAFKA + '[kafka.client]\nerror_cb = "x"\n' + ROUTE: ["kafka.client.error_cb:", "callbacks"],
    GATEWAY + KAFKA + '[kafka.client]\nsecurity.protocol = "SSL"\n' + ROUTE: ["kafka.client.security:", "quote"],
    GATEWAY + KAFKA + "[kafka.client]\na = [1]\n" + ROUTE: ["kafka.client.a:", "got a list"],
    GATEWAY + KAFKA + "client = 3\n" + ROUTE: ["kafka.client:", "librdkafka properties", "got 3"],
}


@told_in_one_line(MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_place(content: str, told: list[str]) -> None:
    assert_told(content, told)
