"""Checks of single values: topics, addresses, paths, header names, record keys.

Each function returns the value to keep, or raises ValueError with a hint for the author of the file.
"""

from __future__ import annotations

import re
from ipaddress import ip_interface

from fastgw import addresses, header_names, topic_names
from fastgw.tokens import SECRET_BYTES_MIN

TOPIC_PATTERN = f"^{topic_names.LEGAL}$"

_TOPIC = re.compile(topic_names.LEGAL).fullmatch
# A header's name may contain a * (RFC 9110, 5.6.2), but in a configuration it is meant as a pattern.
_HEADER = re.compile(r"[a-z0-9!#$%&'+.^_`|~-]{1,200}").fullmatch
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]*\*?[A-Za-z0-9!#$&^_.+-]*").fullmatch
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,99})\}").fullmatch
_REST = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,99})\.\.\.\}").fullmatch
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+").fullmatch
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}").fullmatch
_SERVER = re.compile(r"(?:[A-Z_]+://)?(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?").fullmatch


def is_topic(value: str) -> bool:
    return _TOPIC(value) is not None and value not in (".", "..")


def topic(value: str) -> str:
    if not is_topic(value):
        raise ValueError("Kafka allows 1 to 249 of the characters a-z A-Z 0-9 . _ -")
    return value


def secret(value: str) -> str:
    size = len(value.encode())
    if size < SECRET_BYTES_MIN:
        raise ValueError(f"this one has {size} bytes; `openssl rand -base64 32` prints a new one")
    return value


def label(value: str) -> str:
    """A name for metrics and logs."""
    if not 1 <= len(value) <= 100 or not value.isprintable():
        raise ValueError("1 to 100 printable characters")
    return value


def host_port(value: str) -> str:
    if "://" in value:
        raise ValueError('write host and port without a scheme, such as "0.0.0.0:8080"')
    host, colon, port = value.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port[:6]) > 65535:
        raise ValueError('write host and port, such as "0.0.0.0:8080" or "[::]:8080"')
    if not _HOST(host):
        raise ValueError(f'write "0.0.0.0:{port}" for every interface' if host in ("", "*") else "this is not a host")
    return value


def host_port_or_nothing(value: str) -> str:
    return host_port(value) if value else ""


def bind(value: str) -> str:
    """A listening address: `host:port`, or `unix:` and an absolute path."""
    if not value.startswith("unix:"):
        return host_port(value)
    file = value.removeprefix("unix:")
    # sockaddr_un holds 108 bytes with the closing NUL.
    if not file.startswith("/") or not file.isprintable() or len(file.encode()) > 100:
        raise ValueError("write unix: and an absolute path of at most 100 bytes")
    return value


def listened_on(value: str) -> tuple[str, ...]:
    """The addresses that a listener on `value` occupies, judged by its text; none for port 0."""
    host, _, port = value.rpartition(":")
    if port == "0" and not value.startswith("unix:"):
        return ()
    covered = {"localhost": ("127.0.0.1", "[::1]"), "[::]": ("0.0.0.0",)}.get(host.lower(), ())  # noqa: S104
    return (value, *(f"{other}:{port}" for other in covered))


FILE_MODE_PATTERN = "^0?[0-7]{3}$"
_FILE_MODE = re.compile(FILE_MODE_PATTERN)


def file_mode(value: str) -> int:
    if not _FILE_MODE.fullmatch(value):
        raise ValueError("write owner, group and others as three octal digits")
    return int(value, 8)


def group(value: str) -> str:
    if not _GROUP(value):
        raise ValueError("a group of /etc/group, or its number")
    return value


def file_name(value: str) -> str:
    if "\0" in value:
        raise ValueError("a file name cannot contain NUL")
    return value


def host(value: str) -> str:
    """A host that requests may name, normalized for comparison: lower case, without port."""
    if "*" in value:
        raise ValueError("patterns are not supported: name each host; an empty gateway.hosts allows any host")
    if not _HOST(value):
        raise ValueError("a host name without scheme, port and path")
    return value.lower()


def trusted_proxy(value: str) -> str:
    """A network of trusted proxies, or `unix` for all clients of Unix sockets."""
    if value == "unix":
        return value
    try:
        return str(addresses.network(value))
    except ValueError as error:
        if "host bits" in str(error):
            raise ValueError(f'the network of this address is "{ip_interface(value).network}"') from None
        raise ValueError('such as "10.0.0.0/8", "::1/128", a single address, or "unix"') from None


def servers(value: str) -> str:
    """A librdkafka broker list."""
    for server in value.split(","):
        match = _SERVER(server.strip())
        if match is None or not 0 < int(match[1] or 9092) <= 65535:
            raise ValueError('write "host:port", several separated by commas')
    return value


METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "QUERY")


def no_single_method(value: str) -> str:
    """A hint for a word that is meant for several methods; empty for other words."""
    if value.upper() in ("*", "ANY", "ALL"):
        return 'name each method, such as ["GET", "POST"]; there is no word for all methods'
    words = re.split(r"[\s,|/]+", value.strip().upper())
    if len(words) > 1 and set(words) <= set(METHODS):
        listed = ", ".join(f'"{word}"' for word in words)
        return f"write a list: [{listed}]"
    return ""


def prefix(value: str) -> str:
    """The beginning of a path, without parameters and without a slash at its end."""
    if "{" in value or (value.endswith("/") and value != "/"):
        raise ValueError('a fixed path without / at its end, such as "/_later"')
    if value == "/":
        raise ValueError('it would take all paths with one segment; write a path such as "/_later"')
    return path(value)


def path(value: str) -> str:
    """A path template: segments separated by `/`, each literal or one `{parameter}`; percent signs are decoded.

    The last one may be `{parameter...}`, the rest of the path.

    Patterns of other routers are refused with a hint, because a route with a literal `*` or `:id` would match no
    request.
    """
    if not value.startswith("/"):
        raise ValueError(_not_from_the_root(value))
    if "?" in value or "#" in value:
        raise ValueError("write only the path; the query does not choose the route, but is passed on in the record")
    if len(value) > 1000 or not value.isprintable() or any(character in value for character in " %\\"):
        raise ValueError("at most 1000 printable characters, decoded, without space, % and \\")
    names = []
    segments = value[1:].split("/")
    for at, segment in enumerate(segments):
        is_last = at == len(segments) - 1
        if segment in (".", "..") or (not segment and not is_last):
            raise ValueError("an empty segment, . or .. matches no request")
        parameter = _PARAMETER(segment) or (is_last and _REST(segment))
        if parameter:
            names.append(parameter[1])
        elif _REST(segment):
            raise ValueError("only the last segment can be the rest of the path")
        else:
            _refuse_pattern(segment, "/".join(segments[:at]), is_last)
    if len(set(names)) < len(names):
        raise ValueError("each parameter needs a name of its own")
    return value


def _not_from_the_root(value: str) -> str:
    url = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*", value)
    if url is not None:
        return f'write only the path, "{value[url.end() :] or "/"}"; gateway.hosts lists the hosts'
    method, blank, rest = value.partition(" ")
    if blank and method.upper() in METHODS:
        return f'write only the path, "{rest.strip()}", and method = "{method.upper()}"'
    if value.startswith(("^", "~")):
        return _NO_PATTERN
    return "a path starts with /"


_NO_PATTERN = (
    "a path is not a regular expression: {name} stands for any one segment, and {name...} at the end for the rest of "
    "the path"
)
_NAME_INSIDE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*").search
# `{rest:path}` of Starlette, `{rest:.*}` of gorilla, `{*rest}` of Spring and axum, `{proxy+}` of AWS, `<path:rest>`.
_REST_OF_PATH = re.compile(r"\{\*|\{\w+[*+]\}|:(?:path|\*|\.[*+])[}>]|<path:|\*\*").search
# A name as Express, Flask or FastAPI have it: `:id`, `<int:id>`, `{id:int}`.
_NAMED = re.compile(r":[A-Za-z_]|<|\{").match


def _refuse_pattern(segment: str, before: str, is_last: bool) -> None:
    """Raises ValueError for a literal segment that looks like another router's parameter, wildcard or expression."""
    whole = before and f"/{before}"
    if "*" in segment and not segment.startswith(("{", "<", "(")):
        name = segment.lstrip("*") or "rest"  # `*rest` is of Express, Gin and Rails
        if is_last and segment.startswith("*") and _PARAMETER("{" + name + "}"):
            raise ValueError(f'for the rest of the path write "{whole}/{{{name}...}}"')
        raise ValueError(
            "* is no wildcard: for one whole segment write {name}, for the rest of the path {name...} as the last one"
        )
    if _NAMED(segment):
        inside = segment.partition(":")[2] if segment.startswith("<") and ":" in segment else segment
        found = _NAME_INSIDE(inside)
        name = found[0].replace("-", "_") if found else "name"
        if _REST_OF_PATH(segment):
            raise ValueError(f'for the rest of the path write "{{{name}...}}" as the last segment')
        if re.fullmatch(r":[\w-]+\??|<[^<>]*>|\{\w+[:?=].*\}", segment):
            raise ValueError(f'for a parameter write "{{{name}}}"; it matches any one segment')
    if "{" in segment or "}" in segment:
        raise ValueError("a parameter is a whole segment, such as /orders/{id}; its name has letters, digits and _")
    # URLs contain none of these unescaped, except $, which some have at the start of a segment.
    if any(character in segment for character in '^|[]<>"`*') or segment.endswith("$") or segment in (".+", "(.+)"):
        raise ValueError(_NO_PATTERN)


def content_type(value: str) -> str:
    """A content type without parameters, lower case; each part may contain one `*`."""
    if not _CONTENT_TYPE(value):
        raise ValueError('such as "application/json", "text/*" or "application/*+json", without parameters')
    return value.lower()


def record_key(value: str) -> str:
    """The source of the record key: `path.<name>`, `header.<name>`, `body.<JSON pointer>`, or empty."""
    where, dot, name = value.partition(".")
    if where == "body" and re.fullmatch(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*", name):
        raise ValueError(f'write a JSON pointer, "body./{name.replace(".", "/")}"')
    if where == "path" and name.startswith("{") and name.endswith("}"):
        raise ValueError(f'write the parameter\'s name alone, "path.{name[1:-1]}"')
    if where == "header" and _HEADER(name.lower()):
        return f"header.{name.lower()}"
    pointer_is_sound = name.startswith("/") and not re.search(r"~(?![01])", name)
    is_sound = bool(dot) and {"path": bool(name), "body": pointer_is_sound}.get(where, False)
    if value and not is_sound:
        raise ValueError('such as "path.id", "header.x-customer" or "body./customer/id"')
    return value


_ORIGIN = re.compile(
    r"([a-z][a-z0-9+.-]*)://[a-z0-9._~-]+(?::([0-9]{1,5}))?|([a-z][a-z0-9+.-]*)://\[[0-9a-f:.]+\](?::([0-9]{1,5}))?"
).fullmatch
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def origin(value: str) -> str:
    """The origin of a web page as a browser sends it (RFC 6454, section 6.1), or `*`."""
    if value == "*":
        return value
    if value == "null":
        raise ValueError("all sandboxed pages and local files have the origin null: allowing it would allow any page")
    match = _ORIGIN(value.lower())
    if match is None:
        raise ValueError(
            'write scheme and host, and the port if there is one: no path, no slash at the end, no "*" in it'
        )
    if value != value.lower():
        raise ValueError(f'browsers send it in lower case: "{value.lower()}"')
    scheme, port = match[1] or match[3], match[2] or match[4]
    if port and _DEFAULT_PORTS.get(scheme) == port:
        raise ValueError(f'browsers leave out the port {port}: "{value.removesuffix(":" + port)}"')
    return value


def header(value: str) -> str:
    """The name of a header, lower case."""
    value = value.lower()
    if not _HEADER(value):
        raise ValueError("this is not a header name")
    return value


def answer_header(value: str) -> str:
    """A header that is copied from replies to answers, lower case."""
    if value.lower() == "x-request-id":
        raise ValueError("the gateway sets it in every answer, to the record's correlation id")
    if value.lower() == "fastgw-outcome":
        raise ValueError("only the gateway may set it")
    return copied_header(value)


def copied_header(value: str) -> str:
    """A header that is copied between HTTP and records, lower case."""
    value = value.lower()
    if "*" in value:
        raise ValueError('patterns are not supported here: name each header, such as "x-tenant"')
    if value.endswith(":"):
        raise ValueError("write the name without its colon")
    if not _HEADER(value):
        raise ValueError("this is not a header name")
    if value in header_names.NEVER_COPIED:
        raise ValueError("this header belongs to one connection and is never copied")
    return value
