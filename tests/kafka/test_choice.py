"""Which Kafka link a worker gets, and that a fallback is told once."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from fastgw.errors import ConfigError, StartError
from fastgw.kafka import native_link, open_link
from fastgw.kafka.link import LinkSettings
from fastgw.kafka.native_link import NativeLink, NativeUnavailable, open_library
from fastgw.kafka.properties import client_properties
from fastgw.kafka.public_link import KafkaLink
from tests.actors import tables
from tests.actors.links import Told

NEEDS_A_CALLBACK = {"enable.sasl.oauthbearer.unsecure.jwt": True}


def opened(choice, **client):
    """(link, what was logged)."""
    settings = LinkSettings(client_properties("127.0.0.1:1", {"log_level": 2, **client}), "replies", [1000])
    slots = tables.make().open_range(0)
    loop = asyncio.new_event_loop()
    with capture_logs() as lines:
        link = open_link(choice, settings, Told(), loop, slots)
    if isinstance(link, NativeLink):
        link.close(0.1)  # the public one ends when it is collected
    loop.close()
    return link, lines


@pytest.mark.parametrize("choice", ["auto", "native"])
def test_the_native_link_is_taken_where_it_can_be_had(choice):
    link, lines = opened(choice)
    assert type(link) is NativeLink
    assert [(line["event"], line["link"], line["log_level"]) for line in lines] == [("kafka link", "native", "info")]


def test_the_public_link_is_taken_where_it_is_asked_for():
    link, lines = opened("public")
    assert type(link) is KafkaLink
    assert lines == []


def test_auto_falls_back_with_one_line_that_says_why():
    link, lines = opened("auto", **NEEDS_A_CALLBACK)
    assert type(link) is KafkaLink
    (line,) = lines
    assert (line["event"], line["link"], line["log_level"]) == ("kafka link", "public", "warning")
    assert "enable.sasl.oauthbearer.unsecure.jwt" in line["why"]


def test_native_asked_for_and_not_to_be_had_is_an_error():
    with pytest.raises(StartError, match=r'kafka.link = "native": enable.sasl.oauthbearer.unsecure.jwt needs'):
        opened("native", **NEEDS_A_CALLBACK)


@pytest.mark.parametrize(
    ("client", "why"),
    [
        ({"no.such.property": 1}, 'No such configuration property: "no.such.property"'),
        ({"socket.timeout.ms": "soon"}, "socket.timeout.ms"),
        ({"security.protocol": "ssl", "ssl.ca.location": "/no/such/file"}, "ssl.ca.location"),
    ],
)
def test_a_property_that_librdkafka_does_not_take_is_a_configuration_error(client, why):
    with pytest.raises(ConfigError, match=why):
        opened("native", **client)


def test_the_library_is_the_one_that_confluent_kafka_has_loaded():
    import confluent_kafka

    assert open_library() == confluent_kafka.libversion()[0]
    with open("/proc/self/maps") as maps:
        assert len({line.split()[-1] for line in maps if "librdkafka" in line}) == 1, "there is one copy"


def test_a_library_that_is_not_loaded_is_not_loaded_for_this(tmp_path):
    stranger = tmp_path / "librdkafka.so.1"
    stranger.write_bytes(b"")
    with pytest.raises(NativeUnavailable, match="not loaded in this process"):
        open_library(str(stranger))


def test_a_library_that_lacks_a_function_is_refused_by_its_name():
    script = (
        "from fastgw.kafka.native_link import NativeUnavailable, open_library\n"
        "import sys\n"
        "path = next(line.split()[-1] for line in open('/proc/self/maps') if '/libc.so' in line)\n"
        "try:\n    open_library(path)\n"
        "except NativeUnavailable as why:\n    sys.exit(str(why))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert done.stderr.strip().endswith(": rd_kafka_version")


@pytest.mark.parametrize(("oldest", "too_new"), [(0x7F000000, 0x7F000001), (0, 0x02000000)])
def test_a_version_that_this_was_not_made_for_is_refused(oldest, too_new):
    with pytest.raises(NativeUnavailable, match=r"librdkafka 2\.\d+\.\d+: expected"):
        open_library(oldest=oldest, too_new=too_new)
    assert native_link.OLDEST < native_link.TOO_NEW
