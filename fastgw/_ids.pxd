"""The maker of ids, for who calls it in C; what it does is in _ids.pyi."""

cimport cython

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    ID_CHARS = 36
    MAX_PARTITIONS = 4096              # the home field has 12 bits


cdef bytes id_in(const uint8_t* chars, Py_ssize_t size)  # see `find`


cdef struct Hashes:   # states after the first characters of an id, a multiple of four of them
    uint32_t murmur2
    uint32_t crc32
    uint32_t fnv1a


cdef struct Goal:
    int[3] order             # hash functions, the one that matters most first
    const uint8_t* first     # first[partition] = 1: order[0] has to land there
    const uint8_t* others    # others[partition] = 1: order[1] and order[2] should land there
    uint32_t patience        # tries until the best one found is good enough
    uint32_t partition_count
    uint64_t inverse         # of partition_count, for fast_remainder


@cython.final
cdef class IdMaker:
    cdef readonly uint64_t tag
    cdef readonly uint64_t missed
    cdef uint64_t process           # upper half of an id but for slot and version
    cdef uint32_t home, partition_count, owned_count
    cdef uint8_t[ID_CHARS] chars    # the id in the making; dashes never change
    cdef Hashes after_8
    cdef Goal[4] goals              # by Partitioner; HEADER has none
    cdef uint8_t[MAX_PARTITIONS] is_owned
    cdef uint8_t[MAX_PARTITIONS] is_home
    cpdef bytes make(self, long slot, int partitioner)
    cdef void _set_goals(self) noexcept
    cdef void _set_goal(self, int partitioner, int first, int second, int third) noexcept
    cdef uint32_t _salt(self, int partitioner, uint32_t start) noexcept nogil
