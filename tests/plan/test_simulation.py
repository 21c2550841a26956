"""Simulated transfers over thousands of networks: each ends with every byte once, and none late."""

from __future__ import annotations

import dataclasses
import math
import statistics

import pytest

from fastxfer.plan.growth import QUICK, WINDOW_S
from fastxfer.plan.renewal import MOST
from fastxfer.plan.scheduler import WASTE_BYTES, WASTE_SHARE
from tests.plan.simulation import MIB, STALL_S, TICK_S, Model, Network, fixed_split, networks

MBPS = 1e6
PLAIN = Network(size=1 << 30, connections=16, rates=(20 * MBPS,))


@pytest.mark.parametrize("seed", range(8))
def test_any_network_is_used_to_the_end(seed: int) -> None:
    """Faults cost time; without them no transfer takes much longer than equal parts would."""
    ratios = []
    for network in networks(250, seed):
        model = Model(network).run()
        told = f"{model.now:.2f} s, {model.requests} requests, {model.wasted} bytes wasted: {network}"
        assert model.most_out <= network.connections
        # The model's bytes have fractions, of which each request loses one.
        assert abs(model.wasted - model.plan.scheduler.wasted) <= model.requests, told
        assert model.wasted <= max(WASTE_BYTES, network.size // WASTE_SHARE), told
        if not (network.stalls or network.deaths or network.rooms):
            ratios.append(model.now / network.ideal_s)
            # Over QUICK each doubling waits for an answer and a window.
            doublings = max(0, math.ceil(math.log2(network.connections / QUICK)))
            ramp_s = doublings * (WINDOW_S + 2 * TICK_S + 2 * network.rtt_s)
            assert model.now <= 1.5 * fixed_split(network) + 0.5 + ramp_s, told
    assert statistics.median(ratios) < 1.15


def test_a_connection_at_a_twentieth_of_the_rate_costs_a_tenth_at_most() -> None:
    network = dataclasses.replace(PLAIN, rates=(MBPS, *(20 * MBPS for _ in range(15))))
    assert Model(network).run().now <= 1.1 * network.ideal_s
    assert fixed_split(network) > 10 * network.ideal_s


def test_a_connection_far_slower_than_the_others_is_exchanged_for_a_new_one() -> None:
    network = dataclasses.replace(PLAIN, rates=(MBPS, *(20 * MBPS for _ in range(15))), fresh=20 * MBPS)
    model = Model(network).run()
    assert model.now <= 1.02 * Model(PLAIN).run().now, "as if none had been slow, but for the time to see it"
    assert model.wasted == 0


def test_slow_connections_are_exchanged_twice_and_then_left_alone() -> None:
    network = dataclasses.replace(PLAIN, size=8 << 30, rates=(MBPS, *(20 * MBPS for _ in range(15))))
    before = Model(network, renews=False).run()
    model = Model(network).run()
    assert model.connected[0] <= before.connected[0] + MOST
    assert model.now <= 1.01 * before.now


@pytest.mark.parametrize("rates", [(1.0, 10.0, 10.0), (3.0, *(10.0,) * 15), (10.0,) * 16])
def test_few_connections_or_alike_ones_are_kept(rates: tuple[float, ...]) -> None:
    network = dataclasses.replace(
        PLAIN, connections=len(rates), rates=tuple(rate * MBPS for rate in rates), fresh=100 * MBPS
    )
    both = [Model(network, renews=renews).run() for renews in (True, False)]
    assert both[0].connected == both[1].connected and both[0].now == both[1].now


@pytest.mark.parametrize("burst", [0, int(20 * MBPS)])
def test_a_limit_on_each_connection_is_filled(burst: int) -> None:
    network = dataclasses.replace(PLAIN, burst=burst)
    assert Model(network).run().now <= network.size / (0.95 * 320 * MBPS)


@pytest.mark.parametrize("rate", [0.5, 5, 20])
def test_a_far_server_costs_little_more_than_its_round_trips(rate: float) -> None:
    network = dataclasses.replace(PLAIN, rates=(rate * MBPS,), rtt_s=0.2)
    assert Model(network).run().now <= 1.15 * network.ideal_s


@pytest.mark.parametrize("at", [0.05, 0.5, 2.0, 3.2])
@pytest.mark.parametrize("count", [1, 3])
def test_connections_that_stall_do_not_wait_for_their_time_out(at: float, count: int) -> None:
    network = dataclasses.replace(PLAIN, stalls=tuple((at, slot) for slot in range(3, 3 + count)))
    model = Model(network).run()
    assert model.now < 2 * network.ideal_s < STALL_S
    assert model.wasted <= WASTE_BYTES


def test_without_races_no_byte_is_asked_for_twice() -> None:
    network = dataclasses.replace(PLAIN, size=64 * MIB, rates=(*(20 * MBPS for _ in range(15)), MBPS / 10))
    ways = [Model(network, races=races).run() for races in (True, False)]
    assert ways[0].now < ways[1].now and ways[0].wasted > 0
    assert ways[1].plan.scheduler.wasted == 0 and abs(ways[1].wasted) <= ways[1].requests


def test_a_server_that_becomes_slow_in_the_middle_loses_its_runs() -> None:
    slow = tuple((1.0, slot, MBPS / 2) for slot in range(8))
    network = dataclasses.replace(PLAIN, changes=slow)
    left = network.size - 320 * MBPS
    assert Model(network).run().now <= 1.15 * (1.0 + left / (8.2 * 20 * MBPS))


def test_more_requests_than_help_are_not_sent() -> None:
    network = dataclasses.replace(
        PLAIN, size=4 << 30, connections=256, rates=(40 * MBPS,), bottleneck=320 * MBPS
    )
    model = Model(network).run()
    assert model.most_out <= 64
    assert model.now <= 1.05 * network.ideal_s


def test_requests_become_more_while_each_has_its_own_limit() -> None:
    network = dataclasses.replace(
        PLAIN, size=8 << 30, connections=128, rates=(4 * MBPS,), burst=int(4 * MBPS)
    )
    model = Model(network).run()
    assert model.most_out == 128
    assert model.now <= 1.2 * network.ideal_s


def test_streams_of_one_connection_are_shared_out_at_no_cost() -> None:
    rates = tuple(MBPS * (1 + slot) for slot in range(16))
    network = dataclasses.replace(PLAIN, rates=rates, rtt_s=0.1, multiplexed=True)
    assert Model(network).run().now <= 1.15 * network.ideal_s


def test_a_racer_never_asks_for_more_than_it_may_keep() -> None:
    network = dataclasses.replace(PLAIN, size=300 * MIB, rates=(20 * MBPS,) * 15 + (1000.0,))
    model = Model(network).run()
    assert model.now <= 1.5 * network.ideal_s
    assert model.wasted <= WASTE_BYTES
