"""File systems in a file, mounted through a loop device: ext4, xfs and btrfs for tests of their calls."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE = {"ext4": 16 << 20, "xfs": 320 << 20, "btrfs": 160 << 20}

OPTIONS = {"ext4": ("-m", "0")}
"""No blocks that only root may use: a full disk is full."""


@contextmanager
def mounted(kind: str, folder: Path) -> Iterator[Path]:
    """The root of a new file system of `kind`; skips the test where this machine cannot mount one."""
    program = shutil.which(f"mkfs.{kind}", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if os.geteuid() or not program:
        pytest.skip(f"cannot mount {kind}: needs root and mkfs.{kind}")
    image, root = folder / f"{kind}.img", folder / kind
    root.mkdir()
    with image.open("wb") as f:
        f.truncate(SIZE[kind])
    subprocess.run(
        [program, "-q", *OPTIONS.get(kind, ()), str(image)], check=True, capture_output=True
    )
    mount = subprocess.run(
        ["mount", "-o", "loop", str(image), str(root)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"cannot mount {kind}: {mount.stderr.decode(errors='replace').strip()}")
    try:
        yield root
    finally:
        subprocess.run(["umount", str(root)], check=True)
        image.unlink()
