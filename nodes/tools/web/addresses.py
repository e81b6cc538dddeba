"""Which addresses the public internet has. All others are the host's own affair.

An IPv6 address may carry an IPv4 one that a gateway on the way unpacks; what counts is where a packet
ends. Sources: RFC 4291 (mapped, compatible), RFC 6052 and RFC 8215 (NAT64), RFC 3056 (6to4), RFC 4380
(Teredo), RFC 5214 (ISATAP), and the IANA special-purpose registries, which `ipaddress` follows.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address

_NAT64: Final = (IPv6Network("64:ff9b::/96"),)
_COMPATIBLE: Final = IPv6Network("::/96")
_TUNNELS: Final = (
    (IPv6Network("2002::/16"), "6to4"),
    (IPv6Network("2001::/32"), "Teredo"),
    (
        IPv6Network("64:ff9b:1::/48"),
        "local NAT64",
    ),  # where the IPv4 part lies is its operator's choice
    (IPv6Network("3fff::/20"), "documentation"),  # RFC 9637; older Pythons do not know it
    (IPv6Network("fec0::/10"), "site-local"),
    (IPv6Network("5f00::/16"), "segment routing"),
)
_NOT_GLOBAL: Final = (
    IPv4Network("100.64.0.0/10"),
    IPv4Network("168.63.129.16/32"),  # Azure's platform, an ordinary-looking address
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
)


def refusal(text: str) -> str:
    """Why an address is not one of the public internet; empty if it is one."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return f"{text[:60]!r} is no address"
    return _judge(address)


def _judge(address: Address) -> str:
    if isinstance(address, IPv4Address):
        if any(address in network for network in _NOT_GLOBAL):
            return f"{address} is not a public address"
        public = address.is_global and not (address.is_multicast or address.is_reserved)
        return "" if public else f"{address} is not a public address"
    carried = _carried(address)
    if carried is not None:
        return _judge(carried) and f"{address} stands for {carried}, which is not a public address"
    for network, name in _TUNNELS:
        if address in network:
            return f"{address} is a {name} address"
    if address.packed[8:12] in (b"\0\0\x5e\xfe", b"\x02\0\x5e\xfe"):
        return f"{address} is an ISATAP address"
    public = address.is_global and not (address.is_multicast or address.is_reserved)
    return "" if public else f"{address} is not a public address"


def _carried(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a packet to this one comes to, where that is plain to see."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if any(address in network for network in _NAT64):
        return IPv4Address(address.packed[-4:])
    if address in _COMPATIBLE and int(address) > 1:
        return IPv4Address(address.packed[-4:])
    return None
