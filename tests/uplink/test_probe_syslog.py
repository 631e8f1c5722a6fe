"""``wardgate check``'s look at the syslog server, against receivers that let it in and that do not."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway import check
from gateway.config import Config, Syslog
from gateway.errors import InputError, UnavailableError
from gateway.uplink.probe import probe_syslog
from hil.broker import issue
from hil.ca import Ca
from tests.uplink.conftest import GATEWAY, free_port


@pytest.fixture(scope="module")
def keys(ca: Path) -> Path:
    issue(ca, ca, "sp-good", names=("127.0.0.1",))
    issue(ca, ca, "sp-other", names=("elsewhere.example",))
    issue(ca, ca, "sp-short", names=("127.0.0.1",), days=12)
    issue(ca, ca, "sp-ours", days=12)
    return ca


@contextmanager
def server(keys: Path, name: str = "sp-good", *, asks: bool = False, closes: bool = False) -> Iterator[int]:
    """A TLS server for one connection, which says nothing and throws away what it hears; it must hear nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / f"{name}.pem", keys / f"{name}.key")
    context.load_verify_locations(keys / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve() -> None:
            try:
                connection = listener.accept()[0]
                connection.settimeout(10)
                with context.wrap_socket(connection, server_side=True) as tls:
                    if not closes:
                        heard.append(tls.recv(100))
                        tls.unwrap().close()
            except OSError:
                return

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()
        assert heard in ([], [b""])


def settings(keys: Path, port: int, cert: str = GATEWAY, **more: object) -> Syslog:
    values: dict[str, object] = {"host": "127.0.0.1", "port": port, "ca": keys / "ca.pem"}
    if cert:
        values |= {"cert": keys / f"{cert}.pem", "key": keys / f"{cert}.key"}
    return Syslog(**{**values, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(("cert", "asks"), [(GATEWAY, True), (GATEWAY, False), ("", False)])
def test_a_server_that_lets_us_in(keys: Path, cert: str, asks: bool) -> None:
    with server(keys, asks=asks) as port:
        said = probe_syslog(settings(keys, port, cert))
    assert said.startswith(f"127.0.0.1 port {port} over TLS, its certificate good for 36")
    assert said.endswith("more days" if not cert else "more days; it takes ours, good for 364 more")


def test_a_server_that_asks_who_sends(keys: Path) -> None:
    with server(keys, asks=True) as port, pytest.raises(UnavailableError, match="refuses us") as e:
        probe_syslog(settings(keys, port, ""))
    assert "name it as cert and key in [syslog]" in e.value.remedy


def test_a_server_that_closes_at_once(keys: Path) -> None:
    with server(keys, closes=True) as port, pytest.raises(UnavailableError, match="closes at once"):
        probe_syslog(settings(keys, port))


@pytest.mark.parametrize("foreign", [False, True], ids=["another name", "another CA"])
def test_a_certificate_that_is_not_the_one_expected(keys: Path, tmp_path: Path, foreign: bool) -> None:
    more = {}
    if foreign:
        Ca(tmp_path / "other", [])
        more = {"ca": tmp_path / "other" / "ca.pem"}
    with server(keys, "sp-good" if foreign else "sp-other") as port, pytest.raises(UnavailableError) as e:
        probe_syslog(settings(keys, port, **more))
    assert "its certificate is not the one expected" in e.value.what
    assert "put the CA that signed it at" in e.value.remedy


def test_certificates_that_end_soon(keys: Path) -> None:
    with server(keys, "sp-short") as port, pytest.raises(InputError, match=r"the syslog server 127\.0\.0\.1 expires in 11 days"):
        probe_syslog(settings(keys, port))
    with pytest.raises(InputError, match=r"our certificate for syslog .*sp-ours\.pem expires in 11 days"):
        probe_syslog(settings(keys, 1, "sp-ours"))


def test_nobody_there_is_a_row_with_a_remedy_and_no_server_is_well(keys: Path) -> None:
    skip = ["profiles", "tpm", "keys", "enrolment", "bluetooth", "wiring", "listeners", "services", "bridge", "enforcer", "clock"]
    skip += ["broker", "disk", "memory", "permissions", "record"]
    (row,) = check.run_checks(Config(syslog=settings(keys, free_port())), skip)
    assert (row.name, row.ok) == ("syslog", False)
    assert "cannot be reached" in row.text
    assert "does the confirmed policy let this gateway out to it?" in row.remedy
    (row,) = check.run_checks(Config(), skip)
    assert (row.ok, row.text) == (True, "none is configured: the record's only copies are what is exported")
