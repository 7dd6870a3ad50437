"""What the lint of the patches finds: the table of codes, and a finding."""

from tqconvert.findings import Finding, Severity

CODES: dict[str, tuple[Severity, str]] = {
    "PQ001": ("error", "nothing to look at"),
    "PQ002": ("error", "a file that cannot be read"),
    "PQ101": ("error", "series: a line that is no NAME.patch, or has an unknown tag"),
    "PQ102": ("error", "series: names a patch that is not there"),
    "PQ103": ("error", "a patch that no series names"),
    "PQ104": ("error", "series: names a patch twice"),
    "PQ105": ("error", "a patch with a number in front of its name"),
    "PQ201": ("error", "header: a field is missing"),
    "PQ202": ("error", "header: a value that the field does not take"),
    "PQ203": ("error", "header: Subject is longer than 65 characters"),
    "PQ204": (
        "error",
        "header: TQ-Id is another patch's, or of another generation than its folder",
    ),
    "PQ205": ("error", "header: a field stands in it twice"),
    "PQ206": ("error", "header: a line or a field that does not belong there"),
    "PQ301": ("error", "CR before the line end"),
    "PQ302": ("error", "the file does not end with one line end"),
    "PQ303": ("error", "a conflict marker"),
    "PQ304": ("error", "a line is added with white space at its end"),
    "PQ305": ("error", "not UTF-8"),
    "PQ401": ("error", "the diff does not parse"),
    "PQ402": ("error", "a path that leads out of the tree"),
    "PQ403": ("error", "a binary patch, a link or a submodule"),
    "PQ404": ("error", "an `index` line with shortened ids (git diff --full-index)"),
    "PQ405": ("error", "no diff in it"),
    "PQ406": ("error", "a new file that Ollama's rsync filters leave out"),
    "PQ407": ("note", "more than 3 lines of context"),
    "PQ501": ("error", "a new file that would be left out: hidden, or an editor's"),
    "PQ502": ("error", "a new file that a diff of ours makes too"),
    "PQ601": ("error", "a lock that is not well-formed"),
    "PQ602": ("error", "a lock under another name than `lock` looks for"),
}
"""Code -> severity and meaning. An `error` makes the lint fail, a `note` does not."""


def finding(path: str, line: int, code: str, message: str) -> Finding:
    """A finding with the severity of its code."""
    return Finding(path, line, code, message, CODES[code][0])
