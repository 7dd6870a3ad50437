"""What the static checks of Metal kernels find: the table of codes, and a finding."""

from tqconvert.findings import Finding, Severity

CODES: dict[str, tuple[Severity, str]] = {
    "MN001": ("error", "nothing to look at"),
    "MN101": ("error", "a name that the host asks for, and that no kernel has"),
    "MN102": ("error", "a form of name that no kernel has"),
    "MN103": ("error", "a host name that stands in the sources twice"),
    "MN104": ("error", "an instantiation of a template that is not there"),
    "MN105": ("error", "an include that is not there"),
    "MN106": ("error", "a library that is built and not loaded, or the other way round"),
    "MN201": ("error", "a parameter of a kernel that the host does not bind"),
    "MN202": ("note", "a place that the host binds, and that is no parameter"),
    "MN203": ("error", "a struct of arguments that is not the kernel's"),
    "MN204": ("error", "threadgroup memory that the host gives no size"),
    "MN205": ("error", "threadgroup memory beyond the 32 KiB that every GPU has"),
    "MN206": (
        "note",
        "threadgroup memory of a stock kernel beyond 32 KiB, by the host's own formula",
    ),
    "MN207": ("error", "threads that are no whole simdgroups, or more than 1024"),
    "MN301": ("error", "a function constant that a kernel reads, and that gets no value"),
    "MN302": ("error", "a function constant that gets a value of another type"),
    "MN303": ("error", "two function constants with one index"),
    "MN401": ("note", "a kernel that no form of name reaches"),
    "MT101": ("error", "a pointer or reference without an address space"),
    "MT201": ("error", "a word that Metal does not know or does not take"),
    "MT202": ("error", "a function that calls itself"),
    "MT203": ("error", "a program-scope variable that is not constant"),
    "MT204": ("note", "a float without f: the simulator would take it for a double"),
    "MT301": ("error", "something newer than the language version that the runtime asks for"),
    "MT401": ("error", "a threadgroup array whose length is no constant"),
    "MT402": ("error", "a threadgroup variable outside of a kernel"),
    "MT403": ("error", "threadgroup arrays of more than 32 KiB in one kernel"),
}
"""Code -> severity and meaning. An `error` makes the check fail, a `note` does not."""


def finding(path: str, line: int, code: str, message: str) -> Finding:
    """A finding with the severity of its code."""
    return Finding(path, line, code, message, CODES[code][0])
