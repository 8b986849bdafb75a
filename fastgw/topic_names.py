"""Which names Kafka allows for topics."""

from __future__ import annotations

LEGAL = r"[A-Za-z0-9._-]{1,249}"  # org.apache.kafka.common.internals.Topic; "." and ".." are not allowed
