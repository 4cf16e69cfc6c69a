"""Reading Parquet without threads.

PyArrow's I/O threads, once started, now and then abort a process that ends right afterwards
("terminate called without an active exception"; seen with 26.0.1 in about 1 of 40 short commands).
"""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq


def read_parquet(data: bytes) -> pa.Table:
    """Read one Parquet file in this thread.

    Raises:
        pyarrow.ArrowException: it is not a Parquet file.
    """
    with pq.ParquetFile(io.BytesIO(data), pre_buffer=False) as file:
        return file.read(use_threads=False)
