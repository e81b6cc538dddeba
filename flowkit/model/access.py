"""Which model, where, and with which key: read from arguments and from the environment.

Argument, then `FLOWKIT_*`, then a provider's own variables, then its defaults. A key goes to the
server that its variables name, and to no other: `OPENAI_API_KEY` to OpenAI or to
`OPENAI_BASE_URL`, `MOONSHOT_API_KEY` and `KIMI_API_KEY` to Moonshot or to `MOONSHOT_BASE_URL` and
`KIMI_BASE_URL`. `FLOWKIT_API_KEY` goes to `FLOWKIT_BASE_URL`; where that is not set, to wherever
the request goes. A server that nobody has a key for gets a placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, urlsplit

from flowkit.errors import NoModel

PLACEHOLDER: Final = "no-key"
"""Sent where no key is configured; local servers take any."""

_SECRET: Final = re.compile(r"\b(?:sk|rk|pk)-[A-Za-z0-9_*-]{4,}|(?<=Bearer )\S+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Access:
    """Where to send requests for a model. `key_from` names the key's source, "" for no key.

    `openai`: OpenAI's own variables speak for this server, so those that the SDK reads by itself
    (organisation, project, extra headers) may go to it.
    """

    name: str
    base_url: str
    host: str
    key: str = field(repr=False)
    key_from: str
    openai: bool

    @property
    def where(self) -> str:
        """The model and its server, for a message."""
        return f"the model {self.name!r} at {self.host}"

    def redact(self, text: str) -> str:
        """The text without the key, or anything that looks like one."""
        if len(self.key) >= 4 and self.key != PLACEHOLDER:
            text = text.replace(self.key, "[key]")
        return _SECRET.sub("[key]", text)


@dataclass(frozen=True, slots=True)
class _Provider:
    """A provider's variables, as pairs of key and base URL, its hosts and its defaults."""

    title: str
    pairs: tuple[tuple[str, str], ...]
    hosts: tuple[str, ...]
    base_url: str
    model: str
    model_from: str = ""
    names: tuple[str, ...] = ()

    def is_host(self, host: str) -> bool:
        return any(host == known or host.endswith(f".{known}") for known in self.hosts)


_OPENAI: Final = _Provider(
    title="OpenAI",
    pairs=(("OPENAI_API_KEY", "OPENAI_BASE_URL"),),
    hosts=("api.openai.com",),
    base_url="https://api.openai.com/v1",
    # The newest small model that does tools and schemas, and that has no shutdown date in
    # openai 3.54 (types/shared/chat_model.py); gpt-5-mini and gpt-4.1-mini have one within months.
    model="gpt-5.4-mini",
    model_from="OPENAI_MODEL",
)

_MOONSHOT: Final = _Provider(
    title="Moonshot",
    pairs=(("MOONSHOT_API_KEY", "MOONSHOT_BASE_URL"), ("KIMI_API_KEY", "KIMI_BASE_URL")),
    hosts=("api.moonshot.ai", "api.moonshot.cn", "api.kimi.com"),
    base_url="https://api.moonshot.ai/v1",
    model="kimi-k3",  # Moonshot retired kimi-k2-thinking from its own API in May 2026
    names=("kimi", "moonshot"),
)

_PROVIDERS: Final = (_OPENAI, _MOONSHOT)


class _Environ:
    """The environment; what is blank counts as not set."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def get(self, name: str) -> str:
        return self._environ.get(name, "").strip() if name else ""


def configured(environ: Mapping[str, str]) -> bool:
    """Whether a variable asks for a language model; `resolve` may still refuse what they say."""
    env = _Environ(environ)
    names = ("FLOWKIT_API_KEY", "FLOWKIT_BASE_URL", "OPENAI_BASE_URL")
    keys = (key for provider in _PROVIDERS for key, _ in provider.pairs)
    return any(env.get(name) for name in (*names, *keys))


def resolve(
    environ: Mapping[str, str], *, name: str = "", base_url: str = "", key: str = ""
) -> Access:
    """Decide where requests go, and with which key. `NoModel` says what is missing."""
    env = _Environ(environ)
    name = name or env.get("FLOWKIT_MODEL")
    key, key_from = _given_key(env, key, base_url)
    base, base_from = base_url.strip(), "base_url="
    if not base:
        base, base_from = env.get("FLOWKIT_BASE_URL"), "FLOWKIT_BASE_URL"
    if base:
        split = _checked(base, base_from)
        provider = _owner(env, split)
    else:
        provider = _chosen(env, name, bool(key))
        base, base_from = _base_of(env, provider)
        split = _checked(base, base_from)
    if not key and provider:
        key, key_from = _key_of(env, provider, split)
    if not key:
        _refuse_known_host(split, base_from)
    if not (key.isascii() and key.isprintable()):
        raise NoModel(f"The key from {key_from} has characters that no key has; copy it anew.")
    fallback = provider or _OPENAI
    return Access(
        name=name or env.get(fallback.model_from) or fallback.model,
        base_url=base,
        host=_shown(split),
        key=key or PLACEHOLDER,
        key_from=key_from if key else "",
        openai=provider is _OPENAI,
    )


def _given_key(env: _Environ, key: str, base_url: str) -> tuple[str, str]:
    """The key that was given for flowkit, and its source, if it may go to the base URL."""
    if key.strip():
        return key.strip(), "api_key="
    own, meant_for = env.get("FLOWKIT_API_KEY"), env.get("FLOWKIT_BASE_URL")
    elsewhere = base_url and meant_for and _origin(base_url) != _origin(meant_for)
    return ("", "") if elsewhere else (own, "FLOWKIT_API_KEY")


def _owner(env: _Environ, base: SplitResult) -> _Provider | None:
    """The provider whose keys may go to this server."""
    origin = _origin(base.geturl())
    owners = [
        provider
        for provider in _PROVIDERS
        if any(origin == _origin(env.get(variable)) for _, variable in provider.pairs)
        or (base.scheme == "https" and provider.is_host(base.hostname or ""))
    ]
    with_key = [p for p in owners if any(env.get(key) for key, _ in p.pairs)]
    return next(iter(with_key or owners), None)


def _chosen(env: _Environ, name: str, has_key: bool) -> _Provider:
    """The provider, where no base URL is given.

    The first whose variables are set; but the one that a model's name belongs to comes before,
    unless OPENAI_BASE_URL says where to go.
    """
    if env.get("OPENAI_BASE_URL"):
        return _OPENAI
    named = next((p for p in _PROVIDERS if p.names and name.lower().startswith(p.names)), None)
    ranked = [named, *_PROVIDERS] if named else list(_PROVIDERS)
    for provider in ranked:
        if any(env.get(key) for key, _ in provider.pairs):
            return provider
    if has_key:
        return ranked[0]
    raise NoModel


def _base_of(env: _Environ, provider: _Provider) -> tuple[str, str]:
    """The provider's base URL and its source: of the pair whose key is set, or of any pair."""
    with_key = [pair for pair in provider.pairs if env.get(pair[0])]
    for _, variable in with_key[:1] or provider.pairs:
        if base := env.get(variable):
            return base, variable
    # A pair's key may stand beside the other pair's URL, if that URL has no key of its own.
    for key, variable in provider.pairs:
        if not env.get(key) and (base := env.get(variable)):
            return base, variable
    return provider.base_url, ""


def _key_of(env: _Environ, provider: _Provider, base: SplitResult) -> tuple[str, str]:
    """The provider's key for this server: of the pair that names the server, or the first."""
    origin = _origin(base.geturl())
    pairs = sorted(provider.pairs, key=lambda pair: _origin(env.get(pair[1])) != origin)
    return next(((env.get(key), key) for key, _ in pairs if env.get(key)), ("", ""))


def _refuse_known_host(base: SplitResult, base_from: str) -> None:
    """A provider's own server takes no placeholder: say so before it does."""
    for provider in _PROVIDERS:
        if provider.is_host(base.hostname or ""):
            keys = " or ".join(key for key, _ in provider.pairs)
            secure = "" if base.scheme == "https" else ", and use https"
            raise NoModel(
                f"{base_from or provider.title} points to {base.hostname}, but there is no key for "
                f"it. Set FLOWKIT_API_KEY, or {keys} without another provider's base URL{secure}."
            )


def _checked(base: str, source: str) -> SplitResult:
    """The URL in parts; `NoModel` if it is none. The value is not shown: it may hold a password."""
    problem = ""
    split = urlsplit(base) if _origin(base) else SplitResult("", "", "", "", "")
    if split.scheme not in ("http", "https") or re.search(r"\s", base):
        problem = "is not a URL that begins with http:// or https://"
    elif split.username or split.password:
        problem = "has a name or password in it; put the key into FLOWKIT_API_KEY"
    elif split.path.rstrip("/").endswith("/chat/completions"):
        problem = "must end before /chat/completions, usually in /v1"
    if problem:
        raise NoModel(f"{source} {problem}.")
    return split


def _origin(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port; None for what is no URL."""
    try:
        split = urlsplit(url)
        port = split.port
    except ValueError:
        return None
    if not split.hostname:
        return None
    return split.scheme, split.hostname, port or (443 if split.scheme == "https" else 80)


def _shown(base: SplitResult) -> str:
    """Host and port: what messages may show of a URL."""
    host = base.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{base.port}" if base.port else host
