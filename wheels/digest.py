"""Print the SHA-256 of features and logits with the untrained weights, of float32 and uint8 images."""

import hashlib

import numpy as np

import fastmnv2

images = np.random.RandomState(0).randint(0, 256, (5, 96, 96, 3)).astype(np.uint8)
model = fastmnv2.load("untrained")
parts = model.embed(images), model.embed(images * np.float32(1 / 255)), model.logits(images)
print(hashlib.sha256(b"".join(part.astype("<f4").tobytes() for part in parts)).hexdigest())
