"""Default locations of weights: inside the installed package, and in the user's cache."""

import os
import sys
from pathlib import Path

FILE = "imagenet.safetensors"
EMBEDDED = Path(__file__).parent.parent / "data" / FILE


def embedded() -> bool:
    """Whether the package was built with weights in it."""
    return EMBEDDED.is_file()


def folder() -> Path:
    """The folder that caches downloaded weights: ``FASTMNV2_CACHE_DIR``, or by default the system's cache folder."""
    configured = os.environ.get("FASTMNV2_CACHE_DIR")
    if configured:
        return Path(configured)
    try:
        from platformdirs import user_cache_path
    except ImportError:
        home = Path(os.path.expanduser("~"))
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local")) / "fastmnv2" / "Cache"
        if sys.platform == "darwin":
            return home / "Library" / "Caches" / "fastmnv2"
        return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "fastmnv2"
    return user_cache_path("fastmnv2", appauthor=False)
