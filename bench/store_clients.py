"""One download or upload by a library that has no command of its own, as a program for `bench.stores`:

    python bench/store_clients.py crt|obstore|obstore-ranges get|put ENDPOINT BUCKET KEY FILE

Each uses parts of 8 MiB and is else as its own documents show it. Credentials and region come from the
environment. Only what a user's own program would import is imported.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PART_BYTES = 8 << 20
RANGES_AT_ONCE = 12  # what obstore itself uploads at once


def crt(direction: str, endpoint: str, bucket: str, key: str, file: Path) -> None:
    """s3transfer's manager over AWS's Common Runtime, with the pieces that boto3 makes it of: boto3 itself
    cannot give it an endpoint without TLS. Concurrency follows from the machine, as by default.
    """
    import botocore.session
    from s3transfer.crt import (
        BotocoreCRTCredentialsWrapper,
        BotocoreCRTRequestSerializer,
        CRTTransferManager,
        create_s3_crt_client,
    )

    session = botocore.session.get_session()
    region = os.environ["AWS_REGION"]
    credentials = BotocoreCRTCredentialsWrapper(session.get_credentials())
    client = create_s3_crt_client(
        region,
        crt_credentials_provider=credentials.to_crt_credentials_provider(),
        part_size=PART_BYTES,
        use_ssl=False,
    )
    requests = BotocoreCRTRequestSerializer(session, {"region_name": region, "endpoint_url": endpoint})
    with CRTTransferManager(client, requests) as manager:
        if direction == "get":
            manager.download(bucket, key, str(file)).result()
        else:
            manager.upload(str(file), bucket, key).result()


def obstore(direction: str, endpoint: str, bucket: str, key: str, file: Path, *, ranges: bool) -> None:
    """obstore; downloads are one stream, or `ranges` by many threads into one file."""
    import obstore as library
    from obstore.store import S3Store

    store = S3Store(bucket, endpoint=endpoint, client_options={"allow_http": True})
    if direction == "put":
        library.put(store, key, file, chunk_size=PART_BYTES)
        return
    if not ranges:
        with file.open("wb") as out:
            for chunk in library.get(store, key).stream(min_chunk_size=PART_BYTES):
                out.write(chunk)
        return
    size = library.head(store, key)["size"]
    with file.open("wb") as out, ThreadPoolExecutor(RANGES_AT_ONCE) as threads:

        def fetch(start: int) -> None:
            end = min(start + PART_BYTES, size)
            os.pwrite(out.fileno(), library.get_range(store, key, start=start, end=end), start)

        list(threads.map(fetch, range(0, size, PART_BYTES)))


def main() -> None:
    """Does what the command line says."""
    who, direction, endpoint, bucket, key, file = sys.argv[1:]
    if who == "crt":
        crt(direction, endpoint, bucket, key, Path(file))
    else:
        obstore(direction, endpoint, bucket, key, Path(file), ranges=who == "obstore-ranges")


if __name__ == "__main__":
    main()
