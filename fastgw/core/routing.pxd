"""The types of routing.py for Cython, which compiles it."""

cimport cython

from fastgw.admission cimport Admission
from fastgw.forwarding cimport Forwarding
from fastgw.messages cimport Head


@cython.final
cdef class Router:
    cdef object _hosts, _root
    cdef Py_ssize_t _max_target_bytes
    cdef Forwarding _forwarding
    cdef set _served_hosts, _methods
    cdef dict _static
    cdef int _tickets_number

    cpdef identify(self, Head head)

    # Not `body_bytes`: HTTP/2 may declare more than 63 bits hold, which is for the limit to refuse.
    @cython.locals(target_bytes=Py_ssize_t, admission=Admission)
    cpdef admit(self, Head head)
    cdef tuple _place_of(self, str path)
    cdef _about_unusual(self, route, Admission admission)
    cdef _refuse_path(self, Head head, str why)
    cdef _check_host(self, Head head)
    cdef _options_of_all(self)
