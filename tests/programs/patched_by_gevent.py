"""Embed before and after gevent replaces threads, locks and queues, in the main thread and in greenlets."""

import io
import sys

import numpy as np
import PIL.Image

import fastmnv2

stream = io.BytesIO()
PIL.Image.effect_noise((200, 150), 60).save(stream, "PNG")
data = stream.getvalue()
model = fastmnv2.load(sys.argv[1])
shared = PIL.Image.open(io.BytesIO(data))
items = [data, np.asarray(shared), shared, shared, io.BytesIO(data)] * 8
want = model.embed_images(items, threads=2)

from gevent import monkey, spawn  # noqa: E402

monkey.patch_all()
same = [model.embed_images(source, threads=2) for source in (items, iter(items))]
found = [spawn(model.embed_images, items, threads=2) for _ in range(3)]
same += [greenlet.get(timeout=60) for greenlet in found]
print("the same" if all((one == want).all() for one in same) else "different")
