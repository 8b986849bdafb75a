/* A tuple of a named tuple's type that its maker fills in place, with PyTuple_SET_ITEM: a third to a half of the cost of
   making it from arguments.

   PyTuple_New makes plain tuples only. PyType_GenericAlloc makes one of any type and zeroes it, and since CPython 3.14
   zero is a hash that has been computed already: a tuple keeps its hash, and -1 stands for "not yet". */
#ifndef FASTGW_TUPLE_H
#define FASTGW_TUPLE_H

#include <Python.h>

static inline PyObject *tuple_to_fill(PyObject *type, Py_ssize_t size)
{
    PyObject *made = PyType_GenericAlloc((PyTypeObject *)type, size);
#if PY_VERSION_HEX >= 0x030E0000
    if (made != NULL)
        ((PyTupleObject *)made)->ob_hash = -1;
#endif
    return made;
}

#endif
