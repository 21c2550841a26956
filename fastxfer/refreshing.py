"""Asks the caller for a new URL of the same object when the old one has expired, or is about to; and for new
credentials of an object store.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from fastxfer.errors import AuthError, CredentialsError, StoreError
from fastxfer.options import Refresh

if TYPE_CHECKING:
    from fastxfer.sources.store_access import StoreAccess

COMMAND_S = 60.0
# A URL that says when it expires is renewed so long before: requests that are out were let in already.
AHEAD_S = 30.0
_PROXY = 407


class Renewal:
    """Whether the caller may be asked for a new URL: once for all requests, after a refusal again only if
    bytes came with it, and for a known expiry once. Of the engine's thread.
    """

    def __init__(self, refresh: Refresh | None, url: str) -> None:
        self._refresh = refresh
        self._done: int | None = None  # how much was in place when the last one came
        self._expiry = _expiry_of(url) if refresh is not None else None
        self.asking = False

    def due(self, now_epoch_s: float) -> bool:
        """Returns whether the URL is to be renewed now, since it says that it expires."""
        return self._expiry is not None and not self.asking and now_epoch_s >= self._expiry - AHEAD_S

    def expired(self, now_epoch_s: float) -> bool:
        """Returns whether the URL says that it has expired."""
        return self._expiry is not None and now_epoch_s >= self._expiry

    def may_help(self, refused: AuthError, done: int) -> bool:
        """Returns whether a new URL may help against a refusal; `done` bytes are in place."""
        if self._refresh is None or refused.status == _PROXY:
            return False
        return self.asking or self._done is None or done > self._done

    def begin(self, refused: AuthError, then: Callable[[str | AuthError], object]) -> None:
        """Asks the caller; see `ask`."""
        assert self._refresh is not None
        self.asking = True
        ask(self._refresh, refused, then)

    def came(self, done: int, url: str, now_epoch_s: float) -> None:
        """Notes that there is a new URL. If it seems to expire at once the clocks may differ: a refusal tells
        then.
        """
        self.asking, self._done = False, done
        expiry = _expiry_of(url)
        self._expiry = expiry if expiry is not None and expiry > now_epoch_s + AHEAD_S else None

    def failed(self) -> None:
        """Notes that none came ahead of time: from now on a refusal tells."""
        self.asking, self._expiry = False, None


class Keys:
    """The credentials of a download's object stores while it runs: who is being asked for others, and who
    holds everything up meanwhile. Of the engine's thread.
    """

    def __init__(self) -> None:
        self._asking: set[StoreAccess] = set()
        self._held_up: dict[StoreAccess, StoreError] = {}

    @property
    def hold_up(self) -> bool:
        """True while nothing is to be asked: credentials were refused, and others are on their way."""
        return bool(self._held_up)

    def due(self, access: StoreAccess) -> bool:
        """Returns whether credentials are to be renewed now, ahead of time."""
        return access not in self._asking and access.needs_refresh()

    def begin(
        self,
        access: StoreAccess,
        refused: StoreError | None,
        then: Callable[[CredentialsError | None], object],
    ) -> None:
        """Has credentials renewed, once for all who need it; `refused` is why, None where it is ahead of
        time. `then` is called on another thread.
        """
        if refused is not None:
            self._held_up.setdefault(access, refused)
        if access not in self._asking:
            self._asking.add(access)
            renew(access, then)

    def came(self, access: StoreAccess, error: CredentialsError | None) -> StoreError | None:
        """Notes that the asking is over; returns the error to end with if it was in vain, and needed."""
        self._asking.discard(access)
        refused = self._held_up.pop(access, None)
        if refused is not None and error is not None:
            refused.message = f"{refused.message}; {error.message}"
            refused.args = (refused.message,)
            refused.__cause__ = error
            return refused
        return None


def renew(access: StoreAccess, then: Callable[[CredentialsError | None], object]) -> None:
    """Has an access get new credentials on a thread of its own, where `then` is called with the error if
    there is one.
    """

    def run() -> None:
        try:
            access.refresh()
        except CredentialsError as error:
            then(error)
        except Exception as error:  # noqa: BLE001 - a library's own code may raise anything
            failed = CredentialsError(f"asking for credentials raised {type(error).__name__}")
            failed.__cause__ = error
            then(failed)
        else:
            then(None)

    threading.Thread(target=run, name="fastxfer-credentials", daemon=True).start()


def ask(refresh: Refresh, refused: AuthError, then: Callable[[str | AuthError], object]) -> None:
    """Calls `refresh`, or runs it as a shell command whose output is the URL, on a thread of its own.

    `then` is called on that thread, with the URL or with the error to end with: `refused`, and why there is
    no new URL. What the caller's code raised is its cause; its text, which may hold secrets, is not repeated.
    """

    def run() -> None:
        try:
            answer: object = _output_of(refresh) if isinstance(refresh, str) else refresh()
        except Exception as error:  # noqa: BLE001 - the caller's own code may raise anything
            failed = _failed(refused, f"asking for a new one raised {type(error).__name__}")
            failed.__cause__ = error
            then(failed)
            return
        if isinstance(answer, str) and answer.strip():
            then(answer.strip())
        else:
            then(_failed(refused, "asking for a new one gave none"))

    threading.Thread(target=run, name="fastxfer-refresh", daemon=True).start()


def _expiry_of(url: str) -> float | None:
    from fastxfer.plan.expiry import expires_at

    return expires_at(url)


def _output_of(command: str) -> str:
    import subprocess

    run = subprocess.run(
        command, shell=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=COMMAND_S, check=True
    )
    return run.stdout.decode()


def _failed(refused: AuthError, reason: str) -> AuthError:
    return AuthError(f"{refused.message}; {reason}", status=refused.status)
