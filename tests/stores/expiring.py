"""Credentials that expire, and stores that say so."""

from __future__ import annotations

import threading
import time
from email.utils import formatdate

from fastxfer.sources.credentials import Credentials
from tests.servers.proxy import Harm
from tests.servers.store import Store


class Keys:
    """Gives the user's credentials, each time with another end."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.asked = 0

    def __call__(self) -> Credentials:
        with self._lock:
            self.asked += 1
            user = self._store.user
            return Credentials(user.access_key, user.secret_key, expires=time.time() + 3600 * self.asked)


def expired(store: Store) -> Harm:
    """Returns the refusal of credentials that have expired, as a store words it."""
    code = "SecurityTokenExpired" if store.kind == "oss" else "ExpiredToken"
    body = f"<Error><Code>{code}</Code><Message>The token has expired</Message></Error>"
    date = formatdate(usegmt=True)
    return Harm(status=403 if store.kind == "oss" else 400, body=body.encode(), fields={"Date": date})
