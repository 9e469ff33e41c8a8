"""A teacher's answers on disk: asked once, read at every epoch.

A cache is a folder of .npy files of one structured dtype, a record an example: NumPy's own format
was chosen over ArrayRecord read by Grain and TFRecord read by tf.data by measurement
(benchmarks/cache_storage.py). It has no framing around a record (TFRecord adds 16 bytes,
ArrayRecord 50), any row of it can be read without the others (TFRecord has no such access, so
that shuffling is by buffer), and a batch is one gather instead of as many parses. What
the format does not have, resumption and checksums, a manifest and a checksum file a shard give.
"""

from .bounds import rest_bound as rest_bound
from .cache import TeacherCache as TeacherCache
from .encoding import restore as restore
from .folder import info as info
from .folder import merge as merge
from .folder import verify as verify
from .reading import CachedBatch as CachedBatch
from .records import CacheInfo as CacheInfo
from .records import CacheReport as CacheReport
