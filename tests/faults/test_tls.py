"""TLS that does not hold: certificates, handshakes and records (RFC 8446)."""

from __future__ import annotations

import datetime
import ssl
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

import fastxfer
from fastxfer.errors import NetworkError, TLSError, TransferTimeoutError
from tests.faults.scenarios import (
    OBJECT,
    SIZE,
    Asked,
    Scenario,
    always,
    crosswise,
    everywhere,
    fresh,
    later,
    wait,
)
from tests.servers import HOST, Authority
from tests.servers.raw import Connection, RangeHandler
from tests.servers.tls import FORGED_RECORD, Ending, Handshake, Stage, TlsServer, server_context, tls_of

PATIENT: dict[str, Any] = {"connect_timeout": 5.0, "stall_timeout": 5.0, "retries": 2}


class TlsScenario(Scenario):
    """A scenario whose server speaks TLS."""

    def __init__(self, tmp_path: Path, authority: Authority, connections: int, resumed: bool = False) -> None:
        super().__init__(
            tmp_path,
            connections,
            resumed,
            serve=lambda handler: TlsServer(handler, authority),
            options={**PATIENT, "ca_bundle": str(authority.ca)},
        )
        assert isinstance(self.server, TlsServer)
        self.tls = self.server

    def __enter__(self) -> TlsScenario:
        super().__enter__()
        return self

    def server_breaks(self, handshake: Handshake, chosen: Callable[[int], bool]) -> None:
        """Ends the connections that are open; later handshakes, by number, go wrong where chosen."""
        self.tls.drop()
        before = self.tls.connections
        self.tls.handshakes = lambda number: handshake if chosen(number - before) else None

    def stands(self, error: fastxfer.FastxferError, kept: bool) -> None:
        self.tls.handshakes = lambda number: None
        super().stands(error, kept)


# ---- who the server is ----


class Impostor:
    """Certificates for 127.0.0.1 that must not be taken, and the authorities that a client trusts."""

    def __init__(self, directory: Path) -> None:
        self.authority = trustme.CA()
        self.bundle = directory / "authorities.pem"
        self.authority.cert_pem.write_to_path(str(self.bundle))

    def context(self, which: str) -> ssl.SSLContext:
        long_ago = datetime.datetime(2020, 1, 1)
        far_off = datetime.datetime(2090, 1, 1)
        year = datetime.timedelta(days=365)
        issue = self.authority.issue_cert
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if which == "self-signed":
            own = trustme.CA()  # an authority's certificate is signed by itself
            with own.private_key_pem.tempfile() as key, own.cert_pem.tempfile() as chain:
                context.load_cert_chain(chain, key)
            return context
        certificate = {
            "unknown-authority": lambda: trustme.CA().issue_cert(HOST),
            "expired": lambda: issue(HOST, not_before=long_ago, not_after=long_ago + year),
            "not-yet-valid": lambda: issue(HOST, not_before=far_off, not_after=far_off + year),
            "wrong-host-name": lambda: issue("example.org", "127.0.0.2"),
        }[which]()
        certificate.configure_cert(context)
        return context


IMPOSTORS = ["unknown-authority", "expired", "not-yet-valid", "wrong-host-name", "self-signed"]
impostors = pytest.mark.parametrize("which", IMPOSTORS)
versions = pytest.mark.parametrize("http_version", ["1.1", "2"])


@fresh
@impostors
@versions
def test_a_certificate_that_does_not_hold_fails_at_once(
    tmp_path: Path, authority: Authority, connections: int, which: str, http_version: str
) -> None:
    impostor = Impostor(tmp_path)
    target = tmp_path / "target"
    target.mkdir()
    with TlsServer(RangeHandler(OBJECT), authority, impostor.context(which)) as server:
        with pytest.raises(TLSError) as caught:
            wait(
                fastxfer.start(
                    server.url(),
                    target / "out",
                    connections,
                    ca_bundle=str(impostor.bundle),
                    http_version=http_version,
                )
            )
        assert (server.connections, server.requests) == (1, []), "asked once, and nothing was told"
    assert caught.value.exit_code == 6
    assert list(target.iterdir()) == []


@fresh
@impostors
def test_a_certificate_is_not_looked_at_if_told_so(
    tmp_path: Path, authority: Authority, connections: int, which: str
) -> None:
    with TlsServer(RangeHandler(OBJECT), authority, Impostor(tmp_path).context(which)) as server:
        wait(fastxfer.start(server.url(), tmp_path / "out", connections, verify_tls=False, **PATIENT))
    assert (tmp_path / "out").read_bytes() == OBJECT


@fresh
def test_the_systems_authorities_do_not_know_ours(
    tmp_path: Path, authority: Authority, connections: int
) -> None:
    with TlsServer(RangeHandler(OBJECT), authority) as server:
        with pytest.raises(TLSError):
            wait(fastxfer.start(server.url(), tmp_path / "out", connections))
        assert server.requests == []


@crosswise
def test_another_certificate_mid_way_fails_and_the_progress_is_kept(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    def change(asked: Asked) -> None:
        scenario.tls.context = false
        asked.send(body=asked.data[:1000])
        asked.connection.close()

    false = Impostor(tmp_path).context("unknown-authority")
    with TlsScenario(tmp_path, authority, connections, resumed) as scenario:
        right = scenario.tls.context
        scenario.server_does(change, always if resumed else later)
        with pytest.raises(TLSError) as caught:
            scenario.fetch()
        assert caught.value.exit_code == 6
        assert caught.value.kept is not None
        scenario.tls.context = right
        scenario.handler.wrong = None
        assert scenario.arrives().resumed > 0


# ---- which TLS, and who the client is ----


def old_tls(authority: Authority, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = server_context(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is the point
        context.minimum_version = context.maximum_version = version
    return context


@fresh
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=["1.0", "1.1"])
def test_tls_before_1_2_is_refused_at_once(
    tmp_path: Path, authority: Authority, connections: int, version: ssl.TLSVersion
) -> None:
    with TlsServer(RangeHandler(OBJECT), authority, old_tls(authority, version)) as server:
        with pytest.raises(TLSError) as caught:
            wait(fastxfer.start(server.url(), tmp_path / "out", connections, ca_bundle=str(authority.ca)))
        assert (server.connections, server.requests) == (1, [])
    assert caught.value.exit_code == 6


@fresh
def test_tls_1_2_is_spoken(tmp_path: Path, authority: Authority, connections: int) -> None:
    with TlsServer(RangeHandler(OBJECT), authority, old_tls(authority, ssl.TLSVersion.TLSv1_2)) as server:
        wait(fastxfer.start(server.url(), tmp_path / "out", connections, ca_bundle=str(authority.ca)))
    assert (tmp_path / "out").read_bytes() == OBJECT


def mutual_tls(authority: Authority, version: ssl.TLSVersion) -> ssl.SSLContext:
    """A server's context that demands a certificate of the authority from the client."""
    context = server_context(authority)
    context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(str(authority.ca))
    return context


mutual = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"]
)


@fresh
@mutual
def test_a_client_certificate_that_is_asked_for_is_given(
    tmp_path: Path, authority: Authority, connections: int, version: ssl.TLSVersion
) -> None:
    with TlsServer(RangeHandler(OBJECT), authority, mutual_tls(authority, version)) as server:
        wait(
            fastxfer.start(
                server.url(),
                tmp_path / "out",
                connections,
                ca_bundle=str(authority.ca),
                client_cert=(str(authority.chain), str(authority.key)),
                **PATIENT,
            )
        )
    assert (tmp_path / "out").read_bytes() == OBJECT


@fresh
@mutual
@pytest.mark.parametrize("given", ["none", "of-another-authority", "no-such-file"])
def test_without_the_client_certificate_that_is_asked_for_it_fails_at_once(
    tmp_path: Path, authority: Authority, connections: int, version: ssl.TLSVersion, given: str
) -> None:
    options: dict[str, Any] = {"ca_bundle": str(authority.ca)}
    if given == "of-another-authority":
        other = tmp_path / "other.pem"
        trustme.CA().issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(str(other))
        options["client_cert"] = str(other)
    elif given == "no-such-file":
        options["client_cert"] = str(tmp_path / "no-such-file.pem")
    with TlsServer(RangeHandler(OBJECT), authority, mutual_tls(authority, version)) as server:
        with pytest.raises(TLSError) as caught:
            wait(fastxfer.start(server.url(), tmp_path / "out", connections, **options))
        server.wait_for_connections(1)
        assert server.connections == 1
        assert server.requests == []
    assert caught.value.exit_code == 6
    assert not (tmp_path / "out").exists()


# ---- the handshake ----

stages = pytest.mark.parametrize("stage", Stage, ids=lambda stage: stage.value)
breaks = pytest.mark.parametrize("ending", [Ending.CLOSE, Ending.RESET], ids=lambda ending: ending.value)


@crosswise
@stages
@breaks
def test_a_handshake_that_breaks_is_tried_again(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, stage: Stage, ending: Ending
) -> None:
    with TlsScenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_breaks(Handshake(stage, ending), lambda nth: nth in (0, 2))
        result = scenario.arrives(retries=4)
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.transferred + result.resumed == SIZE


@crosswise
@stages
@breaks
def test_a_handshake_that_always_breaks_fails(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, stage: Stage, ending: Ending
) -> None:
    with TlsScenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_breaks(Handshake(stage, ending), lambda nth: True)
        scenario.fails(NetworkError, 6, kept=resumed)


@crosswise
@pytest.mark.parametrize(
    "stage", [Stage.ACCEPTED, Stage.HALF_ANSWERED, Stage.DONE], ids=lambda stage: stage.value
)
def test_a_handshake_that_stalls_is_tried_again(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, stage: Stage
) -> None:
    with TlsScenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_breaks(Handshake(stage, Ending.STALL), lambda nth: nth == 0)
        result = scenario.arrives(connect_timeout=0.5, stall_timeout=0.2)
    assert (result.resumed, result.restarts) == (scenario.before, 0)
    assert result.retries >= 1


@crosswise
@pytest.mark.parametrize("stage", [Stage.ASKED, Stage.DONE], ids=lambda stage: stage.value)
def test_a_handshake_that_always_stalls_fails(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool, stage: Stage
) -> None:
    with TlsScenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_breaks(Handshake(stage, Ending.STALL), lambda nth: True)
        scenario.options.update(connect_timeout=0.3, stall_timeout=0.2, retries=1)
        scenario.fails(TransferTimeoutError, 2, kept=resumed)


# ---- records ----


def alert(connection: Connection) -> None:
    tls_of(connection).send_alert()
    connection.close()


def forged_record(connection: Connection) -> None:
    tls_of(connection).send_below(FORGED_RECORD)
    connection.wait_until_gone()


def no_record(connection: Connection) -> None:
    tls_of(connection).send_below(b"garbage!" * 100)
    connection.wait_until_gone()


def cut_record(connection: Connection) -> None:
    tls_of(connection).send_below(b"\x17\x03\x03\x40\x00" + bytes(100))
    connection.close()


@crosswise
@pytest.mark.parametrize("fault", [alert, forged_record, no_record, cut_record])
def test_a_record_that_does_not_hold_is_not_taken(
    tmp_path: Path,
    authority: Authority,
    connections: int,
    resumed: bool,
    fault: Callable[[Connection], None],
) -> None:
    def answer(asked: Asked) -> None:
        asked.send(body=asked.data[: len(asked.data) // 3])
        fault(asked.connection)

    with TlsScenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(answer, lambda nth, _request: nth in (0, 2))
        result = scenario.arrives()
    assert (result.resumed, result.restarts, result.retries) == (scenario.before, 0, 2)
    assert result.transferred + result.resumed == SIZE, "what came before it is kept"


@everywhere
def test_tls_cut_without_close_notify_after_the_last_byte_is_no_failure(
    tmp_path: Path, authority: Authority, connections: int, resumed: bool
) -> None:
    def answer(asked: Asked) -> None:
        asked.send(fields={**asked.fields, "Connection": "close"})
        asked.connection.close()

    with TlsScenario(tmp_path, authority, connections, resumed) as scenario:
        scenario.server_does(answer)
        result = scenario.arrives()
    assert (result.resumed, result.retries) == (scenario.before, 0)
