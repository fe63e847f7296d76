"""A Keras network and pictures for it."""

import numpy as np
import pytest

from fastmnv2.weights.untrained import untrained


@pytest.fixture(scope="module")
def network():
    from keras_model import keras_model

    return keras_model(untrained(seed=5).tensors)


@pytest.fixture(scope="module")
def pixels():
    """uint8 images, including flat ones and noise."""
    from fastmnv2.weights.untrained import _images

    smooth = _images(np.random.RandomState(3), 9)
    noise = np.random.RandomState(4).rand(2, 96, 96, 3)
    return np.round(255 * np.concatenate([smooth, noise])).astype(np.uint8)
