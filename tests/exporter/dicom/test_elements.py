"""Values of elements: read where they can be, and numbers only where they are finite numbers."""

from __future__ import annotations

import math

import pytest
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import DSfloat

from exporter.dicom.elements import finite, readable_value_of


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), ("2.5", 2.5), (DSfloat("3.5"), 3.5), (0, 0.0)]
    + [(value, None) for value in (None, "", "no", [1.0], math.nan, math.inf, "1e999", 10**400)],
)
def test_only_a_finite_number_is_a_number(value: object, number: float | None) -> None:
    assert finite(value) == number


def test_an_element_that_cannot_be_read_has_no_value() -> None:
    header = Dataset()
    tag = Tag(0x0028, 0x0010)
    header._dict[tag] = RawDataElement(tag, "US", 3, b"abc", 0, False, True)
    assert readable_value_of(header, "Rows") is None


def test_an_element_that_is_there_has_its_value() -> None:
    header = Dataset()
    header.Rows = 7
    assert readable_value_of(header, "Rows") == 7
    assert readable_value_of(header, "Columns") is None
