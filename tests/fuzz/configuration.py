"""Promise: any text is a configuration or a ConfigError of a few printable lines, at most one for each mistake and some
more; what is one survives the way to another process; and any bytes from another process are a configuration or a
ConfigError."""

from __future__ import annotations

from fastgw import config
from fastgw.config import changes
from fastgw.config.loading import MISTAKES_TOLD_MAX
from fastgw.errors import ConfigError

_WHOLE = """
[gateway]
name = "shop"
workers = 2
slots = 64
drain_timeout = "1m30s"
hosts = ["a.b", "[::1]"]
[[listen]]
bind = "unix:/run/x.sock"
http = "1"
[limits]
max_body = "1.5KiB"
header_timeout = "250ms"
[kafka]
bootstrap = "a:1,b:2"
linger = "0s"
[kafka.client]
"security.protocol" = "SSL"
[cluster]
mode = "static"
node_index = 1
node_count = 2
[admin]
listen = ""
[[route]]
method = ["GET", "HEAD"]
path = "/a/{b}/c"
topic = "${TOPIC:-t}"
timeout = "5s"
key = "body./a~1b/0"
request_headers = ["x-a"]
"""
_PARTS = [part + "\n" for part in _WHOLE.replace("\n[", "\n\0[").split("\0")]
SEEDS = [
    b"\0" + _WHOLE.encode(),
    *(b"\0" + ("".join(_PARTS[:3]) + part).encode() for part in _PARTS),
    b"\0a = 2024-99-99",
    b'\0[gateway]\nname = "${',
    b"\1" + config.to_json(config.loads(_WHOLE, environ={})),
]
ENVIRON = {"TOPIC": "topic", "NUMBER": "7", "EMPTY": "", "ODD": "\udcff\n"}


def target(data: bytes) -> None:
    try:
        if data[:1] == b"\1":
            config.from_json(data[1:])
            return
        loaded = config.loads(data[1:].decode("utf-8", "replace"), "x.toml", ENVIRON)
    except ConfigError as error:
        told = str(error)
    else:
        assert config.from_json(config.to_json(loaded)) == loaded
        assert changes.restart_only_changes(loaded, loaded) == []
        return
    lines = told.split("\n")
    assert all(line.isprintable() for line in lines), told
    assert all(len(line) < 2000 for line in lines), told
    assert len(lines) <= MISTAKES_TOLD_MAX + 2
