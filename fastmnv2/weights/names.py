"""Names of published weights, and image sizes in paths.

Google trained 22 members of the family. TF-Hub's names and handles and Keras' file names stand for them.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from fastmnv2.core.network import DEFAULT, Network, of
from fastmnv2.weights.files import read_file

TOP1 = {
    (0.35, 96): 45.5, (0.35, 128): 50.8, (0.35, 160): 55.7, (0.35, 192): 58.2, (0.35, 224): 60.3,
    (0.50, 96): 51.2, (0.50, 128): 57.7, (0.50, 160): 61.0, (0.50, 192): 63.9, (0.50, 224): 65.4,
    (0.75, 96): 58.8, (0.75, 128): 63.2, (0.75, 160): 66.4, (0.75, 192): 68.7, (0.75, 224): 69.8,
    (1.00, 96): 60.3, (1.00, 128): 65.3, (1.00, 160): 68.8, (1.00, 192): 70.7, (1.00, 224): 71.8,
    (1.30, 224): 74.4,
    (1.40, 224): 75.0,
}  # fmt: skip
"""The members that Google trained, by multiplier and size, with their ImageNet top-1 accuracy in percent according to
TF-Slim's README."""

LABELS = "labels.txt"
_LABELS_LIMIT = 1 << 20
_HUB = "https://tfhub.dev/google/imagenet/"
_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/mobilenet_v2/"
_KERAS_FILE = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_"
_VERSIONS = (2, 3, 4, 5, 1)

_PLAIN = re.compile(r"mobilenet_v2_(\d{3})_(\d{2,3})")
_HANDLE = re.compile(
    r"https?://(?:www\.)?tfhub\.dev/google/imagenet/"
    r"mobilenet_v2_(\d{3})_(\d{2,3})/(feature_vector|classification)(?:/\d{1,2})?/?"
)
# Kaggle hosts TF-Hub's modules under other version numbers. kagglehub's handles omit the server.
_KAGGLE = re.compile(
    r"(?:https?://(?:www\.)?kaggle\.com/models/)?google/mobilenet-v2/(?:frameworks/)?tensorflow[12]/(?:variations/)?"
    r"(\d{3})-(\d{2,3})-(feature-vector|classification)(?:/(?:versions/)?\d{1,2})?/?",
    re.IGNORECASE,
)
_FILE = re.compile(rf"(?:{re.escape(_KERAS)})?{_KERAS_FILE}(\d\.\d{{1,2}})_(\d{{2,3}})(_no_top)?\.h5")
# Names in paths, as TF-Slim, Keras, TF-Hub and Hugging Face write them, and TF-Slim's names of quantised members.
_IN_PATH = re.compile(r"mobilenet_?v2_(?:weights_tf_dim_ordering_tf_kernels_)?(?:\d\.\d{1,2}|\d{3})_(\d{2,3})(?!\d)")
_QUANTISED = re.compile(r"quantized_v2_(\d{2,3})_(?:\d{2,3})(?!\d)")


@dataclass(frozen=True)
class Published:
    """Weights that Google published.

    Attributes:
        network: the member of the family.
        classifier: whether ImageNet's classes are requested too.
        keras_file: Keras' file name, if the weights were requested by that name.
    """

    network: Network
    classifier: bool = False
    keras_file: str = ""

    @property
    def is_default(self) -> bool:
        """Whether these are the weights that "imagenet" stands for."""
        return self.network == DEFAULT and not self.classifier

    @property
    def name(self) -> str:
        """The name of its file in the cache, without the suffix."""
        return f"{self.network.name}{'_classification' if self.classifier else ''}"

    @property
    def handles(self) -> list[str]:
        """TF-Hub's handles of all versions, version 2 first."""
        kind = "classification" if self.classifier else "feature_vector"
        return [f"{_HUB}{self.network.name}/{kind}/{version}" for version in _VERSIONS]

    @property
    def urls(self) -> list[str]:
        """The URLs to download them from, in this order."""
        multiplier = f"{self.network.multiplier:.2f}".removesuffix("0")
        file = f"{_KERAS}{_KERAS_FILE}{multiplier}_{self.network.height}{'' if self.classifier else '_no_top'}.h5"
        module = f"{self.handles[0]}?tf-hub-format=compressed"
        return [file, module] if self.keras_file else [module, file]

    def keras_cached(self) -> Path | None:
        """Keras' own copy of its file; None if Keras has not downloaded it."""
        home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
        path = Path(home, "models", self.urls[0].rpartition("/")[2])
        return path if self.keras_file and path.is_file() else None


def published(name: str) -> Published | None:
    """The weights for a TF-Hub name, a TF-Hub or Kaggle handle of any version, or a Keras file's name or URL.

    None for other names.
    """
    if found := _PLAIN.fullmatch(name):
        return _member(found[1], int(found[2]))
    handle = name.partition("?")[0]
    if found := _HANDLE.fullmatch(handle) or _KAGGLE.fullmatch(handle):
        return _member(found[1], int(found[2]), classifier=found[3] == "classification")
    if found := _FILE.fullmatch(name):
        digits = f"{float(found[1]):.2f}".replace(".", "")
        return _member(digits, int(found[2]), classifier=not found[3], keras_file=name)
    return None


def _member(digits: str, size: int, *, classifier: bool = False, keras_file: str = "") -> Published | None:
    multiplier = int(digits) / 100
    if (multiplier, size) not in TOP1:
        return None
    return Published(of(multiplier, size, size), classifier, keras_file)


def labels_next_to(path: Path, count: int) -> list[str] | None:
    """Class names from the ``labels.txt`` next to a file, as Teachable Machine writes it ("0 cat").

    None unless there are exactly ``count`` names, because a list of another length belongs to another model.
    """
    place = path.parent / LABELS
    if not path.is_file() or not place.is_file():
        return None
    try:
        text = read_file(place, _LABELS_LIMIT).decode("utf-8-sig")
    except (OSError, ValueError):
        return None
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    numbered = [re.fullmatch(r"(\d+)\s+(.+)", line) for line in lines]
    if all(found and int(found[1]) == index for index, found in enumerate(numbered)):
        lines = [found[2] for found in numbered if found]
    return lines if len(lines) == count else None


def size_in(path: Path) -> tuple[int, int] | None:
    """Height and width in the name of a file or of one of its folders, such as ``mobilenet_v2_1.0_224``."""
    for part in (path.name, path.parent.name):
        found = _IN_PATH.search(part.lower()) or _QUANTISED.search(part.lower())
        if found:
            return int(found[1]), int(found[1])
    return None
