"""Records out, replies in: the Kafka links, their settings, and topics.

`open_link` gives a worker its link: the native link, or the link on the public API if the native one cannot be used.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from fastgw.errors import StartError

if TYPE_CHECKING:
    from fastgw._ctable import SlotRange
    from fastgw.kafka.link import Link, LinkEvents, LinkSettings

log = structlog.get_logger("fastgw.kafka")


def open_link(
    choice: str, settings: LinkSettings, events: LinkEvents, loop: asyncio.AbstractEventLoop, slots: SlotRange
) -> Link:
    """The link, not started yet.

    Args:
        choice: `[kafka] link`: "auto" (native if possible), "native", "public".
        settings, events, loop, slots: see NativeLink.

    Raises:
        StartError: `choice` is "native" and the native link cannot be used; the text says why.
        ConfigError: a librdkafka property is unknown or has a wrong value.
    """
    # Imported here because the agent and `fastgw doctor` use this package, too, and open no link.
    from fastgw.kafka.native_link import NativeLink, NativeUnavailable, open_library
    from fastgw.kafka.public_link import KafkaLink

    if choice == "public":
        return KafkaLink(settings, events, loop)
    try:
        version = open_library()
        if str(settings.client.get("enable.sasl.oauthbearer.unsecure.jwt", "")).lower() == "true":
            raise NativeUnavailable("enable.sasl.oauthbearer.unsecure.jwt needs a callback from librdkafka")
    except NativeUnavailable as why:
        if choice == "native":
            raise StartError(f'kafka.link = "native": {why}') from None
        log.warning("kafka link", link="public", why=str(why))
        return KafkaLink(settings, events, loop)
    log.info("kafka link", link="native", librdkafka=version)
    return NativeLink(settings, events, loop, slots)
