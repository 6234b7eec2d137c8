"""What a server asks for before others than this host reach it."""

import datetime as dt
import ipaddress
import os
import ssl
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from capturekit.web.exposure import is_loopback
from tests.servers import DidNotStartError, running_server

LONG = "an-admin-token-that-is-long-enough"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "capturekit test")])
    now = dt.datetime.now(dt.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    pem = serialization.Encoding.PEM
    cert_file.write_bytes(signed.public_bytes(pem))
    plain = serialization.NoEncryption()
    key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return cert_file, key_file


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "CAPTUREKIT_PLAIN_HTTP=true"),
        ({"CAPTUREKIT_PLAIN_HTTP": "true", "CAPTUREKIT_ADMIN_TOKEN": "short"}, "openssl rand"),
        ({"CAPTUREKIT_TLS_CERT": "cert.pem"}, "CAPTUREKIT_TLS_KEY is missing"),
        (
            {"CAPTUREKIT_TLS_CERT": "none.pem", "CAPTUREKIT_TLS_KEY": "none.pem"},
            "none.pem cannot be used",
        ),
    ],
)
def test_a_public_address_is_refused_until_it_is_safe_or_said_to_be(
    given: dict[str, str], said: str, tmp_path: Path
) -> None:
    where = {"CAPTUREKIT_HOST": "0.0.0.0", "CAPTUREKIT_ADMIN_TOKEN": LONG}  # noqa: S104  # the point
    done = subprocess.run(
        [sys.executable, "-m", "capturekit", "serve", "--port", "0", "--data", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **where, **given},
    )
    assert done.returncode == 1, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_it_is_served_once_someone_says_that_plain_http_will_do(tmp_path: Path) -> None:
    where = {"CAPTUREKIT_HOST": "0.0.0.0", "CAPTUREKIT_ADMIN_TOKEN": LONG}  # noqa: S104  # the point
    with running_server(tmp_path, CAPTUREKIT_PLAIN_HTTP="true", **where) as server:
        assert httpx2.get(f"{server.url}/livez", timeout=20).is_success
    with pytest.raises(DidNotStartError), running_server(tmp_path, **where):
        pass


def test_with_a_certificate_it_speaks_tls_and_nothing_else(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    where = {"CAPTUREKIT_TLS_CERT": str(cert), "CAPTUREKIT_TLS_KEY": str(key)}
    with running_server(tmp_path / "data", **where) as server:
        assert server.url.startswith("https://")
        trusting = ssl.create_default_context(cafile=str(cert))
        assert httpx2.get(f"{server.url}/livez", verify=trusting, timeout=20).is_success
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(server.url.replace("https", "http"), timeout=20)


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),  # noqa: S104  # not bound
        ("::", False),
        ("192.168.1.2", False),
        ("example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_only_loopback_is_this_hosts_alone(host: str, is_ours: bool) -> None:  # noqa: FBT001  # a case of the table
    assert is_loopback(host) is is_ours
