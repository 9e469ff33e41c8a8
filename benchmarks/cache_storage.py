"""Where a teacher's answers could lie: ArrayRecord with Grain, TFRecord with tf.data, NumPy's .npy.

    python benchmarks/cache_storage.py [--examples 1000000] [--rounds 5] [--write results/x.json]

A record is what a cache of the 10 best of 1,000 classes holds: 10 indices (uint16), 10 logits
(float16), a logsumexp (float32), 44 bytes. Every store gives shuffled and sequential batches of 128
as NumPy arrays. Rounds are interleaved, each in a process of its own, with the files in the page
cache; a rate is the median over the rounds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import _common
import numpy as np

K = 10
RECORD = np.dtype([("indices", "<u2", K), ("values", "<f2", K), ("logsumexp", "<f4")])
BATCH, SHARD, BUFFER = 128, 1 << 18, 10_000


def records(count):
    """Random bytes of the right layout, a shard at a time."""
    rng = np.random.default_rng(0)
    for start in range(0, count, SHARD):
        rows = min(SHARD, count - start)
        yield np.frombuffer(rng.bytes(rows * RECORD.itemsize), RECORD)


def order(count, shuffle):
    """Row numbers, a batch at a time."""
    rows = np.random.default_rng(1).permutation(count) if shuffle else np.arange(count)
    return (rows[start : start + BATCH] for start in range(0, count, BATCH))


class Npy:
    """One .npy file a shard, read through a memory map."""

    def write(self, folder, count):
        for i, shard in enumerate(records(count)):
            np.save(folder / f"{i}.npy", shard, allow_pickle=False)

    def batches(self, folder, count, shuffle):
        files = sorted(folder.glob("*.npy"), key=lambda path: int(path.stem))
        maps = [np.load(path, mmap_mode="r").view(np.ndarray) for path in files]
        for rows in order(count, shuffle):
            out, shard, row = np.empty(len(rows), RECORD), rows // SHARD, rows % SHARD
            for i in np.unique(shard):
                out[shard == i] = maps[i][row[shard == i]]
            yield out


class NpyPread(Npy):
    """The same files, a pread a row: nothing is mapped."""

    def batches(self, folder, count, shuffle):
        files = sorted(folder.glob("*.npy"), key=lambda path: int(path.stem))
        offset = np.load(files[0], mmap_mode="r").offset
        handles = [os.open(path, os.O_RDONLY) for path in files]
        size = RECORD.itemsize
        for rows in order(count, shuffle):
            places = zip((rows // SHARD).tolist(), (rows % SHARD).tolist(), strict=True)
            read = [os.pread(handles[i], size, offset + row * size) for i, row in places]
            yield np.frombuffer(b"".join(read), RECORD)


class ArrayRecord:
    """One ArrayRecord file a shard, a record an example, through Grain's MapDataset."""

    def write(self, folder, count):
        from array_record.python import array_record_module

        for i, shard in enumerate(records(count)):
            writer = array_record_module.ArrayRecordWriter(
                str(folder / f"{i:05}.array_record"), "group_size:1,uncompressed"
            )
            for record in shard:
                writer.write(record.tobytes())
            writer.close()

    def batches(self, folder, count, shuffle):
        import grain

        files = sorted(map(str, folder.glob("*.array_record")))
        source = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(files))
        if shuffle:
            source = source.shuffle(seed=1)
        reading = source.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=512))
        for read in reading.batch(BATCH, batch_fn=b"".join):
            yield np.frombuffer(read, RECORD)


class ArrayRecordBulk(ArrayRecord):
    """The same files, a batch of rows a call of the data source."""

    def batches(self, folder, count, shuffle):
        import grain

        files = sorted(map(str, folder.glob("*.array_record")))
        source = grain.sources.ArrayRecordDataSource(files)
        for rows in order(count, shuffle):
            yield np.frombuffer(b"".join(source.__getitems__(rows.tolist())), RECORD)


class TFRecord:
    """One TFRecord file a shard, a record an example; a shuffle buffer of 10,000."""

    def write(self, folder, count):
        import tensorflow as tf

        for i, shard in enumerate(records(count)):
            with tf.io.TFRecordWriter(str(folder / f"{i:05}.tfrecord")) as writer:
                for record in shard:
                    writer.write(record.tobytes())

    def batches(self, folder, count, shuffle):
        import tensorflow as tf

        dataset = tf.data.TFRecordDataset(sorted(map(str, folder.glob("*.tfrecord"))))
        if shuffle:
            dataset = dataset.shuffle(BUFFER, seed=1)
        dataset = dataset.batch(BATCH).map(lambda s: tf.io.decode_raw(s, tf.uint8)).prefetch(4)
        for read in dataset.as_numpy_iterator():
            yield np.frombuffer(read.tobytes(), RECORD)


STORES = {kind.__name__: kind() for kind in (Npy, NpyPread, ArrayRecord, ArrayRecordBulk, TFRecord)}


def measure(store, folder, count, limit):
    """Rates in examples a second and the growth of the resident memory, of this process."""
    found = {}
    before = _common.peak_mib()
    for name, shuffle in (("shuffled", True), ("sequential", False)):
        batches = store.batches(folder, count, shuffle)
        next(batches)
        seen, begin = 0, time.perf_counter()
        for batch in batches:
            seen += len(batch)
            if seen >= limit:
                break
        found[name] = seen / (time.perf_counter() - begin)
    return found | {"rss_mib": _common.peak_mib() - before}


def child(name, folder, count, limit):
    command = [sys.executable, __file__, "--child", name, str(folder)]
    command += ["--examples", str(count), "--limit", str(limit)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--limit", type=int, default=200_000, help="examples read for a rate")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, folder = options.child
        found = measure(STORES[name], Path(folder), options.examples, options.limit)
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = compare(Path(folder), options)
    header = ("store", "bytes an example", "shuffled /s", "sequential /s", "memory MiB", "write s")
    print(_common.host_line(_common.host()))
    print(_common.markdown(header, [[name, *map(_figure, row)] for name, row in rows.items()]))
    if options.write:
        content = {"host": _common.host(), "examples": options.examples, "rows": rows}
        _common.write_json(options.write, content)


def compare(folder, options):
    """A row of figures a store."""
    sizes, rounds = {}, {name: [] for name in STORES}
    for name, store in STORES.items():
        place = folder / name
        place.mkdir()
        begin = time.perf_counter()
        store.write(place, options.examples)
        size = sum(path.stat().st_size for path in place.iterdir())
        sizes[name] = (size / options.examples, time.perf_counter() - begin)
    for _ in range(options.rounds):
        for name, runs in rounds.items():
            runs.append(child(name, folder / name, options.examples, options.limit))
    keys = ("shuffled", "sequential", "rss_mib")
    return {
        name: [size, *(statistics.median(run[key] for run in rounds[name]) for key in keys), write]
        for name, (size, write) in sizes.items()
    }


def _figure(value):
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


if __name__ == "__main__":
    main()
