"""The texts of our own figures: what is taken of a page, and that calibration stays off the evaluation."""

import pytest
from benchmarks.corpus import (
    EVALUATION_PAGES,
    LICENSES_AT,
    OTHER_PAGES,
    CorpusError,
    calibration_text,
    plain_text,
)

PAGE = """<?xml version="1.0"?><html><head><title>Page</title><style>p {}</style></head><body>
<ul class="docnav top"><li class="next"><a href="x"><strong>Next</strong></a></li></ul>
<h1>1.&#160;Title</h1><p>One&nbsp;&amp;
   <code>two</code>.</p><br/><ul><li>three</li><li>four</li></ul><script>no()</script></body></html>"""


def test_words_stay_and_markup_goes() -> None:
    """Blocks end lines; navigation, head and script are dropped; blanks are one."""
    assert plain_text(PAGE) == "1. Title\nOne &\n two.\nthree\nfour"


def test_calibration_pages_are_no_evaluation_pages() -> None:
    """Disjoint by page, and none twice."""
    assert not set(OTHER_PAGES) & set(EVALUATION_PAGES)
    for pages in (OTHER_PAGES, EVALUATION_PAGES):
        assert len(set(pages)) == len(pages)


def test_licences_are_long_enough_to_calibrate() -> None:
    """More than 32,000 tokens, which hold four to five bytes; a machine without them is told."""
    try:
        text = calibration_text("licenses")
    except CorpusError as e:
        assert str(LICENSES_AT) in str(e)
        pytest.skip(f"not Debian: {e} (macOS)")
    assert len(text) > 32_000 * 5
