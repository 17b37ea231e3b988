"""The content of the kit, unpacked where its programs can be started."""

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile

ARCHIVE = "content.tar.xz"


def unpacked(kit):
    """The folder with the programs, libraries and Liger. That of an earlier run of the same kit is taken as it is."""
    with open(os.path.join(kit, ARCHIVE), "rb") as archive:
        name = "kit-" + hashlib.sha256(archive.read()).hexdigest()[:16]
    for parent in places():
        folder = os.path.join(parent, name)
        if os.path.isdir(folder):
            return folder
        try:
            os.makedirs(parent, exist_ok=True)
            unfinished = tempfile.mkdtemp(prefix=name, dir=parent)
        except OSError:
            continue
        try:
            unpack(kit, unfinished)
            # The rename comes last: whoever interrupts this leaves no folder that looks whole.
            os.replace(unfinished, folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        return folder
    sys.exit(f"The content of the kit has to be unpacked into {' or '.join(places())}, and neither can be written.")


def places():
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return [os.path.join(cache, "burn-cross-entropy"), os.path.join(tempfile.gettempdir(), "burn-cross-entropy")]


def unpack(kit, folder):
    try:
        with tarfile.open(os.path.join(kit, ARCHIVE), "r:xz") as archive:
            archive.extractall(folder)
    except tarfile.CompressionError as error:
        sys.exit(f"This Python cannot unpack xz ({error}): take one that has the module lzma.")
