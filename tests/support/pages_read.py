"""Read the data of a page back from its HTML."""

import base64
import gzip
import re

from targetsft_jax.inspection.page_data import PageData


def data_of(html: str) -> PageData:
    """The data of an inspection page."""
    scripts = re.findall(r"<script[^>]*octet-stream[^>]*>([^<]*)</script>", html)
    assert len(scripts) == 1
    page = PageData.from_bytes(gzip.decompress(base64.b64decode(scripts[0])))
    page.check()
    return page
