"""The types of forwarding.py for Cython, which compiles it."""

cimport cython

from fastgw.messages cimport Head


@cython.final
cdef class Forwarding:
    cdef list _networks
    cdef bint _trusts_unix
    cdef str _family
    cdef dict _by_peer, _by_word

    @cython.locals(key=tuple)
    cpdef client_of(self, Head head)
    cdef _told_by(self, peer, Head head)


cpdef of_peer(peer, believed=*)
cpdef told(str name, Head head, who)
