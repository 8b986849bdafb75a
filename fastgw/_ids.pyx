# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compiled part of correlation ids: making, parsing and hashing. ids.py shows the layout and the fields.

How the salt is found. All three hash functions read a key from left to right. So their state after the fixed part of an
id is computed once, and a try costs only the characters after it:

    character    0 .......... 7   8 ................. 27   28 29 30   31       32 33 34   35
                 node, worker     generation ... nonce     home       salt 1   salt 2-4   salt 5
    folded       once per maker   once per id              per 65,536 tries    per 16     per try

Murmur2 reads words of four characters, hence the cuts at 28 and 32. A try costs one multiplication for fnv1a, one table
look-up for crc32 and five steps for murmur2; most tries fail at the first function. Salts are tried as `start ^ i` with
a random start: this tries each salt once, and every bit of the salt stays random even when the first try fits.

A *goal* has the order of the functions, the partitions to which the first one must hash and the other two should hash,
and the number of tries after which the search stops looking for a perfect salt (`patience`). The search remembers the
best salt that satisfies the first function. It returns at once when a salt satisfies all three, and returns the best
one when patience is used up.

Nothing here waits, so the GIL is never released. Functions marked nogil use no Python object and cannot fail.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM
from libc.errno cimport EINTR, errno
from libc.stdint cimport UINT64_MAX, int8_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import operator
import os
from typing import NamedTuple

cdef extern from "_tuple.h":
    object tuple_to_fill(object type, Py_ssize_t size)

cdef extern from "<sys/random.h>" nogil:
    ssize_t getrandom(void* buffer, size_t size_bytes, unsigned int flags)

cdef extern from * nogil:
    """
    #include <stdint.h>
    #define MURMUR2_SEED 0x9747b28cu   /* xor the length of the key */
    #define MURMUR2_M    0x5bd1e995u
    #define FNV1A_BASIS  0x811c9dc5u
    #define FNV1A_PRIME  0x01000193u
    #define CRC32_POLYNOMIAL 0xedb88320u
    static const uint8_t HEX_DIGIT[16] = {'0','1','2','3','4','5','6','7','8','9','a','b','c','d','e','f'};
    #define TAG_MASK ((UINT64_C(1) << 62) - 1)
    /* h % n without dividing (Lemire, Kaser, Kurz 2019): exact for every 32-bit h and n; inverse = 2^64 / n + 1. */
    static inline uint32_t fast_remainder(uint32_t h, uint32_t n, uint64_t inverse) {
        return (uint32_t)(((unsigned __int128)(inverse * h) * n) >> 64);
    }
    """
    const uint32_t MURMUR2_SEED, MURMUR2_M, FNV1A_BASIS, FNV1A_PRIME, CRC32_POLYNOMIAL
    const uint64_t TAG_MASK
    const uint8_t* HEX_DIGIT
    uint32_t fast_remainder(uint32_t h, uint32_t n, uint64_t inverse)

cdef enum:
    MAX_SLOTS = 1 << 20
    TRIES_PER_FIRST_DIGIT = 1 << 16    # salts that share their first digit
    # A perfect salt takes (partitions / owned) ** 3 tries on average: 64 with 4 workers, 512 with 8, 4096 with 16.
    # Beyond this number, forwarding the reply from a sibling is cheaper than searching on.
    ANY_PATIENCE = 8192
    # With a known function, the other two help only services that mix clients: worth a quarter of a microsecond.
    KNOWN_PATIENCE = 64
    REGISTRY_BYTES = 5                 # that a schema registry's serializers write in front of a value
    RANDOM_WORDS = 128                 # 1 KiB per system call, 8 bytes per id

cdef enum:   # ids.Partitioner
    ANY = 0
    MURMUR2 = 1
    CRC32 = 2
    FNV1A = 3
    HEADER = 4

PARTITIONS_MAX = MAX_PARTITIONS


class CorrelationId(NamedTuple):
    node: int
    worker: int
    generation: int
    slot: int
    nonce: int
    home: int
    salt: int
    tag: int

    @property
    def topic(self) -> int:
        return self.tag >> 60


cdef object correlation_id_type = CorrelationId

# Protobuf: the first message type of the schema, then its first field, a string of 36 bytes.
cdef const char* PROTOBUF_STRING = b"\0\x0a\x24"


# --- Digits -----------------------------------------------------------------------------------------------------------

cdef uint8_t[512] HEX_PAIR        # two digits for each byte
cdef int8_t[256] DIGIT_VALUE      # -1: not a lower-case hexadecimal digit
cdef int[16] PLACE_OF_BYTE = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34]   # between the dashes


cdef void fill_digit_tables() noexcept nogil:
    cdef int i
    memset(DIGIT_VALUE, -1, sizeof(DIGIT_VALUE))
    for i in range(16):
        DIGIT_VALUE[HEX_DIGIT[i]] = i
    for i in range(256):
        HEX_PAIR[2 * i] = HEX_DIGIT[i >> 4]
        HEX_PAIR[2 * i + 1] = HEX_DIGIT[i & 15]


fill_digit_tables()


cdef inline void write_bytes(uint8_t* chars, uint64_t half, int first_byte) noexcept nogil:
    """Write one half of the 128 bits, most significant byte first; first_byte is 0 or 8."""
    cdef int i
    for i in range(8):
        memcpy(chars + PLACE_OF_BYTE[first_byte + i], HEX_PAIR + 2 * (half >> (56 - 8 * i) & 0xff), 2)


cdef inline bint read_bytes(const uint8_t* chars, int first_byte, uint64_t* half) noexcept nogil:
    """Read one half of the 128 bits; False when a character is no digit."""
    cdef int i, digits, seen = 0
    cdef uint64_t value = 0
    for i in range(first_byte, first_byte + 8):
        digits = DIGIT_VALUE[chars[PLACE_OF_BYTE[i]]] * 16 | DIGIT_VALUE[chars[PLACE_OF_BYTE[i] + 1]]
        seen |= digits   # becomes and stays negative if either digit is -1
        value = value << 8 | <uint64_t>(digits & 0xff)
    half[0] = value
    return seen >= 0


# --- Hash functions: the formulas of the Kafka clients, for keys of any length ----------------------------------------

cdef uint32_t[256] CRC32_OF_BYTE


cdef void fill_crc32_table() noexcept nogil:
    cdef uint32_t byte, crc
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ (CRC32_POLYNOMIAL if crc & 1 else 0)
        CRC32_OF_BYTE[byte] = crc


fill_crc32_table()


cdef inline uint32_t murmur2_step(uint32_t state, uint32_t word) noexcept nogil:
    word *= MURMUR2_M
    word ^= word >> 24
    return (state * MURMUR2_M) ^ (word * MURMUR2_M)


cdef inline uint32_t murmur2_end(uint32_t state) noexcept nogil:
    state ^= state >> 13
    state *= MURMUR2_M
    return (state ^ (state >> 15)) & 0x7fffffff


cdef inline uint32_t crc32_step(uint32_t state, uint32_t byte) noexcept nogil:
    return CRC32_OF_BYTE[(state ^ byte) & 0xff] ^ (state >> 8)


cdef inline uint32_t fnv1a_step(uint32_t state, uint32_t byte) noexcept nogil:
    return (state ^ byte) * FNV1A_PRIME


cdef inline uint32_t fnv1a_end(uint32_t state) noexcept nogil:
    return 0 - state if state >> 31 else state   # |signed 32-bit|, as Sarama does; INT_MIN stays 2 ** 31


cdef inline uint32_t word_at(const uint8_t* chars) noexcept nogil:
    return chars[0] | <uint32_t>chars[1] << 8 | <uint32_t>chars[2] << 16 | <uint32_t>chars[3] << 24


cdef uint32_t murmur2(const uint8_t* key, size_t size) noexcept nogil:
    cdef uint32_t state = MURMUR2_SEED ^ <uint32_t>size
    cdef size_t i, tail = size & ~<size_t>3
    for i in range(0, tail, 4):
        state = murmur2_step(state, word_at(key + i))
    if size > tail:
        for i in range(tail, size):
            state ^= <uint32_t>key[i] << (8 * (i - tail))
        state *= MURMUR2_M
    return murmur2_end(state)


cdef uint32_t crc32(const uint8_t* key, size_t size) noexcept nogil:
    cdef uint32_t state = 0xffffffffu
    cdef size_t i
    for i in range(size):
        state = crc32_step(state, key[i])
    return ~state


cdef uint32_t fnv1a(const uint8_t* key, size_t size) noexcept nogil:
    cdef uint32_t state = FNV1A_BASIS
    cdef size_t i
    for i in range(size):
        state = fnv1a_step(state, key[i])
    return fnv1a_end(state)


# --- Hash functions: cut into steps for the search --------------------------------------------------------------------

cdef struct Last:     # hash states before the last character
    uint32_t murmur2   # after 32 characters
    uint32_t word      # the three characters that follow
    uint32_t crc32
    uint32_t fnv1a


cdef inline void start_hashes(Hashes* hashes) noexcept nogil:
    hashes.murmur2 = MURMUR2_SEED ^ ID_CHARS
    hashes.crc32 = 0xffffffffu
    hashes.fnv1a = FNV1A_BASIS


cdef inline void fold(Hashes* hashes, const uint8_t* chars, int start, int end) noexcept nogil:
    """Take in the characters from start up to end, both multiples of four."""
    cdef int i, j
    for i in range(start, end, 4):
        hashes.murmur2 = murmur2_step(hashes.murmur2, word_at(chars + i))
        for j in range(i, i + 4):
            hashes.crc32 = crc32_step(hashes.crc32, chars[j])
            hashes.fnv1a = fnv1a_step(hashes.fnv1a, chars[j])


cdef inline void fold_to_last(Last* last, const Hashes* after_32, uint32_t salt) noexcept nogil:
    """Take in digits two to four of the salt."""
    cdef uint32_t c32 = HEX_DIGIT[salt >> 12 & 15], c33 = HEX_DIGIT[salt >> 8 & 15], c34 = HEX_DIGIT[salt >> 4 & 15]
    last.murmur2 = after_32.murmur2
    last.word = c32 | c33 << 8 | c34 << 16
    last.crc32 = crc32_step(crc32_step(crc32_step(after_32.crc32, c32), c33), c34)
    last.fnv1a = fnv1a_step(fnv1a_step(fnv1a_step(after_32.fnv1a, c32), c33), c34)


cdef inline uint32_t hash_with(const Last* last, int function, uint32_t c35) noexcept nogil:
    if function == CRC32:
        return ~crc32_step(last.crc32, c35)
    if function == MURMUR2:
        return murmur2_end(murmur2_step(last.murmur2, last.word | c35 << 24))
    return fnv1a_end(fnv1a_step(last.fnv1a, c35))


# --- The search -------------------------------------------------------------------------------------------------------

cdef struct Found:
    uint32_t salt
    int pleased              # satisfied: 0: not order[0]; 1: only order[0]; 2: [0] and [2]; 3: [0] and [1]; 4: all


cdef inline bint lands(
    const Goal* goal, int place, const uint8_t* wanted, const Last* last, uint32_t c35
) noexcept nogil:
    cdef uint32_t key_hash = hash_with(last, goal.order[place], c35)
    return wanted[fast_remainder(key_hash, goal.partition_count, goal.inverse)]


cdef Found search(const Goal* goal, const Hashes* after_32, uint32_t start) noexcept nogil:
    """Try the salts that share the first digit of `start`."""
    cdef Found best = Found(start, 0)
    cdef Last last
    cdef uint32_t i, j, salt, c35
    cdef int pleased
    for i in range(0, <uint32_t>TRIES_PER_FIRST_DIGIT, 16):
        if i >= goal.patience and best.pleased:
            break
        fold_to_last(&last, after_32, start ^ i)
        for j in range(16):
            salt = start ^ (i + j)
            c35 = HEX_DIGIT[salt & 15]
            if not lands(goal, 0, goal.first, &last, c35):
                continue
            pleased = 1 + 2 * lands(goal, 1, goal.others, &last, c35) + lands(goal, 2, goal.others, &last, c35)
            if pleased > best.pleased:
                best = Found(salt, pleased)
            if pleased == 4:
                return best
    return best


cdef Found find_salt(const Goal* goal, const Hashes* after_28, uint8_t* chars, uint32_t start) noexcept nogil:
    """Search with one first digit after another. Even with 4096 partitions a second one is needed once in e**16 ids."""
    cdef Found found
    cdef Hashes after_32
    cdef uint32_t turn
    for turn in range(16):
        after_32 = after_28[0]
        chars[31] = HEX_DIGIT[start >> 16]
        fold(&after_32, chars, 28, 32)
        found = search(goal, &after_32, start)
        if found.pleased:
            break
        start ^= (turn ^ (turn + 1)) << 16   # first digit: start, start ^ 1, start ^ 2 ...
    return found


# --- Parsing ----------------------------------------------------------------------------------------------------------

cdef inline bint read_id(const uint8_t* chars, uint64_t* address, uint64_t* rest) noexcept nogil:
    """Read 36 characters as the two halves of an id; False if they are no id."""
    return (
        read_bytes(chars, 0, address) and read_bytes(chars, 8, rest)
        and chars[8] == c"-" and chars[13] == c"-" and chars[18] == c"-" and chars[23] == c"-"
        and address[0] >> 12 & 15 == 8 and rest[0] >> 62 == 2
    )


def parse(raw):
    cdef uint64_t address, rest
    if not PyBytes_Check(raw) or PyBytes_GET_SIZE(raw) != ID_CHARS:
        return None
    if not read_id(<const uint8_t*>PyBytes_AS_STRING(raw), &address, &rest):
        return None
    # filling a tuple in place costs half as much as making a tuple and a CorrelationId from it
    fields = tuple_to_fill(correlation_id_type, 8)
    put_field(fields, 0, address >> 40)
    put_field(fields, 1, address >> 32 & 0xff)
    put_field(fields, 2, address >> 24 & 0xff)
    put_field(fields, 3, (address >> 16 & 0xff) << 12 | (address & 0xfff))
    put_field(fields, 4, rest >> 32 & 0xfffffff)
    put_field(fields, 5, rest >> 20 & 0xfff)
    put_field(fields, 6, rest & 0xfffff)
    put_field(fields, 7, rest & TAG_MASK)
    return fields


cdef inline int put_field(object fields, int index, uint64_t value) except -1:
    cdef object number = value
    Py_INCREF(number)   # PyTuple_SET_ITEM takes a reference over
    PyTuple_SET_ITEM(fields, index, number)
    return 0


cdef bytes id_at(const uint8_t* chars):
    """These 36 characters in lower case if they are an id, else None."""
    cdef uint64_t address, rest
    cdef uint8_t[ID_CHARS] lower
    cdef int i
    if read_id(chars, &address, &rest):
        return PyBytes_FromStringAndSize(<const char*>chars, ID_CHARS)
    for i in range(ID_CHARS):
        lower[i] = chars[i] | 0x20 if c"A" <= chars[i] <= c"F" else chars[i]
    return PyBytes_FromStringAndSize(<const char*>lower, ID_CHARS) if read_id(lower, &address, &rest) else None


cdef bytes id_in(const uint8_t* chars, Py_ssize_t size):
    if size == ID_CHARS:  # the normal case
        return id_at(chars)
    if size < ID_CHARS:
        return None
    if chars[0] == 0:  # a schema registry's prefix: this byte and the number of the schema
        chars += REGISTRY_BYTES
        size -= REGISTRY_BYTES
    if size == ID_CHARS:
        return id_at(chars)
    if size == ID_CHARS + 2 and chars[0] == c'"' and chars[ID_CHARS + 1] == c'"':  # JSON
        return id_at(chars + 1)
    if size == ID_CHARS + 1 and chars[0] == 2 * ID_CHARS:  # an Avro string: its length, zigzag
        return id_at(chars + 1)
    if size == ID_CHARS + 3 and memcmp(chars, PROTOBUF_STRING, 3) == 0:
        return id_at(chars + 3)
    return None


def find(bytes raw not None):
    return id_in(<const uint8_t*>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))


# --- Hashing for Python -----------------------------------------------------------------------------------------------

cdef uint32_t hash_of(int function, bytes key) except? 0:
    cdef const uint8_t* chars = <const uint8_t*>PyBytes_AS_STRING(key)
    cdef size_t size = PyBytes_GET_SIZE(key)
    if function == MURMUR2:
        return murmur2(chars, size)
    if function == CRC32:
        return crc32(chars, size)
    if function == FNV1A:
        return fnv1a(chars, size)
    raise ValueError(f"partitioner: expected MURMUR2, CRC32 or FNV1A, got {function}")


cdef int check_partition_count(object partition_count) except -1:
    if partition_count < 1:
        raise ValueError(f"partition_count: expected 1 or more, got {partition_count}")
    return 0


def partition_of(int partitioner, bytes key not None, long partition_count):
    check_partition_count(partition_count)
    return hash_of(partitioner, key) % partition_count


def explains(bytes raw not None, long partition_count, long partition):
    cdef int function, mask = 0
    check_partition_count(partition_count)
    for function in (MURMUR2, CRC32, FNV1A):
        if hash_of(function, raw) % partition_count == partition:
            mask |= 1 << function
    return mask


# --- Randomness -------------------------------------------------------------------------------------------------------

cdef uint64_t[RANDOM_WORDS] random_words   # shared by all makers of the process, under the GIL
cdef int random_words_left = 0


cdef int refill_random_words() except -1:
    global random_words_left
    cdef size_t filled = 0
    cdef ssize_t got
    while filled < sizeof(random_words):
        got = getrandom(<uint8_t*>random_words + filled, sizeof(random_words) - filled, 0)
        if got >= 0:
            filled += got
        elif errno != EINTR:
            raise OSError(errno, "getrandom: " + os.strerror(errno))
    random_words_left = RANDOM_WORDS
    return 0


cdef inline int draw_random_word(uint64_t* word) except -1:
    global random_words_left
    if random_words_left == 0:
        refill_random_words()
    random_words_left -= 1
    word[0] = random_words[random_words_left]
    return 0


def _forget_random_words():
    global random_words_left
    random_words_left = 0


# After a fork, parent and child would make the same nonces. fastgw starts processes by exec; this is for other users.
os.register_at_fork(after_in_child=_forget_random_words)


# --- The maker --------------------------------------------------------------------------------------------------------

cdef int check_bits(str name, object value, int bits) except -1:
    if not 0 <= value < 1 << bits:
        raise ValueError(f"{name}: expected 0 to {(1 << bits) - 1}, got {value}")
    return 0


cdef class IdMaker:
    def __init__(self, node, worker, generation, topic=0):
        check_bits("node", node, 24)
        check_bits("worker", worker, 8)
        check_bits("generation", generation, 8)
        check_bits("topic", topic, 2)
        self.process = <uint64_t>node << 40 | <uint64_t>worker << 32 | <uint64_t>generation << 24 | 0x8000
        self.after_variant = <uint64_t>2 << 62 | <uint64_t>topic << 60
        self.partition_count = 0
        memset(self.chars, c"-", ID_CHARS)
        write_bytes(self.chars, self.process, 0)
        start_hashes(&self.after_8)
        fold(&self.after_8, self.chars, 0, 8)

    def set_ownership(self, int partition_count, owned, int home):
        cdef int partition
        if not 1 <= partition_count <= MAX_PARTITIONS:
            raise ValueError(f"partition_count: expected 1 to {MAX_PARTITIONS}, got {partition_count}")
        checked = {operator.index(number) for number in owned}   # before the first change, as it may fail
        strangers = [number for number in checked if not 0 <= number < partition_count]
        if strangers:
            raise ValueError(f"owned: expected partitions 0 to {partition_count - 1}, got {min(strangers)}")
        if home not in checked:
            raise ValueError(f"home: expected one of the {len(checked)} owned partitions, got {home}")
        memset(self.is_owned, 0, sizeof(self.is_owned))
        for partition in checked:
            self.is_owned[partition] = 1
        memset(self.is_home, 0, sizeof(self.is_home))
        self.is_home[home] = 1
        self.home = home
        self.owned_count = len(checked)
        self.partition_count = partition_count
        self._set_goals()

    cdef void _set_goals(self) noexcept:
        # The functions of librdkafka and Java come first, as most services use them; crc32 is cheap and rejects early.
        self._set_goal(ANY, CRC32, MURMUR2, FNV1A)
        self._set_goal(MURMUR2, MURMUR2, CRC32, FNV1A)
        self._set_goal(CRC32, CRC32, MURMUR2, FNV1A)
        self._set_goal(FNV1A, FNV1A, MURMUR2, CRC32)

    cdef void _set_goal(self, int partitioner, int first, int second, int third) noexcept:
        cdef Goal* goal = &self.goals[partitioner]
        goal.order[0] = first
        goal.order[1] = second
        goal.order[2] = third
        goal.first = &self.is_owned[0] if partitioner == ANY else &self.is_home[0]
        goal.others = &self.is_owned[0]
        goal.patience = ANY_PATIENCE if partitioner == ANY else KNOWN_PATIENCE
        goal.partition_count = self.partition_count
        goal.inverse = UINT64_MAX / self.partition_count + 1

    cpdef bytes make(self, long slot, int partitioner):
        cdef uint64_t random, rest
        if not 0 <= slot < MAX_SLOTS:
            raise ValueError(f"slot: expected 0 to {MAX_SLOTS - 1}, got {slot}")
        if not ANY <= partitioner <= HEADER:
            raise ValueError(f"partitioner: expected 0 to {HEADER}, got {partitioner}")
        if self.partition_count == 0:
            raise ValueError("partition_count: expected set_ownership before the first id, got none")
        draw_random_word(&random)
        write_bytes(self.chars, self.process | <uint64_t>(slot >> 12) << 16 | <uint64_t>(slot & 0xfff), 0)
        rest = self.after_variant | (random >> 20 & 0xfffffff) << 32 | <uint64_t>self.home << 20
        write_bytes(self.chars, rest | (random & 0xfffff), 8)
        if partitioner != HEADER:
            rest |= self._salt(partitioner, random & 0xfffff)
        else:
            rest |= random & 0xfffff
        self.tag = rest & TAG_MASK
        return PyBytes_FromStringAndSize(<const char*>self.chars, ID_CHARS)

    cdef uint32_t _salt(self, int partitioner, uint32_t start) noexcept nogil:
        """Find the salt of the id that is being made, and write its digits."""
        cdef Hashes after_28 = self.after_8
        cdef Found found
        cdef int i
        fold(&after_28, self.chars, 8, 28)
        found = find_salt(&self.goals[partitioner], &after_28, self.chars, start)
        if found.pleased < (4 if partitioner == ANY else 1):
            self.missed += 1
        for i in range(5):
            self.chars[31 + i] = HEX_DIGIT[found.salt >> (16 - 4 * i) & 15]
        return found.salt

    def __repr__(self):
        return (
            f"<IdMaker node={self.process >> 40:06x} worker={self.process >> 32 & 0xff}"
            f" generation={self.process >> 24 & 0xff} owns={self.owned_count}/{self.partition_count}"
            f" home={self.home} missed={self.missed}>"
        )
