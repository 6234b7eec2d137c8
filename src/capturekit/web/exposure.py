"""What a server asks for before it listens where others than this host reach it."""

from ipaddress import ip_address
from typing import Final

from capturekit.errors import ConfigError
from capturekit.kit import LONG_TOKEN
from capturekit.settings import Settings

_HOW: Final = (
    "give it a certificate (CAPTUREKIT_TLS_CERT and CAPTUREKIT_TLS_KEY), name the proxy in front "
    "that speaks TLS (CAPTUREKIT_TRUSTED_PROXIES), or say that plain HTTP will do "
    "(CAPTUREKIT_PLAIN_HTTP=true), as in a network of your own"
)


def is_loopback(host: str) -> bool:
    """Whether only this host reaches the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_safe(settings: Settings) -> None:
    """Raise ConfigError where tokens would cross a network in clear and nobody said they may.

    Also for an admin token that can be guessed, and half a pair of TLS files.
    """
    has_cert, has_key = settings.tls_cert is not None, settings.tls_key is not None
    if has_cert is not has_key:
        missing = "CAPTUREKIT_TLS_KEY" if has_cert else "CAPTUREKIT_TLS_CERT"
        raise ConfigError(f"{missing} is missing: TLS needs a certificate and its key")
    if is_loopback(settings.host):
        return
    if settings.admin_token is not None and len(settings.admin_token) < LONG_TOKEN:
        raise ConfigError(
            f"CAPTUREKIT_ADMIN_TOKEN has fewer than {LONG_TOKEN} characters, and others than this "
            f"host reach {settings.host}: make one with `openssl rand -hex 32`"
        )
    if not (has_cert or settings.trusted_proxies or settings.plain_http):
        raise ConfigError(f"others than this host reach {settings.host}: {_HOW}")
