"""Checks that need more than one setting: conflicts between settings, files that cannot be used, warnings.

`_CLASHES` lists the rules and the sections that each rule compares. A mistake names both conflicting settings. A
section with a mistake of its own is not compared, because its conflicts may disappear with the correction.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping

from fastgw.config import units
from fastgw.config.directories import store_dir
from fastgw.config.draft import Draft, largest_body_bytes, shape_of
from fastgw.config.mistakes import Mistake, shown, under
from fastgw.config.schema import (
    BODY_MEMORY_BYTES,
    CONNECTION_BODY_MEMORY_BYTES,
    ROUTES_MAX,
    SLOTS_MAX,
    Admin,
    Cluster,
    Compression,
    Config,
    Cors,
    Gateway,
    Kafka,
    Later,
    Limits,
    Listen,
    Log,
    Route,
    Store,
    Streams,
)
from fastgw.config.values import is_topic, listened_on

Routes = Mapping[int, Route]


def clashes(draft: Draft) -> Iterator[Mistake]:
    """The settings that conflict."""
    for find, needs in _CLASHES:
        compared = [getattr(draft, name) for name in needs.split()]
        if None not in compared:
            yield from find(*compared)


def unusable_files(draft: Draft) -> Iterator[Mistake]:
    """The files that the settings name and that cannot be used."""
    for path, listen in _each(draft.gateway, draft.listen_path) if draft.gateway else ():
        yield from _unusable_certificate(listen, path)
    if draft.log:
        yield from _unwritable_access_file(draft.log)


def warnings_about(config: Config) -> Iterator[Mistake]:
    """What works, but is likely to become a problem."""
    if config.cluster.mode == "group" and len(config.gateway.secrets) == 1:
        expected, hint = 'two secrets, because cluster.mode = "group"', "the nodes cannot all replace a secret at once"
        yield Mistake("gateway.secrets", expected, "one", hint)


# --- the gateway and its listeners -----------------------------------------------------------------------------------


def _too_many_slots(gateway: Gateway) -> Iterator[Mistake]:
    most = SLOTS_MAX // (2 * gateway.workers)
    if gateway.slots > most:
        yield Mistake("gateway.slots", f"at most {most} with gateway.workers = {gateway.workers}", str(gateway.slots))


def _too_long_response_topic(gateway: Gateway) -> Iterator[Mistake]:
    if not is_topic(gateway.response_topic):
        yield Mistake("gateway.response_topic", "at most 249 characters", shown(gateway.response_topic))


def _no_listener(gateway: Gateway) -> Iterator[Mistake]:
    if not gateway.listens:
        yield Mistake("gateway.listen", "at least one address", "none")


def _each(gateway: Gateway, listen_path: str) -> Iterator[tuple[str, Listen]]:
    """Each listener and its path."""
    return ((f"{listen_path}[{at}]", listen) for at, listen in enumerate(gateway.listens))


def _half_of_tls(gateway: Gateway, listen_path: str) -> Iterator[Mistake]:
    for path, listen in _each(gateway, listen_path):
        if bool(listen.tls_cert) != bool(listen.tls_key):
            missing, given = ("tls_key", "tls_cert") if listen.tls_cert else ("tls_cert", "tls_key")
            yield Mistake(f"{path}.{missing}", f"a PEM file, because {given} is set", "nothing")


def _more_than_express_speaks(gateway: Gateway, listen_path: str) -> Iterator[Mistake]:
    for path, listen in _each(gateway, listen_path):
        if listen.front == "express" and (listen.tls_cert or listen.http == "2"):
            wanted = "TLS" if listen.tls_cert else "HTTP/2"
            yield Mistake(f"{path}.front", f'"auto" or "granian", because {wanted} is set', '"express"')


def _rights_without_file(gateway: Gateway, listen_path: str) -> Iterator[Mistake]:
    for path, listen in _each(gateway, listen_path):
        for name in ("mode", "group"):
            if getattr(listen, name) not in (None, "") and not listen.bind.startswith("unix:"):
                yield Mistake(f"{path}.{name}", "nothing, unless bind is a Unix socket", f"bind = {shown(listen.bind)}")


def _same_address_twice(gateway: Gateway, admin: Admin, listen_path: str) -> Iterator[Mistake]:
    taken = dict.fromkeys(listened_on(admin.listen), "admin.listen") if admin.listen else {}
    for path, listen in _each(gateway, listen_path):
        addresses = listened_on(listen.bind)
        if found := [taken[address] for address in addresses if address in taken]:
            yield Mistake(path, f"another address than {found[0]}", shown(listen.bind))
        taken = dict.fromkeys(addresses, path) | taken


def _proxy_protocol_beyond_express(gateway: Gateway, listen_path: str) -> Iterator[Mistake]:
    for path, listen in _each(gateway, listen_path):
        if listen.proxy_protocol and not listen.is_express:
            # granian reads its sockets itself and does not support this header.
            wanted = 'front = "granian"' if listen.front == "granian" else 'http = "2"'
            got = "true together with " + ("tls_cert" if listen.tls_cert else wanted)
            hint = "let the proxy speak plain HTTP/1.1 to it"
            yield Mistake(f"{path}.proxy_protocol", "an express listener", got, hint)


def _proxy_protocol_of_nobody(gateway: Gateway, listen_path: str) -> Iterator[Mistake]:
    for path, listen in _each(gateway, listen_path):
        if listen.proxy_protocol and not gateway.trusted_proxies:
            expected = f"the networks that may send the header, because {path}.proxy_protocol is set"
            yield Mistake("gateway.trusted_proxies", expected, "none", 'such as ["10.0.0.0/8"]')


# --- the cluster, Kafka, compression ---------------------------------------------------------------------------------


def _node_out_of_range(cluster: Cluster) -> Iterator[Mistake]:
    if cluster.mode != "static" and (cluster.node_index or cluster.node_count > 1):
        name = "node_count" if cluster.node_count > 1 else "node_index"
        yield Mistake(f"cluster.{name}", 'nothing, unless cluster.mode = "static"', f'cluster.mode = "{cluster.mode}"')
    elif cluster.node_index >= cluster.node_count:
        expected = f"less than cluster.node_count = {cluster.node_count}"
        yield Mistake("cluster.node_index", expected, str(cluster.node_index), "nodes count from 0")


def _records_too_small(kafka: Kafka, limits: Limits, routes: Routes, sound_routes: set[int]) -> Iterator[Mistake]:
    name = "message.max.bytes"
    most = kafka.client.get(name)
    largest = _largest_sound_body_bytes(limits, routes, sound_routes)
    if isinstance(most, str):  # librdkafka accepts numbers as strings
        most = int(most) if most.isascii() and most.isdigit() else None
    if isinstance(most, int) and most < largest:
        yield Mistake(under("kafka.client", name), f"at least the largest max_body, {largest}", str(most))


def _body_memory_too_small(limits: Limits, routes: Routes, sound_routes: set[int]) -> Iterator[Mistake]:
    largest = _largest_sound_body_bytes(limits, routes, sound_routes)
    defaults = {"body_memory": BODY_MEMORY_BYTES, "connection_body_memory": CONNECTION_BODY_MEMORY_BYTES}
    for key, default in defaults.items():
        kept = getattr(limits, f"{key}_bytes")
        if kept < largest and kept != default:
            yield Mistake(f"limits.{key}", f"at least the largest max_body, {largest} bytes", f"{kept} bytes")


def _answer_memory_too_small(limits: Limits) -> Iterator[Mistake]:
    most = limits.max_reply_bytes
    for key in ("answer_memory", "connection_answer_memory"):
        kept = getattr(limits, f"{key}_bytes")
        if kept < most:
            yield Mistake(f"limits.{key}", f"at least limits.max_reply, {most} bytes", f"{kept} bytes")


def _largest_sound_body_bytes(limits: Limits, routes: Routes, sound_routes: set[int]) -> int:
    return largest_body_bytes(limits, [routes[number] for number in sound_routes])


def _nothing_to_compress(compression: Compression) -> Iterator[Mistake]:
    if compression.min_size_bytes > compression.max_size_bytes:
        most = units.format_bytes(compression.max_size_bytes)
        got = shown(units.format_bytes(compression.min_size_bytes))
        yield Mistake("compression.min_size", f"at most compression.max_size = {shown(most)}", got)


# --- routes ----------------------------------------------------------------------------------------------------------


def _too_many_routes(routes: Routes) -> Iterator[Mistake]:
    if len(routes) > ROUTES_MAX:
        yield Mistake("route", f"at most {ROUTES_MAX} routes", str(len(routes)))


def _requests_among_replies(routes: Routes, gateway: Gateway) -> Iterator[Mistake]:
    for number, route in routes.items():
        if route.topic == gateway.response_topic:
            path = f"route[{number}].topic"
            yield Mistake(path, "another topic than gateway.response_topic", shown(route.topic))


def _key_without_parameter(routes: Routes) -> Iterator[Mistake]:
    for number, route in routes.items():
        where, _, name = route.key.partition(".")
        if where == "path" and not {f"{{{name}}}", f"{{{name}...}}"} & set(route.path.split("/")):
            hint = f"path = {shown(route.path)}"
            yield Mistake(f"route[{number}].key", "a parameter of the route's path", shown(route.key), hint)


def _same_requests(routes: Routes) -> Iterator[Mistake]:
    """Two routes with the same method and the same shape of path, or with the same name."""
    names: dict[str, int] = {}
    shapes: dict[tuple[str, ...], int] = {}
    for at, route in routes.items():
        first = names.setdefault(route.name, at)
        firsts = [(shapes.setdefault((method, *shape_of(route.path)), at), method) for method in route.methods]
        taken = next(((same, method) for same, method in firsts if same != at), None)
        if taken is not None:
            expected, got = f"requests that route[{taken[0]}] does not take", f"{taken[1]} {route.path}"
            yield Mistake(f"route[{at}]", expected, got, "one of the two has to go")
        elif first != at:
            yield Mistake(f"route[{at}].name", f"another name than route[{first}].name", shown(route.name))


def _partitioner_without_key(routes: Routes) -> Iterator[Mistake]:
    for number, route in routes.items():
        if not route.key and route.key_partitioner != "crc32":
            path = f"route[{number}].key_partitioner"
            yield Mistake(path, "nothing, unless the route has a key", shown(route.key_partitioner))


def _two_partitioners(routes: Routes) -> Iterator[Mistake]:
    """All routes of a topic must map a key to the same partition."""
    firsts: dict[str, int] = {}
    for number, route in routes.items():
        first = firsts.setdefault(route.topic, number) if route.key else number
        if routes[first].key_partitioner != route.key_partitioner:
            expected = f"{shown(routes[first].key_partitioner)}, as route[{first}] has it for the same topic"
            yield Mistake(f"route[{number}].key_partitioner", expected, shown(route.key_partitioner))


# --- kept replies ----------------------------------------------------------------------------------------------------


def _first_with_store(routes: Routes) -> tuple[str, Route] | None:
    """The path of the first route that needs the store, and the route."""
    return next(((f"route[{number}]", route) for number, route in routes.items() if route.needs_store), None)


def _why_store(found: tuple[str, Route]) -> str:
    path, route = found
    return f"because {path} has " + ("later = true" if route.later else f"idempotency = {shown(route.idempotency)}")


def _no_store_dir(store: Store, gateway: Gateway, routes: Routes) -> Iterator[Mistake]:
    needing = _first_with_store(routes)  # streams leave nothing on the disk
    if needing is not None and store_dir(store, gateway) is None:
        expected = f"a directory for the store, {_why_store(needing)}"
        yield Mistake("store.dir", expected, "none", "under systemd, StateDirectory=fastgw in the unit is enough")


def _no_secret(gateway: Gateway, routes: Routes) -> Iterator[Mistake]:
    needing = _first_with_store(routes)
    if needing is not None and not gateway.secrets:
        expected = f"a secret that signs status URLs and claims of keys, {_why_store(needing)}"
        hint = 'such as secrets = ["${FASTGW_SECRET}"]; `openssl rand -base64 32` prints one'
        yield Mistake("gateway.secrets", expected, "none", hint)


def _work_shorter_than_wait(later: Later, routes: Routes) -> Iterator[Mistake]:
    for number, route in routes.items():
        path, got = f"route[{number}].work_timeout", shown(units.format_duration(route.work_timeout_ns))
        if route.work_timeout_ns < route.timeout_ns:
            least = shown(units.format_duration(route.timeout_ns))
            yield Mistake(path, f"at least timeout = {least}", got)
        elif route.needs_store and route.work_timeout_ns > later.keep_ns:
            most = shown(units.format_duration(later.keep_ns))
            yield Mistake(path, f"at most later.keep = {most}", got, "the reply would not be kept until the work ends")


def _topic_of_kept_replies(later: Later, gateway: Gateway, routes: Routes) -> Iterator[Mistake]:
    if later.topic == gateway.response_topic:
        yield Mistake("later.topic", "another topic than gateway.response_topic", shown(later.topic))
    for number, route in routes.items():
        if route.topic == later.topic:
            yield Mistake(f"route[{number}].topic", "another topic than later.topic", shown(route.topic))


def _routes_among_tickets(later: Later, routes: Routes) -> Iterator[Mistake]:
    if not any(route.later for route in routes.values()):
        return
    taken = shape_of(later.path + "/{ticket}")
    for number, route in routes.items():
        if shape_of(route.path) == taken:
            yield Mistake(f"route[{number}].path", f"no path below later.path = {shown(later.path)}", shown(route.path))


def _fingerprint_of_nothing(routes: Routes) -> Iterator[Mistake]:
    for number, route in routes.items():
        if route.fingerprint_headers and route.idempotency == "off":
            path = f"route[{number}].fingerprint_headers"
            yield Mistake(path, 'nothing, unless idempotency = "accept" or "require"', 'idempotency = "off"')


# --- streams ---------------------------------------------------------------------------------------------------------


def _stream_settings_without_stream(routes: Routes) -> Iterator[Mistake]:
    for number, route in routes.items():
        if route.streams:
            continue
        for key in ("resume", "cancel", "end_line"):
            if getattr(route, key) and not (key == "cancel" and route.later):
                also = " or later = true" if key == "cancel" else ""
                yield Mistake(f"route[{number}].{key}", f'false, unless reply = "stream"{also}', "true")


def _contradictions_in_streams(routes: Routes) -> Iterator[Mistake]:
    for number, route in routes.items():
        if not route.streams:
            continue
        if route.resume and route.items != "json":
            yield Mistake(f"route[{number}].resume", 'false, because items = "bytes"', "true", "events are JSON")
        if route.later:
            hint = "the two cannot be combined: a deferred answer is one reply"
            yield Mistake(f"route[{number}].later", 'false, because reply = "stream"', "true", hint)
        if route.idempotency != "off":
            got, hint = shown(route.idempotency), "the two cannot be combined: a kept answer is one reply"
            yield Mistake(f"route[{number}].idempotency", '"off", because reply = "stream"', got, hint)
        if route.max_duration_ns < route.timeout_ns:
            least = shown(units.format_duration(route.timeout_ns))
            got = shown(units.format_duration(route.max_duration_ns))
            yield Mistake(f"route[{number}].max_duration", f"at least timeout = {least}", got)


def _no_secret_for_positions(gateway: Gateway, routes: Routes) -> Iterator[Mistake]:
    resuming = next((number for number, route in routes.items() if route.resume), None)
    if resuming is not None and not gateway.secrets:
        expected = f"a secret, because route[{resuming}] has resume = true and hands out positions"
        hint = 'such as secrets = ["${FASTGW_SECRET}"]; `openssl rand -base64 32` prints one'
        yield Mistake("gateway.secrets", expected, "none", hint)


def _no_listener_for_streams(gateway: Gateway, routes: Routes, listen_path: str) -> Iterator[Mistake]:
    streaming = next((number for number, route in routes.items() if route.streams), None)
    if streaming is not None and not any(listen.is_express for listen in gateway.listens):
        expected = f'at least one express listener, because route[{streaming}] has reply = "stream"'
        hint = "plain HTTP/1.1 without TLS; put a proxy in front of it for TLS"
        yield Mistake(listen_path, expected, "none", hint)


def _topic_of_streams(streams: Streams, later: Later, gateway: Gateway, routes: Routes) -> Iterator[Mistake]:
    if streams.topic in (gateway.response_topic, later.topic):
        other = "gateway.response_topic" if streams.topic == gateway.response_topic else "later.topic"
        yield Mistake("streams.topic", f"another topic than {other}", shown(streams.topic))
    for number, route in routes.items():
        if route.topic == streams.topic:
            yield Mistake(f"route[{number}].topic", "another topic than streams.topic", shown(route.topic))


# --- web pages -------------------------------------------------------------------------------------------------------


def _unsafe_cors(cors_tables: Mapping[str, Cors]) -> Iterator[Mistake]:
    for path, cors in cors_tables.items():
        yield from _origins_too_wide(cors, path)


def _origins_too_wide(cors: Cors, path: str) -> Iterator[Mistake]:
    if "*" in cors.origins and len(cors.origins) > 1:
        yield Mistake(f"{path}.origins", 'either "*" or a list of origins', "both")
    elif "*" in cors.origins and cors.credentials:
        hint = "any page could act in the name of whoever visits it; list the origins"
        yield Mistake(f"{path}.credentials", 'false, because origins = "*"', "true", hint)


# Each rule and the parts of a `Draft` that it compares. A rule is skipped if one of them is missing.
_CLASHES: tuple[tuple[Callable[..., Iterator[Mistake]], str], ...] = (
    (_too_many_slots, "gateway"),
    (_too_long_response_topic, "gateway"),
    (_no_listener, "gateway"),
    (_half_of_tls, "gateway listen_path"),
    (_more_than_express_speaks, "gateway listen_path"),
    (_rights_without_file, "gateway listen_path"),
    (_same_address_twice, "gateway admin listen_path"),
    (_proxy_protocol_beyond_express, "gateway listen_path"),
    (_proxy_protocol_of_nobody, "gateway listen_path"),
    (_node_out_of_range, "cluster"),
    (_records_too_small, "kafka limits routes sound_routes"),
    (_body_memory_too_small, "limits routes sound_routes"),
    (_answer_memory_too_small, "limits"),
    (_too_many_routes, "routes"),
    (_requests_among_replies, "routes gateway"),
    (_key_without_parameter, "routes"),
    (_nothing_to_compress, "compression"),
    (_same_requests, "routes"),
    (_partitioner_without_key, "routes"),
    (_two_partitioners, "routes"),
    (_unsafe_cors, "cors_tables"),
    (_no_store_dir, "store gateway routes"),
    (_no_secret, "gateway routes"),
    (_work_shorter_than_wait, "later routes"),
    (_topic_of_kept_replies, "later gateway routes"),
    (_routes_among_tickets, "later routes"),
    (_fingerprint_of_nothing, "routes"),
    (_stream_settings_without_stream, "routes"),
    (_contradictions_in_streams, "routes"),
    (_no_secret_for_positions, "gateway routes"),
    (_no_listener_for_streams, "gateway routes listen_path"),
    (_topic_of_streams, "streams later gateway routes"),
)


# --- files -----------------------------------------------------------------------------------------------------------


def _unusable_certificate(listen: Listen, path: str) -> Iterator[Mistake]:
    missing = [name for name in ("tls_cert", "tls_key") if _cannot_be_read(getattr(listen, name))]
    for name in missing:
        yield Mistake(f"{path}.{name}", "a file that can be read", shown(getattr(listen, name)))
    if listen.tls_cert and listen.tls_key and not missing:
        yield from _refused_certificate(listen, path)


def _cannot_be_read(file: str) -> bool:
    return bool(file) and not os.access(file, os.R_OK)


def _refused_certificate(listen: Listen, path: str) -> Iterator[Mistake]:
    """A certificate that OpenSSL refuses. Without this check the workers would start and die repeatedly."""
    import ssl  # imported here, because most gateways do not need it

    try:
        # The empty password keeps OpenSSL from asking for one on the terminal. Encrypted keys are not supported.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(listen.tls_cert, listen.tls_key, password="")
    except OSError as error:
        expected = "a PEM certificate and, in tls_key, the private key that belongs to it, not encrypted"
        why = str(error.strerror).partition(" (_ssl")[0]
        yield Mistake(f"{path}.tls_cert", expected, f"{shown(listen.tls_cert)}: {why}")


def _unwritable_access_file(log: Log) -> Iterator[Mistake]:
    target = log.access_file
    if log.access == "off" or target in ("stdout", "stderr"):
        return
    folder = os.path.dirname(target) or "."
    if not os.path.isdir(folder):
        yield Mistake("log.access_file", "a file in a directory that exists", shown(target))
    elif os.path.isdir(target) or not os.access(target if os.path.exists(target) else folder, os.W_OK):
        yield Mistake("log.access_file", "a file that can be written", shown(target))
