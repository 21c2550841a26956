"""Redirects from the public internet, in a network namespace whose loopback device has public addresses.

Run as `unshare -n python -m tests.faults.public_internet DIRECTORY FROM TO [OPTION...]`: a server at the
address FROM redirects to one that has the object at the address TO (a literal, or a name). Prints a line of
JSON: the error's type and message or none, and how many requests the second server got. The option `allow`
allows such redirects, `kept` has the second server asked directly before, so that a connection to it is kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fastxfer
from tests.faults.scenarios import OBJECT, QUICK, wait
from tests.servers import find_program
from tests.servers.raw import RangeHandler, RawServer

ADDRESSES = ["8.8.4.4", "8.8.8.8", "10.1.2.3", "169.254.169.254", "2606:4700::1111", "fd12::1"]


def main(directory: str, from_address: str, to_host: str, *options: str) -> None:
    ip = find_program("ip", install="apt-get install iproute2")
    subprocess.run([ip, "link", "set", "lo", "up"], check=True)
    for address in ADDRESSES:
        subprocess.run([ip, "address", "add", address, "dev", "lo", "nodad"], check=True)
    listens_on = {"localhost": "127.0.0.1", "0x7f000001": "127.0.0.1", "2130706433": "127.0.0.1"}
    bound = listens_on.get(to_host, to_host).strip("[]").removeprefix("::ffff:")
    with RawServer(RangeHandler(OBJECT), bound) as there:
        to = f"http://{to_host}:{there.port}/object"
        with RawServer(lambda _, answer: answer.respond(302, {"Location": to}), from_address) as first:
            print(json.dumps(tell(Path(directory), first, there, options)))


def tell(directory: Path, first: RawServer, there: RawServer, options: tuple[str, ...]) -> dict[str, object]:
    if "kept" in options:
        wait(fastxfer.start(there.url(), directory / "direct", 1, **QUICK))
    before = len(there.requests)
    allow = "allow" in options
    error = None
    try:
        wait(
            fastxfer.start(
                first.url(), directory / "out", 4, allow_private_redirects=allow, **{**QUICK, "retries": 1}
            )
        )
    except fastxfer.FastxferError as failure:
        error = failure
    return {
        "error": None if error is None else type(error).__name__,
        "message": str(error or ""),
        "requests": len(there.requests) - before,
        "right": (directory / "out").exists() and (directory / "out").read_bytes() == OBJECT,
        "connections": there.connections,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
