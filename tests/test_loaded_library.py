"""Finding the file of a loaded library."""

from __future__ import annotations

import os

import confluent_kafka

from fastgw import loaded_library


def test_the_library_that_a_module_has_brought_is_found() -> None:
    found = loaded_library.path_of("librdkafka")
    assert os.path.isfile(found), confluent_kafka.libversion()
    assert os.path.basename(found).startswith("librdkafka")


def test_one_that_is_not_loaded_is_not_found() -> None:
    assert loaded_library.path_of("libnowhere") == ""
