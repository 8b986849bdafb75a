"""What people are told when a broker advertises addresses that lead nowhere, and what doctor sees through SASL, TLS."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from fastgw.doctor.kafka import _API_LINE
from tests.actors.commands import assert_one_line, fastgw
from tests.brokers.kafka_server import HOST, RealKafka, missing_tools
from tests.gateway.gateways import Gateway
from tests.ports import free_port

pytestmark = [
    pytest.mark.real_kafka,
    pytest.mark.skipif(bool(missing_tools()), reason="needs a broker of its own"),
]

UNRESOLVED = "kafka-1.invalid"
SASL = """
[kafka.client]
"security.protocol" = "SASL_PLAINTEXT"
"sasl.mechanism" = "PLAIN"
"sasl.username" = "alice"
"sasl.password" = "secret"
"""
LOGIN = 'org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="secret";'


TLS = """
[kafka.client]
"security.protocol" = "SSL"
"ssl.ca.location" = "{authority}"
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """`key.pem`, the broker's key with its certificate, and `authority.pem`."""
    folder, authority = tmp_path_factory.mktemp("certificates"), trustme.CA()
    authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(folder / "key.pem")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    _as_java_reads_it(folder / "key.pem")
    return folder


def _as_java_reads_it(key: Path) -> None:
    """Java takes keys in PKCS 8 alone, before their certificates."""
    private, _, certificates = key.read_text().partition("-----BEGIN CERTIFICATE-----")
    key_of = serialization.load_pem_private_key(private.encode(), None)
    pkcs8 = key_of.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key.write_text(f"{pkcs8.decode()}-----BEGIN CERTIFICATE-----{certificates}")


@pytest.fixture(scope="module")
def doors(certificates):
    """Ports of one broker: "plain", "sasl", "tls", one that advertises a name that does not resolve, a dead address."""
    properties = {"sasl.enabled.mechanisms": "PLAIN"}
    broker = RealKafka(properties=properties)
    node = broker.nodes[0]
    ports = {
        "plain": node.port,
        "sasl": free_port(),
        "tls": free_port(),
        "unresolved": free_port(),
        "dead": free_port(),
    }
    advertised = {**ports, "unresolved": 9092, "dead": free_port()}
    names = {"plain": "PLAINTEXT", "sasl": "SASL", "tls": "TLS", "unresolved": "UNRESOLVED", "dead": "DEAD"}
    hosts = dict.fromkeys(ports, HOST) | {"unresolved": UNRESOLVED}
    listeners = [f"{names[door]}://{HOST}:{port}" for door, port in ports.items()]
    properties |= {
        "listeners": ",".join([*listeners, f"CONTROLLER://{HOST}:{node.controller_port}"]),
        "advertised.listeners": ",".join(f"{names[door]}://{hosts[door]}:{port}" for door, port in advertised.items()),
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,UNRESOLVED:PLAINTEXT,"
        "DEAD:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SSL",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(certificates / "key.pem"),
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.name.sasl.plain.sasl.jaas.config": LOGIN,
    }
    with broker:
        yield {door: f"{HOST}:{port}" for door, port in ports.items()} | {
            "dead address": f"{HOST}:{advertised['dead']}"
        }


@pytest.mark.parametrize("door", ["unresolved", "dead"])
@pytest.mark.parametrize("command", [["check", "--live"], ["run"], ["doctor", "--json"]])
def test_an_advertised_address_that_leads_nowhere_is_named_with_its_remedy(tmp_path, doors, door, command):
    config = Gateway(tmp_path, doors[door], "replies", ["orders"]).config
    named = f"broker {UNRESOLVED}:9092: " if door == "unresolved" else f"broker {doors['dead address']}: "
    done = fastgw(*command, config)
    if command[0] == "doctor":
        code, out, err = done
        assert (code, err) == (1, "")
        told = json.loads(out)[0]["found"]
    else:
        told = done[2]
        if command[0] == "check":
            assert_one_line(done)
    assert named in told
    assert "advertised.listeners" in told
    assert ("Failed to resolve" if door == "unresolved" else "Connection refused") in told
    assert "grant" not in told
    assert "Traceback" not in told


def test_doctor_knows_the_release_of_brokers_behind_sasl(tmp_path, doors):
    knows_the_release(Gateway(tmp_path, doors["sasl"], "replies", ["orders"], kafka=SASL))


def test_doctor_knows_the_release_of_brokers_behind_tls(tmp_path, doors, certificates):
    tls = TLS.format(authority=certificates / "authority.pem")
    knows_the_release(Gateway(tmp_path, doors["tls"], "replies", ["orders"], kafka=tls))


def knows_the_release(gateway):
    _, out, err = fastgw("doctor", "--json", gateway.config)
    assert err == ""
    assert json.loads(out)[0]["found"] == "1 broker, Kafka 4.1 or later"


@pytest.mark.parametrize("protocol", ["", "ssl://", "sasl_ssl://", "sasl_plaintext://"])
def test_a_brokers_requests_are_read_whatever_its_protocol(protocol):
    line = f"[thrd:{protocol}k-1:9092/1]: {protocol}k-1:9092/1:   ApiKey Fetch (1) Versions 4..18"
    assert _API_LINE.search(line).groups() == ("k-1:9092", "Fetch", "18")
