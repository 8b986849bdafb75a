"""Tokens: what is sealed is opened on every node with the secret, and nothing else is."""

from __future__ import annotations

import json

import pytest

from fastgw import tokens
from fastgw.tokens import ExpiredToken, ForgedToken, Purpose, Secrets, StreamPlace, StreamToken, Ticket

OLD, NEW = b"o" * 32, b"n" * 100
SECRETS = Secrets([OLD])
ID = b"00000001-0007-8000-8000-000000300009"
TOPIC = bytes(range(16))
NOW = 1_700_000_000_000

TICKET = Ticket(ID, b"k" * 32, TOPIC, 3, "POST /orders", "ada", NOW, NOW + 500, NOW + 1000)
STREAM = StreamToken(ID, TOPIC, 5, 1 << 40, 3, "GET /orders", "", NOW + 1000)
LARGEST = [
    TICKET._replace(route="\u00e4" * 256, subject="s" * 256, request_partition=(1 << 31) - 1, expires_ms=(1 << 63) - 1),
    STREAM._replace(route="\u00e4" * 256, subject="s" * 256, partition=(1 << 31) - 1, start_offset=(1 << 63) - 1),
]


def seal(token: Ticket | StreamToken, secrets: Secrets = SECRETS) -> str:
    return tokens.seal_ticket(secrets, token) if isinstance(token, Ticket) else tokens.seal_stream(secrets, token)


def opened(like: Ticket | StreamToken, text: str, secrets: Secrets = SECRETS, now_ms: int = NOW) -> object:
    open_one = tokens.open_ticket if isinstance(like, Ticket) else tokens.open_stream
    return open_one(secrets, text, now_ms)


both = pytest.mark.parametrize("token", [TICKET, STREAM], ids=["ticket", "stream"])


# --- secrets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"), [([], "at least one"), ([OLD, b"hunter2"], "secret 2: expected at least 32")]
)
def test_secrets_that_are_too_few_or_too_short_are_refused_without_being_shown(given, told):
    with pytest.raises(ValueError, match=told) as caught:
        Secrets(given)
    assert "hunter2" not in str(caught.value)


def test_nothing_that_shows_the_secrets_shows_them():
    shown = f"{SECRETS!r} {SECRETS} {vars(SECRETS)}"
    assert "ooo" not in shown
    assert repr(SECRETS) == "<Secrets count=1>"


def test_the_first_secret_signs_and_all_of_them_verify():
    first, both = Secrets([OLD, NEW]), Secrets([NEW, OLD])
    mac = first.mac(Purpose.RECORD, b"a", b"b")
    assert len(mac) == 16
    assert SECRETS.mac(Purpose.RECORD, b"a", b"b") == mac
    assert both.verifies(mac, Purpose.RECORD, b"a", b"b")
    assert not Secrets([NEW]).verifies(mac, Purpose.RECORD, b"a", b"b")


@pytest.mark.parametrize("parts", [(b"ab", b""), (b"", b"ab"), (b"a",), (b"a", b"b", b"")])
def test_a_mac_is_for_these_parts_as_they_are_cut(parts):
    assert not SECRETS.verifies(SECRETS.mac(Purpose.RECORD, b"a", b"b"), Purpose.RECORD, *parts)


def test_a_mac_is_for_one_purpose():
    macs = {SECRETS.mac(purpose, b"a") for purpose in Purpose}
    assert len(macs) == len(Purpose)


def test_processes_can_tell_whether_they_have_the_same_secrets():
    assert Secrets([NEW, OLD]).ids == (*Secrets([NEW]).ids, *SECRETS.ids)
    assert len(set(Secrets([NEW, OLD]).ids)) == 2


def test_secrets_that_differ_only_after_64_bytes_are_different():
    assert Secrets([b"x" * 64 + b"a"]).ids != Secrets([b"x" * 64 + b"b"]).ids


# --- tickets and streams --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    [TICKET, TICKET._replace(key_hash=b""), TICKET._replace(route="", subject="\u00e4\0"), STREAM, *LARGEST],
)
def test_what_is_sealed_is_opened(token):
    text = seal(token)
    assert text.replace("-", "").replace("_", "").isalnum()
    assert len(text) <= tokens.TOKEN_BYTES_MAX
    assert opened(token, text) == token


@both
def test_a_token_is_opened_under_an_old_secret_and_not_under_another(token):
    assert opened(token, seal(token), Secrets([NEW, OLD])) == token
    with pytest.raises(ForgedToken):
        opened(token, seal(token), Secrets([NEW]))


@both
def test_a_token_is_over_when_its_time_has_come(token):
    assert opened(token, seal(token), now_ms=token.expires_ms - 1) == token
    with pytest.raises(ExpiredToken):
        opened(token, seal(token), now_ms=token.expires_ms)


@both
def test_no_changed_character_and_no_other_length_is_a_token(token):
    text = seal(token)
    changed = [text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :] for at in range(len(text))]
    for forged in [*changed, *(text[:at] for at in range(len(text))), text + "A", text + "AA", "A" + text]:
        with pytest.raises(ForgedToken):
            opened(token, forged)


@both
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_a_token_has_one_spelling(token, padding):
    """The last character of base64 has bits that decoders ignore."""
    token = token._replace(subject="s" * padding)
    text = seal(token)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same = [text[:-1] + last for last in alphabet if text[-1] != last]
    for other in [
        *same,
        text + "=",
        text + "==",
        text + "\n",
        " " + text,
        text.replace("-", "+").replace("_", "/") + "=",
    ]:
        with pytest.raises(ForgedToken):
            opened(token, other)


@pytest.mark.parametrize("text", ["", "A", "\0", "A" * 1201, "\u00e9" * 40, "A" * 1200, "\ud800", "a.b"])
def test_other_texts_are_forged_and_the_message_does_not_repeat_them(text):
    for token in (TICKET, STREAM):
        with pytest.raises(ForgedToken) as caught:
            opened(token, text)
        assert len(text) < 2 or text not in str(caught.value)


def test_a_ticket_is_no_stream_token_and_the_other_way_round():
    with pytest.raises(ForgedToken):
        opened(STREAM, seal(TICKET))
    with pytest.raises(ForgedToken):
        opened(TICKET, seal(STREAM))


@both
@pytest.mark.parametrize("content", [b"", b"\1", b"\2" + bytes(90), b"\1" + bytes(200)])
def test_content_of_another_version_is_forged_even_with_a_valid_mac(token, content):
    purpose = Purpose.TICKET if isinstance(token, Ticket) else Purpose.STREAM
    with pytest.raises(ForgedToken):
        opened(token, tokens._sealed(SECRETS, purpose, content))


@pytest.mark.parametrize(
    "wrong",
    [
        TICKET._replace(correlation_id=b"x"),
        TICKET._replace(correlation_id=ID.upper().replace(b"0", b"A")),
        TICKET._replace(key_hash=b"k"),
        TICKET._replace(topic_id=b""),
        TICKET._replace(request_partition=-1),
        TICKET._replace(request_partition=1 << 31),
        TICKET._replace(created_ms=1 << 63),
        TICKET._replace(route="r" * 513),
        TICKET._replace(subject="\u00e4" * 129),
        TICKET._replace(subject="\ud800"),
        STREAM._replace(start_offset=-1),
        STREAM._replace(partition=1 << 31),
    ],
)
def test_what_does_not_fit_is_not_sealed(wrong):
    with pytest.raises(ValueError):  # noqa: PT011  # the encoder of Python has its own words
        seal(wrong)


def test_a_token_shown_by_mistake_does_not_say_whose_it_is():
    for token in (TICKET, STREAM):
        for shown in (repr(token), str(token), f"{token}"):
            assert ID.decode() not in shown
            assert "ada" not in shown
            assert token.route in shown


# --- event ids ------------------------------------------------------------------------------------------------------


def test_an_event_id_names_a_place_in_a_stream():
    text = tokens.event_id(seal(STREAM), STREAM.start_offset + 7, 0)
    assert tokens.open_event_id(SECRETS, text, NOW) == StreamPlace(STREAM, STREAM.start_offset + 7, 0)
    last = (1 << 63) - 1
    assert tokens.open_event_id(SECRETS, tokens.event_id(seal(STREAM), last, last), NOW).item == last


def test_the_longest_event_id_fits():
    text = tokens.event_id(seal(LARGEST[1]), (1 << 63) - 1, (1 << 63) - 1)
    assert len(text) <= tokens.EVENT_ID_BYTES_MAX
    assert tokens.open_event_id(SECRETS, text, NOW).stream == LARGEST[1]


GOOD = f"{STREAM.start_offset}"


@pytest.mark.parametrize(
    "numbers",
    [
        "", ".", ".1", f".{GOOD}", f".{GOOD}.", f".{GOOD}.1.1", f".{GOOD}.+1", f".{GOOD}.-1", f".{GOOD}.01",
        f".{GOOD}. 1", f".{GOOD}.1\0", f".{GOOD}.1\n", f".{GOOD}.\u0661", f".{GOOD}.1_0", f".{GOOD}.0x1",
        f".{GOOD}.1e3", f".{GOOD}.{1 << 63}", f".{GOOD}.{'1' * 10_000}", f".{STREAM.start_offset - 1}.0",
        f"..{GOOD}.0",
    ],
)  # fmt: skip
def test_other_numbers_are_forged(numbers):
    with pytest.raises(ForgedToken):
        tokens.open_event_id(SECRETS, seal(STREAM) + numbers, NOW)


@pytest.mark.parametrize("text", ["", "\0", "1.2.3", "." * 10_000, "x" * 10_000, "7", json.dumps([{"offset": 1}])])
def test_ids_of_other_servers_are_forged(text):
    with pytest.raises(ForgedToken):
        tokens.open_event_id(SECRETS, text, NOW)


def test_an_event_id_is_over_with_its_stream():
    with pytest.raises(ExpiredToken):
        tokens.open_event_id(SECRETS, tokens.event_id(seal(STREAM), STREAM.start_offset, 0), STREAM.expires_ms)
