"""Keeps the parts of a request's head that CORS and the access log need at its end.

Used only if one of them is switched on. Otherwise there are no notes, and a request pays one comparison.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from fastgw.dialects.plain import client_request_id
from fastgw.errors import Ending
from fastgw.http.cors import Policies, dressed
from fastgw.messages import Head, HeaderList
from fastgw.worker.access_log import AccessLog, Note

# Quoted: compiled, `Note | None` would be calculated at the import, and gcc warns about what that does to None.
Kept = tuple["Note | None", "HeaderList | None"]

_NO_HEAD = Note("", "", "", "", "", 0, "", "")  # the front could not parse the head


class Notes:
    """Implements `exchange.Notes`."""

    def __init__(
        self,
        policies: Policies,
        access: AccessLog | None,
        route_names: Mapping[int, str],
        secret_prefix: str = "",
    ) -> None:
        """
        Args:
            secret_prefix: paths that begin with it are logged only as far as it goes; empty: there are none.
        """
        self._policies = policies if policies else None
        self._access = access
        self._route_names = route_names
        self._secret_prefix = secret_prefix

    def take(self, head: Head | None, route_number: int | None, bytes_in: int) -> Kept:
        if head is None:
            return _NO_HEAD, None
        cors = None
        if self._policies is not None:
            policy = self._policies.of(route_number)
            cors = policy.of_answer(head.get("origin")) if policy is not None else None
        if self._access is None:
            return None, cors
        note = Note(
            self._route_names[route_number] if route_number is not None else "",
            head.method,
            self._shown(head.path),
            head.query,
            head.client_address,
            bytes_in,
            client_request_id(head),
            head.get("traceparent") or "",
        )
        return note, cors

    def _shown(self, path: str) -> str:
        """The path for the log. A status URL grants access to an answer, so it is not written whole."""
        if self._secret_prefix and unquote(path).startswith(self._secret_prefix):  # the router decodes it as well
            return self._secret_prefix + "..."
        return path

    def dressed(self, kept: Kept, headers: HeaderList) -> HeaderList:
        return headers if kept[1] is None else dressed(headers, kept[1])

    def ended(
        self,
        kept: Kept,
        ending: Ending,
        status: int,
        request_id: bytes,
        bytes_out: int,
        times: tuple[int, int, int, int] | None,
    ) -> None:
        if self._access is not None and kept[0] is not None:
            self._access.write(kept[0], ending, status, request_id, bytes_out, times)
