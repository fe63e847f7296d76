"""Decode pictures with Pillow or simplejpeg, and resize them exactly as TensorFlow does.

``load_image`` is the whole preprocessing, from a file to float32 ``[height,width,3]`` in [0,1]. Only ``read`` and
``load_image`` need Pillow (``pip install 'fastmnv2[images]'``).
"""

from fastmnv2.image.decode import FORMATS, MAX_PIXELS, SUFFIXES, load_image, read
from fastmnv2.image.options import Options
from fastmnv2.image.resizing import SIZE, Crop, Method, resize

__all__ = ["FORMATS", "MAX_PIXELS", "SIZE", "SUFFIXES", "Crop", "Method", "Options", "load_image", "read", "resize"]
