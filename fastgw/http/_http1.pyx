# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The head of an HTTP/1.1 request, the fast half: one pass over its bytes. See heads.py for what it is for.

llhttp (in http_express's connections) decides whether these bytes are a head at all; this file only finds things in it,
and calls a fault whatever llhttp might read in another way: every line is looked at by the same rule, a name from the
line's start to its first colon, a value from there to the line's end without the blanks around it.

    POST /orders?a=1 HTTP/1.1 CR LF       exactly two blanks; HTTP/1 of any minor version
    Host: shop.test CR LF                 the five names that decide something here are read in the first pass;
    X-Other: 1 CR LF                      all others are looked for when somebody asks, from the start
    CR LF

The bytes are hostile: every read is behind a comparison with `end`, and nothing of them is written anywhere. What is
marked nogil touches no Python object and cannot fail.
"""

cimport cython
from fastgw.messages cimport joined
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

from fastgw.messages import UNKNOWN_PEER

cdef extern from "Python.h":
    object PyUnicode_DecodeLatin1(const char* text, Py_ssize_t size, const char* errors)
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef enum:
    LENGTH_DIGITS_MAX = 18   # fits 63 bits
    KNOWN_METHODS = 8
    HEAD = 5                 # its place among them
    ID_NAME_SIZE = 14        # "x-request-id: "
    LENGTH_NAME_SIZE = 16    # "content-length: "

cdef struct line_parts:      # of a header line; without a colon the name is the whole line and the value empty
    span name
    span value

cdef tuple _METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "QUERY")


cdef inline char lower(char character) noexcept nogil:
    return character | 0x20 if c'A' <= character <= c'Z' else character


cdef bint equals(span text, const char* name, Py_ssize_t size) noexcept nogil:
    """Whether `text` is `name`, which is in lower case, in any case."""
    cdef Py_ssize_t i
    if text.stop - text.start != size:
        return False
    for i in range(size):
        if lower(text.start[i]) != name[i]:
            return False
    return True


cdef inline uint64_t bit_of(const char* name, Py_ssize_t size) noexcept nogil:
    """One of 64 bits for each name, `size` > 0, in any case: most names that nobody sent are known by it."""
    cdef unsigned char first = lower(name[0]), last = lower(name[size - 1])
    return <uint64_t>1 << ((7 * first + 3 * last + <uint64_t>size) & 63)


cdef inline bint is_blank(char character) noexcept nogil:
    return character == c" " or character == c"\t"


cdef span trimmed(span text) noexcept nogil:
    while text.start < text.stop and is_blank(text.start[0]):
        text.start += 1
    while text.start < text.stop and is_blank((text.stop - 1)[0]):
        text.stop -= 1
    return text


cdef bint is_named_in(const char* at, const char* stop, const char* name, Py_ssize_t size) noexcept nogil:
    """Whether one of the lines from `at` on is a header of this name, which is in lower case."""
    while at < stop:
        if equals(parts_of(line_at(at, stop)).name, name, size):
            return True
        at = next_line(at, stop)
    return False


cdef inline bint has(span text, char character) noexcept nogil:
    return memchr(text.start, character, text.stop - text.start) != NULL


cdef bint is_ascii(span text) noexcept nogil:
    cdef const char* at = text.start
    while at < text.stop:
        if at[0] & 0x80:
            return False
        at += 1
    return True


cdef bint is_visible(span text) noexcept nogil:
    """Whether there is something, and all of it is ASCII that prints."""
    cdef const char* at = text.start
    while at < text.stop:
        if not c"!" <= at[0] <= c"~":
            return False
        at += 1
    return text.start < text.stop


cdef span line_at(const char* start, const char* end) noexcept nogil:
    """The line that begins at `start`, without its end; `start` < `end`, and the byte before `end` is a LF."""
    cdef span line
    line.start = start
    line.stop = <const char*>memchr(start, c"\n", end - start)
    if line.stop > start and (line.stop - 1)[0] == c"\r":
        line.stop -= 1
    return line


cdef line_parts parts_of(span line) noexcept nogil:
    cdef line_parts parts
    cdef const char* colon = <const char*>memchr(line.start, c":", line.stop - line.start)
    parts.name.start = line.start
    parts.name.stop = colon if colon != NULL else line.stop
    parts.value.start = colon + 1 if colon != NULL else line.stop
    parts.value.stop = line.stop
    parts.value = trimmed(parts.value)
    return parts


cdef const char* next_line(const char* start, const char* end) noexcept nogil:
    """Where the line behind the one at `start` begins, or `end`."""
    return <const char*>memchr(start, c"\n", end - start) + 1


cdef const char* end_of_head(const char* start, const char* end) noexcept nogil:
    """Behind the first CR LF CR LF, or NULL."""
    cdef const char* at = start
    while True:
        at = <const char*>memchr(at, c"\n", end - at)
        if at == NULL or end - at < 3:
            return NULL
        if at[1] == c"\r" and at[2] == c"\n" and at > start and (at - 1)[0] == c"\r":
            return at + 3
        at += 1


cdef bint has_token(span value, const char* token, Py_ssize_t size) noexcept nogil:
    """Whether a list with commas has this member."""
    cdef span member
    cdef const char* comma
    while value.start < value.stop:
        comma = <const char*>memchr(value.start, c",", value.stop - value.start)
        member.start = value.start
        member.stop = comma if comma != NULL else value.stop
        if equals(trimmed(member), token, size):
            return True
        value.start = member.stop + 1
    return False


cdef int64_t length_in(span value) noexcept nogil:
    """A decimal number, or -1."""
    cdef int64_t length = 0
    if value.start == value.stop or value.stop - value.start > LENGTH_DIGITS_MAX:
        return -1
    while value.start < value.stop:
        if not c"0" <= value.start[0] <= c"9":
            return -1
        length = length * 10 + (value.start[0] - c"0")
        value.start += 1
    return length


cdef str text_of(span text):
    return PyUnicode_DecodeLatin1(text.start, text.stop - text.start, NULL)


cdef str method_in(span word):
    """The method; a known one is always the same object, whose hash is known as well."""
    cdef Py_ssize_t size
    cdef const char* known
    cdef int i
    for i in range(KNOWN_METHODS):
        known = PyUnicode_AsUTF8AndSize(_METHODS[i], &size)
        if word.stop - word.start == size and memcmp(word.start, known, size) == 0:
            return <str>_METHODS[i]
    return text_of(word)


@cython.final
cdef class RequestHead:
    def __init__(self, *_, **__):
        raise TypeError("heads are made by scan")

    def __repr__(self):
        return f"<RequestHead {self.method} {self.target!r}{' with a fault' if self.fault else ''}>"

    cpdef get(self, str key):
        cdef Py_ssize_t size
        cdef const char* name = PyUnicode_AsUTF8AndSize(key, &size)
        cdef const char* at = self._start
        cdef line_parts parts
        if size == 0 or not self._names & bit_of(name, size):
            return None
        while at < self._stop:
            parts = parts_of(line_at(at, self._stop))
            at = next_line(at, self._stop)
            if equals(parts.name, name, size):
                if is_named_in(at, self._stop, name, size):
                    return joined(key, self.get_all(key))
                return text_of(parts.value)
        return None

    cpdef get_all(self, str key):
        cdef Py_ssize_t size
        cdef const char* name = PyUnicode_AsUTF8AndSize(key, &size)
        cdef const char* at = self._start
        cdef line_parts parts
        cdef list values = []
        while at < self._stop:
            parts = parts_of(line_at(at, self._stop))
            if equals(parts.name, name, size):
                values.append(text_of(parts.value))
            at = next_line(at, self._stop)
        return values

    cdef int _read_request_line(self, span line) except -1:
        cdef span word
        cdef const char* blank = <const char*>memchr(line.start, c" ", line.stop - line.start)
        cdef const char* query
        self.method = self.target = self.path = self.query = ""
        if blank == NULL:
            return self._find_fault("expected a request line of method, target and version")
        word.start, word.stop = line.start, blank
        if not is_visible(word):
            return self._find_fault("expected a method")  # llhttp would skip a CR before it
        self.method = method_in(word)
        self.is_head = self.method is _METHODS[HEAD]
        word.start = blank + 1
        word.stop = <const char*>memchr(word.start, c" ", line.stop - word.start)
        if word.stop == NULL or word.stop == word.start:
            return self._find_fault("expected a request line of method, target and version, one blank between them")
        self.is_plain = word.start[0] == c"/" and not has(word, c"#")
        self._read_version(word.stop + 1, line.stop)
        query = <const char*>memchr(word.start, c"?", word.stop - word.start)
        if query != NULL:
            self.target = text_of(word)
            self.query = text_of(span(query + 1, word.stop))
            word.stop = query
        self.path = text_of(word)
        if query == NULL:
            self.target = self.path
        return 0

    cdef int _read_version(self, const char* start, const char* stop) except -1:
        if stop - start != 8 or memcmp(start, b"HTTP/1.", 7) != 0 or not c"0" <= start[7] <= c"9":
            return self._find_fault("expected HTTP/1.1; HTTP/2 is for TLS listeners and those with http = \"2\"")
        self.is_http10 = start[7] == c"0"
        if start[7] > c"1":  # a later minor version is the highest that we know (RFC 9110, 2.5)
            self.is_plain = False
        return 0

    cdef int _read_headers(self) except -1:
        """The headers that decide where the body ends, and what the front does itself."""
        cdef const char* at = self._start
        cdef line_parts parts
        cdef int64_t length
        cdef bint closes = False, keeps = False
        cdef int hosts = 0
        cdef char first
        while at < self._stop:
            parts = parts_of(line_at(at, self._stop))
            at = next_line(at, self._stop)
            if parts.name.start == parts.name.stop:
                continue  # llhttp refuses it
            first = lower(parts.name.start[0])
            self._names |= bit_of(parts.name.start, parts.name.stop - parts.name.start)
            if first == c"h":
                if equals(parts.name, b"host", 4):
                    if not is_ascii(parts.value):  # must not hide from those who count Hosts
                        return self._find_fault("expected a Host that is ASCII")
                    hosts += 1
                    self.hosts = (text_of(parts.value),)
            elif first == c"c":
                if equals(parts.name, b"content-length", 14):
                    length = length_in(parts.value)
                    if length < 0 or self.content_length is not None:
                        return self._find_fault("expected one Content-Length, of decimal digits")
                    self.content_length = length
                elif equals(parts.name, b"connection", 10):
                    closes |= has_token(parts.value, b"close", 5)
                    keeps |= has_token(parts.value, b"keep-alive", 10)
            elif first == c"t":
                if equals(parts.name, b"transfer-encoding", 17):
                    if self.is_streamed or self.is_http10 or not equals(parts.value, b"chunked", 7):
                        return self._find_fault("expected no Transfer-Encoding but chunked, and that in HTTP/1.1 only")
                    self.is_streamed = True
            elif first == c"e":
                if equals(parts.name, b"expect", 6):
                    self.is_expecting = True
            elif first == c"u":
                if equals(parts.name, b"upgrade", 7):
                    self.is_plain = False
            elif first == c"p":  # not a standard, but llhttp obeys it
                if equals(parts.name, b"proxy-connection", 16):
                    closes |= has_token(parts.value, b"close", 5)
        if hosts > 1:
            self.hosts = tuple(self.get_all("host"))
        if self.is_streamed and self.content_length is not None:
            return self._find_fault("expected either Content-Length or Transfer-Encoding")
        self.is_kept_alive = not closes and (keeps or not self.is_http10)
        return 0

    cdef int _find_fault(self, str fault) except -1:
        self.is_plain = False
        self._names = ~<uint64_t>0  # not all of them were seen
        if self.fault is None:
            self.fault = fault
        return 0


cpdef RequestHead scan(bytes data, Py_ssize_t at):
    if data is None:
        raise TypeError("expected bytes, got None")
    cdef const char* start = PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef const char* end
    cdef span line
    cdef RequestHead head
    if not 0 <= at < size:
        return None
    end = end_of_head(start + at, start + size)
    if end == NULL:
        return None
    head = RequestHead.__new__(RequestHead)
    head._data = data
    head.end = end - start
    head.hosts = ()
    head.peer = UNKNOWN_PEER
    head._stop = end - 2
    line = line_at(start + at, end)
    head._start = next_line(start + at, end)
    head._read_request_line(line)
    head._read_headers()
    return head


# Not of a head, but as often: the bytes of an answer, put together in one go.
cpdef bytes whole_answer(bytes head, bytes request_id, bytes body):
    if head is None or request_id is None or body is None:
        raise TypeError("expected bytes, got None")
    cdef char[LENGTH_DIGITS_MAX + 4] length
    cdef Py_ssize_t at = LENGTH_DIGITS_MAX
    cdef Py_ssize_t left = PyBytes_GET_SIZE(body)
    cdef bytes made
    cdef char* out
    cdef Py_ssize_t id_size = PyBytes_GET_SIZE(request_id)
    cdef Py_ssize_t id_line_size = ID_NAME_SIZE + id_size + 2 if id_size else 0
    memcpy(&length[at], b"\r\n\r\n", 4)
    while True:
        at -= 1
        length[at] = <char>(c"0" + left % 10)
        left //= 10
        if left == 0:
            break
    made = PyBytes_FromStringAndSize(
        NULL,
        PyBytes_GET_SIZE(head) + id_line_size + LENGTH_NAME_SIZE + sizeof(length) - at + PyBytes_GET_SIZE(body),
    )
    out = PyBytes_AS_STRING(made)
    memcpy(out, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
    out += PyBytes_GET_SIZE(head)
    if id_size:
        memcpy(out, b"x-request-id: ", ID_NAME_SIZE)
        memcpy(out + ID_NAME_SIZE, PyBytes_AS_STRING(request_id), id_size)
        out += id_line_size
        memcpy(out - 2, b"\r\n", 2)
    memcpy(out, b"content-length: ", LENGTH_NAME_SIZE)
    out += LENGTH_NAME_SIZE
    memcpy(out, &length[at], sizeof(length) - at)
    memcpy(out + sizeof(length) - at, PyBytes_AS_STRING(body), PyBytes_GET_SIZE(body))
    return made


@cython.final
@cython.no_gc
cdef class MessageEnd:
    def on_message_complete(self):
        self.seen = True
