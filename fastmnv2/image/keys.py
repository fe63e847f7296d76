"""Names of pictures, and the key under which a folder of parts stores a picture.

The key of a file is its absolute path without "..", so that a job gives the same keys in every working directory.
Links in the path are not resolved, except links before a "..", which leads out of their target. A path with bytes that
are not UTF-8 becomes a file URL, in which these bytes are percent-encoded, so that the key is unique. The key of a URL
is the URL.
"""

import os
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

_FILE = "file://"


def is_url(name: str) -> bool:
    """Whether a name is a URL that fsspec fetches, or a data URL."""
    return "://" in name or is_data(name)


def is_data(name: str) -> bool:
    """Whether a name is a data URL, which holds the picture itself."""
    return name[:5].lower() == "data:"


def local(name: str) -> str | None:
    """The path that a name stands for on this machine; None for a remote URL."""
    if name.startswith(_FILE + "/"):  # like fsspec, without decoding percent escapes
        return name[len(_FILE) :]
    return None if is_url(name) else name


def key(name: str) -> str:
    """The key of a picture."""
    place = local(name)
    if place is None:
        return name if is_text(name) else quote(os.fsencode(name), safe=":/?#[]@!$&'()*+,;=%")
    path = absolute(place)
    return str(path) if is_text(str(path)) else path.as_uri()


def absolute(name: str | os.PathLike[str]) -> Path:
    """The absolute path of a file, without ".."."""
    path = Path(name).absolute()
    if ".." not in path.parts:
        return path
    found = Path(path.anchor)
    for part in path.parts[1:]:
        if part != "..":
            found /= part
        else:
            found = Path(os.path.realpath(found) if os.path.islink(found) else found).parent
    return found


def path_of(key: str) -> str | None:
    """The path that a key stands for; None for a URL."""
    if key.startswith(_FILE):  # a file URL that a user gave is stored as a path
        return os.fsdecode(unquote_to_bytes(key[len(_FILE) :]))
    return local(key)


def text(value: str) -> str:
    """``value`` with lone surrogates escaped, so that it can be stored as UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode()


def is_text(name: str) -> bool:
    """Whether UTF-8 can store a name."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
