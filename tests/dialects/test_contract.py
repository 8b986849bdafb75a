"""Each dialect has what `fastgw.dialects` promises; mypy compares the types, `exchange` calls the concrete classes."""

from __future__ import annotations

from types import ModuleType

import pytest

from fastgw import dialects
from fastgw.dialects import plain
from fastgw.messages import Reply

DIALECTS = [plain]


def requests_of_plain(wire: plain.RequestWire) -> dialects.RequestWire:
    return wire


def replies_of_plain(wire: plain.ReplyWire) -> dialects.ReplyWire:
    return wire


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda module: module.__name__)
def test_a_dialect_has_both_classes(dialect: ModuleType) -> None:
    assert callable(dialect.RequestWire.headers)
    assert callable(dialect.ReplyWire.answer)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda module: module.__name__)
def test_a_reply_that_is_no_answer_is_a_bad_reply(dialect: ModuleType) -> None:
    with pytest.raises(dialects.BadReply):
        dialect.ReplyWire((), 1).answer(Reply(b"", 0, 0, [], b"two"))
