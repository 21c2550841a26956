"""SIGKILL at random points of a copy: it goes on, and no part that the store has is sent again."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, environment, events
from tests.kills import SOAK
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects
from tests.servers.oss_facade import OssFacade
from tests.servers.proxy import Proxy
from tests.servers.store import Store
from tests.stores.putting import OSS_PART, crc_of, options, url
from tests.stores.test_put_kills import DEADLINE_S, WITHIN_S, Counted, killed_at, listed, parts_sent

KILLS = 25 if SOAK else 10
PARTS = 300


@pytest.fixture(params=["rgw", "oss"])
def store(request: pytest.FixtureRequest, oss: OssFacade) -> Store:
    """A store that takes small parts."""
    made = oss.store().make_bucket()
    if request.param == "oss":
        return made
    assert made.behind is not None
    return made.behind.make_bucket()


def test_no_part_that_the_store_has_is_sent_again(
    store: Store, nginx: Nginx, objects: Objects, tmp_path: Path
) -> None:
    thing = objects.make(OSS_PART * PARTS - 17, seed=41)
    chance = random.Random(12)
    points = sorted(chance.sample(range(2, PARTS - PARTS // 4), KILLS))
    counted, has, ids = Counted(), set[int](), set[str]()
    kept = tmp_path / "kept"
    with Proxy(store, counted) as proxy:
        known = {**options(proxy.store), "part_size": OSS_PART, "connections": 3, "checkpoint_dir": kept}
        given = [f"--{name.replace('_', '-')}={value}" for name, value in known.items()]
        argv = [*COMMAND, "copy", nginx.url(thing.name), url(store), "--json", *given]
        for point in points:
            killed_at(argv, counted, max(1, point - len(has)), chance.uniform(0, WITHIN_S))
            sent = parts_sent(proxy, counted)
            assert not has & sent
            ids |= {upload_id for _, upload_id in store.list_uploads()}
            assert len(ids) == 1
            has = listed(store, min(ids))
        done = subprocess.run(argv, capture_output=True, env=environment(), timeout=DEADLINE_S, check=True)
        sent = parts_sent(proxy, counted)
    assert sent == set(range(1, PARTS + 1)) - has
    result = events(done.stdout.decode())[-1]
    data = thing.path.read_bytes()
    assert (result["parts"], result["parts_resumed"]) == (PARTS, len(has))
    assert result["checksums"] == crc_of(store, data) and result["verified"] in ("server", "etag")
    assert store.get("o") == data
    assert store.list_uploads() == [] and list(kept.iterdir()) == []
