"""All families of cases, in the order in which they are reported."""

from tqconvert.metal.check import attention, copies, elementwise, images, matmul, rotations, rows
from tqconvert.metal.check.case import Family
from tqconvert.metal.turbo import family as turbo

FAMILIES: tuple[Family, ...] = tuple(
    family
    for module in (elementwise, rows, copies, rotations, matmul, attention, images, turbo)
    for family in module.FAMILIES
)
