"""Object stores are mirrors as any other, signed requests and all."""

from __future__ import annotations

import fastxfer
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects
from tests.servers.seaweedfs import SeaweedFs
from tests.stores import known, url

MIB = 1024**2


def test_a_store_and_a_server_are_measured_beside_each_other(
    seaweedfs: SeaweedFs, nginx: Nginx, objects: Objects
) -> None:
    thing = objects.make(8 * MIB, 41)
    store = seaweedfs.store().make_bucket()
    store.put("data.bin", thing.path.read_bytes())
    urls = [url(store, "data.bin"), nginx.url(thing.name), url(store, "missing")]
    report = fastxfer.bench(urls, connections=(1, 3), duration=0.4, rounds=4, **known(store))
    rows = {row.url: row for row in report.rows}
    for each in urls[:2]:
        row = rows[each]
        assert (row.error, row.errors, row.same_object, row.size) == (None, 0, True, 8 * MIB)
        assert row.rate is not None and row.rate > 0
    assert rows[urls[2]].exit_code == 3
    assert set(report.best()) == set(urls[:2])


def test_a_store_that_refuses_is_a_row(seaweedfs: SeaweedFs) -> None:
    store = seaweedfs.store().make_bucket()
    options = {**known(store), "credentials": "nobody:nothing"}
    (row,) = fastxfer.bench([url(store, "data.bin")], duration=0.4, rounds=4, **options).rows
    assert row.exit_code == 24 and row.error is not None
    assert "nothing" not in str(row)
