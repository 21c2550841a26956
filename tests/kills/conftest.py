"""What every kill and every error begins with: victims, each of which has run to its end once, watched."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kills import AT_ONCE, SOAK
from tests.kills.calls import Call, record
from tests.kills.victims import Recorded, Things, Victim, every
from tests.servers.nginx import Nginx
from tests.servers.objects import Objects


@pytest.fixture(scope="session")
def things(nginx: Nginx, objects: Objects) -> Things:
    return Things.make(nginx, objects)


@pytest.fixture(scope="session")
def recorded(things: Things, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """Each call of each victim, by kind; every victim has run to its end once."""
    directory = tmp_path_factory.mktemp("recorded")
    victims = list(every(directory, things, all_of_them=SOAK))

    def calls_of(victim: Victim) -> list[Call]:
        victim.prepare()
        calls = record(victim.command(), victim.out, directory / f"{victim}.log")
        assert victim.out.read_bytes() == victim.content
        return calls

    with ThreadPoolExecutor(AT_ONCE) as pool:
        found: Recorded = defaultdict(list)
        for victim, calls in zip(victims, pool.map(calls_of, victims), strict=True):
            for call in calls:
                found[call.name, call.on].append((victim, call))
    return dict(found)
