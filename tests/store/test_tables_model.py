"""The tables against a dictionary: batches, expiry, forgetting, reopening and kills in any order."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastgw.store.entries import Entry, KeyKind
from fastgw.store.tables import Part, Source
from tests.store.opening import OTHER_TOPIC, TOPIC, opened

SOURCES = [Source(TOPIC, 0), Source(TOPIC, 1), Source(OTHER_TOPIC, 0)]
KEYS = [(kind, name) for kind in KeyKind for name in (b"a", b"b", b"c" * 1000)]
STEPS = st.integers(1, 3)  # from one offset to the next: transaction markers take some
RECORDS = st.lists(
    st.tuples(
        STEPS,
        st.integers(0, 20),
        st.lists(st.sampled_from(KEYS), max_size=3),
        st.sampled_from([None, 0, 300, 3000, 5000]),
    ),
    max_size=30,
)
PARTS = st.lists(st.tuples(st.sampled_from(SOURCES), RECORDS, STEPS), min_size=1, max_size=3)


class TablesModel(RuleBasedStateMachine):
    """`kept` has what must be there: for each source its entries by offset."""

    @initialize()
    def make(self):
        self.path = Path(tempfile.mkdtemp(prefix="fastgw-store-model-"))
        self.tables = opened(self.path)
        self.positions: dict[Source, int] = {}
        self.kept: dict[Source, dict[int, Entry]] = defaultdict(dict)
        self.now_ms = 0
        self.value_bytes_max = 4096  # larger ones must be in the log; those above 256 may be, after shrinking

    def teardown(self):
        if hasattr(self, "path"):
            self.tables.close()
            shutil.rmtree(self.path)

    def drawn(self, drawn):
        """The parts of a batch, and what they change in the model."""
        parts, positions, entries = [], dict(self.positions), defaultdict(dict)
        for source, records, step in drawn:
            offset, rows = positions.get(source, 0), []
            for gap, age_ms, keys, size in records:
                offset += gap
                value = None if size is None else b"%d" % offset * (size // 4)
                rows.append((offset, Entry(1, self.now_ms - age_ms, tuple(keys), [("n", b"v")], value)))
            positions[source] = offset + step
            entries[source].update(rows)
            parts.append(Part(source, rows, offset + step))
        return parts, positions, entries

    @rule(drawn=PARTS)
    def append(self, drawn):
        self.now_ms += 1
        parts, self.positions, entries = self.drawn(drawn)
        self.tables.append(parts)
        for source, rows in entries.items():
            self.kept[source].update(rows)

    @rule(drawn=PARTS)
    def append_and_be_killed(self, drawn):
        """Another process appends a batch and ends without closing anything, before or after its commit."""
        self.now_ms += 1
        parts, positions, entries = self.drawn(drawn)
        self.tables.close()
        commits = len(parts[0].entries) % 2 == 0
        pid = os.fork()
        if not pid:
            try:
                tables = opened(self.path)
                if not commits:
                    tables._engine._measure = lambda txn, numbers: os._exit(0)  # the last step before the commit
                tables.append(parts)
                os._exit(0)
            except BaseException:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        self.tables = opened(self.path)
        assert self.tables.rebuilt == ""
        if commits:
            self.positions = positions
            for source, rows in entries.items():
                self.kept[source].update(rows)

    @rule(keep_ms=st.integers(0, 20), at_most=st.integers(1, 40), topic=st.sampled_from([TOPIC, OTHER_TOPIC]))
    def expire(self, keep_ms, at_most, topic):
        before = {source: list(rows) for source, rows in self.kept.items()}
        deleted = self.tables.expire(self.now_ms, {topic: keep_ms}, at_most)
        assert deleted <= at_most
        gone = 0
        for source, rows in self.kept.items():
            left = {kept.offset for kept in self.tables.entries_from(source, 0, 10_000)}
            due = [offset for offset in before[source] if self._is_due(source, offset, topic, keep_ms)]
            for offset in before[source]:
                if offset not in left:
                    assert offset in due
                    del rows[offset]
                    gone += 1
            assert list(rows) == before[source][len(before[source]) - len(rows) :]  # from the front
            if deleted < at_most:
                assert not due or due[-1] not in left
        assert gone <= deleted  # the others were forgotten before

    def _is_due(self, source, offset, topic, keep_ms):
        """Whether it is over, and so is everything in front of it."""
        if source.topic != topic:
            return False
        rows = self.kept[source]
        return all(entry.timestamp_ms <= self.now_ms - keep_ms for at, entry in rows.items() if at <= offset)

    @rule(at_most=st.integers(1, 40))
    def shrink(self, at_most):
        max_bytes, self.tables.max_bytes = self.tables.max_bytes, 1
        assert self.tables.shrink(at_most) <= at_most
        self.tables.max_bytes = max_bytes
        self.value_bytes_max = 256

    @rule(source=st.sampled_from(SOURCES))
    def forget(self, source):
        self.tables.forget_partition(*source)
        self.positions.pop(source, None)
        self.kept.pop(source, None)

    @rule()
    def reopen(self):
        self.tables.close()
        self.tables = opened(self.path, booted_s=self.tables.max_bytes + self.now_ms * 1000.0)
        assert self.tables.rebuilt == ""

    @rule()
    def rebuild(self):
        self.tables.rebuild("asked for")
        self.positions, self.kept = {}, defaultdict(dict)

    @invariant()
    def positions_are_those_of_the_model(self):
        if hasattr(self, "path"):
            assert self.tables.positions() == self.positions

    @invariant()
    def entries_are_those_of_the_model_by_place_and_by_key(self):
        if not hasattr(self, "path"):
            return
        by_key = defaultdict(set)
        for source in SOURCES:
            rows = self.kept.get(source, {})
            found = self.tables.entries_from(source, 0, 10_000)
            assert [kept.offset for kept in found] == list(rows)
            for _, offset, entry in found:
                self.assert_same(entry, rows[offset])
                for key in entry.keys:
                    by_key[key].add((source, offset))
        for key in KEYS:
            found = [(kept.source, kept.offset) for kept in self.tables.get(*key)]
            assert set(found) == by_key[key]
            for source in SOURCES:
                offsets = [offset for other, offset in found if other == source]
                assert offsets == sorted(offsets)

    def assert_same(self, found: Entry, written: Entry) -> None:
        if found.is_reference:
            assert (found.value, found.left_bytes) == (None, len(written.value))
            assert found.left_bytes > self.value_bytes_max
        else:
            assert found.value == written.value
            assert len(found.value or b"") <= 4096
        assert (found.kind, found.timestamp_ms, found.keys, found.headers) == (
            written.kind, written.timestamp_ms, written.keys, written.headers,
        )  # fmt: skip


TestTables = TablesModel.TestCase
TestTables.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
