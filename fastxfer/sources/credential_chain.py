"""Where credentials come from: what the caller gives, then the environment, then the chain of the store's own
well-kept library (profiles, single sign-on, roles of instances), which is an extra of this package.

`fastxfer[s3]` is botocore, `fastxfer[oss]` alibabacloud-credentials; they are imported when they are needed.
Asking them may take seconds and the network: not for the engine's thread. A `CredentialSource` keeps what it
got until it is about to expire; it may be used by any thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from fastxfer.errors import CredentialsError
from fastxfer.sources.credentials import (
    Credentials,
    credentials_from,
    endpoint_from,
    parse_credentials,
    region_from,
)

Load = Callable[[bool], Credentials]
"""Gets credentials; if asked with True, others than those that it gave last, which were refused."""

AHEAD_S = 300.0
"""Temporary credentials are renewed so long before they expire: requests that are signed may still wait."""

_EXTRAS = {"s3": ("botocore", "AWS_ACCESS_KEY_ID"), "oss": ("alibabacloud-credentials", "OSS_ACCESS_KEY_ID")}


class CredentialSource:
    """Gives credentials that are fresh. `load` gets new ones, None where there are only the first; it is
    asked before they expire, or each time if `live`, where it keeps them fresh by itself.
    """

    def __init__(
        self, load: Load | None = None, first: Credentials | None = None, *, live: bool = False
    ) -> None:
        self._load = load
        self._now = first
        self._live = live
        self._lock = threading.Lock()

    @property
    def renews(self) -> bool:
        """True when there may be others than the first."""
        return self._load is not None

    @property
    def live(self) -> bool:
        """True when those asked keep them fresh, and do not say when they expire."""
        return self._live

    def get(self, now_epoch_s: float) -> Credentials:
        """Returns credentials to sign with; gets them first if there are none, or they are about to expire.

        Raises CredentialsError. Those that have not expired yet are used on where new ones cannot be had.
        """
        with self._lock:
            now = self._now
            fresh = now is not None and not self._live and not _expires(now, now_epoch_s + AHEAD_S)
            if now is not None and (fresh or self._load is None):
                return now
            try:
                return self._renewed(False)
            except CredentialsError:
                if now is None or _expires(now, now_epoch_s):
                    raise
                return now

    def refused(self, used: Credentials) -> bool:
        """Notes that a store refused credentials (ExpiredToken, InvalidAccessKeyId). Returns whether `get`
        now gives others: new ones, or those that another thread got since. Raises CredentialsError.
        """
        with self._lock:
            if self._load is not None and (self._now is None or self._now == used):
                self._renewed(True)
            return self._now != used

    def _renewed(self, refused: bool) -> Credentials:
        if self._load is None:
            raise CredentialsError("there are no credentials")
        self._now = self._load(refused)
        return self._now


def _expires(credentials: Credentials, by_epoch_s: float) -> bool:
    return credentials.expires is not None and credentials.expires <= by_epoch_s


def credential_source(
    kind: str,
    *,
    credentials: Any = None,
    profile: str | None = None,
    anonymous: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> CredentialSource | None:
    """Returns where the credentials for a store ("s3" or "oss") come from; None where it is to be asked
    anonymously.

    The first of: `anonymous`; `credentials`, also a callable that is asked again before they expire; the
    environment, unless a `profile` is named; the library's chain. Raises OptionError for what the caller
    gave, and CredentialsError for half of them in the environment. The chain is only asked by `get`.
    """
    if anonymous:
        return None
    if callable(credentials):
        return CredentialSource(_from_callable(credentials))
    if credentials is not None:
        return CredentialSource(first=parse_credentials(credentials))
    found = credentials_from(environ, kind) if profile is None else None
    if found is not None:
        return CredentialSource(first=found)
    if kind == "s3":
        return CredentialSource(lambda _: _botocore_chain(profile))
    return CredentialSource(_AlibabaChain(profile), live=True)


def region_and_endpoint(
    kind: str,
    *,
    region: str | None = None,
    endpoint: str | None = None,
    profile: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[str | None, str | None]:
    """Returns the region and the endpoint to use for a store: as given, as the environment says, or as the
    profile of AWS's configuration says; None for what nobody says. Raises CredentialsError for a profile that
    cannot be read.
    """
    told_region = region or region_from(environ, kind)
    told_endpoint = endpoint or endpoint_from(environ, kind)
    if kind == "s3" and None in (told_region, told_endpoint) and _is_configured(profile):
        of_profile = _botocore_settings(profile)
        return told_region or of_profile[0], told_endpoint or of_profile[1]
    return told_region, told_endpoint


def _from_callable(given: Callable[[], Any]) -> Load:
    def load(_refused: bool) -> Credentials:
        try:
            return parse_credentials(given())
        except Exception as error:
            # Not its text: it may hold secrets.
            raise CredentialsError(
                f"asking for credentials raised {type(error).__name__}: the callable must return them"
            ) from error

    return load


def _missing(kind: str) -> CredentialsError:
    library, name = _EXTRAS[kind]
    return CredentialsError(
        f"no credentials for {kind}:// are given: set {name} and its companions, or credentials=, or "
        f"anonymous=True; profiles and roles need {library}: pip install 'fastxfer[{kind}]'"
    )


def _none_found(kind: str, profile: str | None) -> CredentialsError:
    where = (
        f"profile {profile!r} has"
        if profile is not None
        else "neither options, environment nor profiles have"
    )
    return CredentialsError(
        f"{where} credentials for {kind}://: set {_EXTRAS[kind][1]} and its companions, or profile=, or "
        "anonymous=True for what everybody may read"
    )


def _failed(kind: str, error: Exception) -> CredentialsError:
    library, name = _EXTRAS[kind]
    return CredentialsError(
        f"{library} cannot get credentials ({type(error).__name__}): set {name} and its companions, or "
        "profile=, or anonymous=True for what everybody may read"
    )


def _botocore_session(profile: str | None) -> Any:
    import botocore.session

    return botocore.session.Session(profile=profile)


def _botocore_chain(profile: str | None) -> Credentials:
    """Returns what botocore's chain finds, with when it expires."""
    try:
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise _missing("s3") from error
    try:
        found = _botocore_session(profile).get_credentials()
        frozen = None if found is None else found.get_frozen_credentials()
    except (BotoCoreError, OSError, ValueError) as error:
        raise _failed("s3", error) from error
    if frozen is None or not frozen.access_key or not frozen.secret_key:
        raise _none_found("s3", profile)
    # Where botocore keeps it, and the AWS command line reads it; without it a refusal tells.
    expiry = getattr(found, "_expiry_time", None)
    expires = expiry.timestamp() if expiry is not None else None
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token or None, expires)


def _is_configured(profile: str | None) -> bool:
    """Returns whether there is anything to read, so that botocore is not imported (0.1 s) for nothing."""
    names = [("AWS_CONFIG_FILE", "~/.aws/config"), ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")]
    files = (os.path.expanduser(os.environ.get(name, path)) for name, path in names)
    return profile is not None or "AWS_PROFILE" in os.environ or any(map(os.path.exists, files))


def _botocore_settings(profile: str | None) -> tuple[str | None, str | None]:
    """Returns the region and the endpoint of a profile; of none where botocore is not there."""
    try:
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        if profile is not None:
            raise _missing("s3") from error
        return None, None
    try:
        session = _botocore_session(profile)
        scoped = session.get_scoped_config()
        services = session.full_config.get("services", {}).get(scoped.get("services"), {})
        region = session.get_config_variable("region")
    except (BotoCoreError, OSError, ValueError) as error:
        raise _failed("s3", error) from error
    of_s3 = services.get("s3")
    endpoint = of_s3.get("endpoint_url") if isinstance(of_s3, dict) else None
    return region or None, endpoint or scoped.get("endpoint_url") or None


class _AlibabaChain:
    """What Alibaba's default chain finds: environment, OIDC role, configuration, the instance's role.

    It does not say when they expire, and renews them by itself.
    """

    def __init__(self, profile: str | None) -> None:
        self._profile = profile
        self._provider: Any = None

    def __call__(self, refused: bool) -> Credentials:
        try:
            from alibabacloud_credentials import provider
            from alibabacloud_credentials.exceptions import CredentialException
        except ImportError as error:
            raise _missing("oss") from error
        try:
            if self._provider is None or refused:
                self._provider = (
                    provider.DefaultCredentialsProvider()
                    if self._profile is None
                    else provider.CLIProfileCredentialsProvider(profile_name=self._profile)
                )
            found = self._provider.get_credentials()
        except (CredentialException, OSError, ValueError) as error:
            raise _failed("oss", error) from error
        key, secret = found.get_access_key_id(), found.get_access_key_secret()
        if not key or not secret:
            raise _none_found("oss", self._profile)
        return Credentials(key, secret, found.get_security_token() or None)
