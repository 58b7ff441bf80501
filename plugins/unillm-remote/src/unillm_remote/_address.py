# SPDX-License-Identifier: Apache-2.0

"""Where a server is, and the key that it wants.

A key comes from the environment alone, so that it is in no option that a log, a `repr`
or an error shows. `Address.hide` takes it out of whatever a server says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from unillm.errors import ConfigError

URL_VARIABLE = "UNILLM_REMOTE_URL"
"""Environment variable with the address of a server."""

KEY_VARIABLE = "UNILLM_REMOTE_API_KEY"
"""Environment variable with the key that a server wants."""


@attrs.frozen
class Address:
    """The address of a server."""

    url: str
    """Without a slash at its end, and without ``/v1``."""
    key: str | None = attrs.field(default=None, repr=False)

    @property
    def headers(self) -> dict[str, str]:
        """Headers of each request."""
        if self.key is None:
            return {}
        return {"authorization": f"Bearer {self.key}"}

    def hide(self, text: str) -> str:
        """Return a text of the server without the key, which some servers repeat."""
        return text.replace(self.key, "***") if self.key else text


def find_address(options: Mapping[str, Any]) -> Address:
    """Return the address from the option ``url``, or from the environment.

    Raises:
        ConfigError: There is none, or it is not an address of HTTP, or no header can
            hold the key.
    """
    url = options.get("url") or os.environ.get(URL_VARIABLE)
    if not url:
        raise ConfigError(
            "The backend 'remote' needs the address of a server. Pass "
            'backend_options={"url": "http://HOST:PORT"} or set the environment '
            f"variable {URL_VARIABLE}."
        )
    # A file's last line ends with a newline.
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        # Not shown, and HTTP's own error would show it.
        raise ConfigError(
            f"{KEY_VARIABLE} must hold printable characters of ASCII alone: the key is "
            "sent in a header of HTTP."
        )
    return Address(_checked(url), key or None)


def _checked(url: Any) -> str:
    """Return an address in its short form."""
    wanted = (
        "url must be an address such as http://127.0.0.1:8000, with http or https, "
        "without user, password, query and fragment"
    )
    if not isinstance(url, str):
        raise ConfigError(f"{wanted}; got {type(url).__name__}.")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port of letters raises
    except ValueError as error:
        raise ConfigError(f"{wanted}: {error}.") from None
    if parts.username is not None or parts.password is not None:
        # Not shown: it has a password.
        raise ConfigError(
            f"{wanted}; this one has a user or a password. Put the key into the "
            f"environment variable {KEY_VARIABLE}."
        )
    if (
        parts.scheme not in ("http", "https")
        or not host
        or parts.query
        or parts.fragment
    ):
        raise ConfigError(f"{wanted}; got {url!r}.")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
