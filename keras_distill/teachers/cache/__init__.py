"""A teacher's answers on disk: asked once, read at every epoch.

A cache is a folder of .npy files of one structured dtype, a record an example: NumPy's own format
was chosen over ArrayRecord read by Grain and TFRecord read by tf.data by measurement
(benchmarks/cache_storage.py). It has no framing around a record (TFRecord adds 16 bytes,
ArrayRecord 50), any row of it can be read without the others (TFRecord has no such access, so
that shuffling is by buffer), and a batch is one gather instead of as many parses. What
the format does not have, resumption and checksums, a manifest and a checksum file a shard give.
"""

from keras_distill.teachers.cache.bounds import rest_bound as rest_bound
from keras_distill.teachers.cache.cache import TeacherCache as TeacherCache
from keras_distill.teachers.cache.encoding import restore as restore
from keras_distill.teachers.cache.folder import info as info
from keras_distill.teachers.cache.folder import merge as merge
from keras_distill.teachers.cache.folder import verify as verify
from keras_distill.teachers.cache.reading import CachedBatch as CachedBatch
from keras_distill.teachers.cache.records import CacheInfo as CacheInfo
from keras_distill.teachers.cache.records import CacheReport as CacheReport
