"""A producer on the bare C library, for records that no Python client lets one write: header names that are no text."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from fastgw.demo.broker import _client, _library

_END, _TOPIC, _PARTITION, _VALUE, _KEY, _FLAGS, _HEADER = 0, 1, 3, 4, 5, 7, 9  # rd_kafka_vtype_t
_COPY = 2  # RD_KAFKA_MSG_F_COPY
FLUSH_MS = 10_000


def produce_raw(bootstrap: str, topic: str, partition: int, key: bytes, headers: Sequence[tuple[bytes, bytes]]) -> None:
    """Writes one record without value; it is there on return. A header name ends at its first NUL."""
    library = _library()
    client = ctypes.c_void_p(_client(library))
    library.rd_kafka_brokers_add.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.rd_kafka_flush.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.rd_kafka_outq_len.argtypes = [ctypes.c_void_p]
    assert library.rd_kafka_brokers_add(client, bootstrap.encode()) >= 1
    fields: list[object] = [_TOPIC, topic.encode(), _PARTITION, ctypes.c_int32(partition), _FLAGS, _COPY]
    fields += [_KEY, key, ctypes.c_size_t(len(key)), _VALUE, None, ctypes.c_size_t(0)]
    for name, value in headers:
        fields += [_HEADER, name, value, ctypes.c_ssize_t(len(value))]
    problem = library.rd_kafka_producev(client, *fields, _END)
    assert problem == 0, library.rd_kafka_err2str(problem)
    assert library.rd_kafka_flush(client, FLUSH_MS) == 0
    library.rd_kafka_destroy(client)
