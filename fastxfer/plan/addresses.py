"""Which IP addresses belong to the public internet, for redirects that lead from there to somewhere else."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits


def is_public(address: str) -> bool:
    """Returns whether an IP address is a unicast one of the public internet.

    Loopback, link-local, private, shared, documentation, reserved and multicast addresses are not (the IANA
    special-purpose address registries, RFC 6890), and neither is what is no address. An IPv6 address that
    carries an IPv4 one (mapped, 6to4, NAT64) is as public as that.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    carried = _carried(parsed) if isinstance(parsed, IPv6Address) else None
    if carried is not None:
        parsed = carried
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


def _carried(address: IPv6Address) -> IPv4Address | None:
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
