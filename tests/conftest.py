"""What every test lives with: both event loops, no network, reproducible examples."""

from __future__ import annotations

import ipaddress
import os
import sys
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "flowkit",
    deadline=None,  # a slow machine is no bug
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("ci", settings.get_profile("flowkit"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "flowkit")

LONG_TIMEOUT_S = 600


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Run every async test under both event loops."""
    return str(request.param)


class NetworkRefused(BaseException):
    """A test reached for the network.

    It is no `Exception`, so that no retry and no fallback under test can swallow it.
    """


def is_local(host: object) -> bool:
    """Tell whether a host, as sockets take it, is this machine."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if not isinstance(host, str) or host in ("", "localhost"):
        return True  # None and "" mean any local address; numbers belong to netlink and the like
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def host_of(address: Any) -> object:
    """Take the host from a socket's address, which is a path for a Unix socket, or None."""
    if address is None or isinstance(address, str | bytes):
        return None
    host: object = address[0]
    return host


def refuse_network(event: str, args: tuple[Any, ...]) -> None:
    """Audit hook: let no socket of this process leave the machine."""
    if event == "socket.getaddrinfo":
        host = args[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        host = host_of(args[1])
    else:
        return
    if not is_local(host):
        raise NetworkRefused(
            f"a test reached for {host!r}. Tests use no network: give the client a mock transport, "
            "or serve the answer from 127.0.0.1"
        )


def pytest_configure(config: pytest.Config) -> None:
    # An audit hook sees what every library does, in C as well, and cannot be taken off by mistake.
    sys.addaudithook(refuse_network)


@pytest.hookimpl(tryfirst=True)  # before xdist looks for its groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(LONG_TIMEOUT_S))
        if item.get_closest_marker("serial"):
            item.add_marker(pytest.mark.xdist_group("serial"))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A session in which nothing ran has shown nothing: it fails."""
    if hasattr(session.config, "workerinput") or session.config.option.collectonly:
        return
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus != pytest.ExitCode.OK or reporter is None:
        return
    if not any(reporter.stats.get(outcome) for outcome in ("passed", "xfailed")):
        reporter.write_line("no test ran: all were skipped", red=True)
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
