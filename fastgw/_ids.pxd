"""The C interface of _ids.pyx; _ids.pyi documents what it does."""

cimport cython

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    ID_CHARS = 36
    MAX_PARTITIONS = 4096              # the home field has 12 bits


cdef bytes id_in(const uint8_t* chars, Py_ssize_t size)  # see `find`


cdef struct Hashes:   # hash states after some characters of an id, a multiple of four
    uint32_t murmur2
    uint32_t crc32
    uint32_t fnv1a


cdef struct Goal:
    int[3] order             # hash functions, the most important first
    const uint8_t* first     # first[partition] = 1: order[0] must hash to this partition
    const uint8_t* others    # others[partition] = 1: order[1] and order[2] should hash to this partition
    uint32_t patience        # after so many tries the best salt found is used
    uint32_t partition_count
    uint64_t inverse         # of partition_count, for fast_remainder


@cython.final
cdef class IdMaker:
    cdef readonly uint64_t tag
    cdef readonly uint64_t missed
    cdef uint64_t process           # upper half of an id, without slot and version
    cdef uint64_t after_variant     # the first four bits of the lower half: variant and topic
    cdef uint32_t home, partition_count, owned_count
    cdef uint8_t[ID_CHARS] chars    # the id that is being made; the dashes never change
    cdef Hashes after_8
    cdef Goal[4] goals              # by Partitioner; HEADER has none
    cdef uint8_t[MAX_PARTITIONS] is_owned
    cdef uint8_t[MAX_PARTITIONS] is_home
    cpdef bytes make(self, long slot, int partitioner)
    cdef void _set_goals(self) noexcept
    cdef void _set_goal(self, int partitioner, int first, int second, int third) noexcept
    cdef uint32_t _salt(self, int partitioner, uint32_t start) noexcept nogil
