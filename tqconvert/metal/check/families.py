"""All families of cases, in the order in which they are reported."""

from tqconvert.metal.check import copies, elementwise, rows
from tqconvert.metal.check.case import Family

FAMILIES: tuple[Family, ...] = (*elementwise.FAMILIES, *rows.FAMILIES, *copies.FAMILIES)
