"""Defects of upstream kernels that are known: told as such, and no reason to fail.

Each was found by this check in llama.cpp as llama-cpp-python 0.3.36 vendors it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from tqconvert.metal.launch import Finding


@dataclass(frozen=True, slots=True)
class Known:
    """One defect."""

    kinds: tuple[str, ...]
    kernel: str
    """Regular expression."""
    file: str
    why: str


KNOWN: tuple[Known, ...] = ()


def known(finding: Finding) -> Known | None:
    """The entry that the finding belongs to."""
    for k in KNOWN:
        if (
            finding.kind in k.kinds
            and Path(finding.file).name == k.file
            and re.search(k.kernel, finding.kernel)
        ):
            return k
    return None
