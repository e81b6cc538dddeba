"""Which model, where and with which key: arguments and environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import flowkit.model
from flowkit.model import NoModel, OpenAIModel
from flowkit.model.access import Access, configured, resolve

OPENAI = "https://api.openai.com/v1"
MOONSHOT = "https://api.moonshot.ai/v1"
CHINA = "https://api.moonshot.cn/v1"
CODING = "https://api.kimi.com/coding/v1"
LOCAL = "http://localhost:8000/v1"
OTHER = "https://other.example/v1"

# environment -> base URL, key, where the key is from
PLACES: list[tuple[dict[str, str], str, str, str]] = [
    ({"OPENAI_API_KEY": "o"}, OPENAI, "o", "OPENAI_API_KEY"),
    ({"OPENAI_API_KEY": " o\n"}, OPENAI, "o", "OPENAI_API_KEY"),
    ({"OPENAI_API_KEY": "o", "OPENAI_BASE_URL": OTHER}, OTHER, "o", "OPENAI_API_KEY"),
    ({"OPENAI_BASE_URL": LOCAL}, LOCAL, "no-key", ""),
    ({"MOONSHOT_API_KEY": "m"}, MOONSHOT, "m", "MOONSHOT_API_KEY"),
    ({"KIMI_API_KEY": "k"}, MOONSHOT, "k", "KIMI_API_KEY"),
    ({"MOONSHOT_API_KEY": "m", "KIMI_API_KEY": "k"}, MOONSHOT, "m", "MOONSHOT_API_KEY"),
    ({"MOONSHOT_API_KEY": "m", "MOONSHOT_BASE_URL": CHINA}, CHINA, "m", "MOONSHOT_API_KEY"),
    ({"MOONSHOT_API_KEY": "m", "KIMI_BASE_URL": CHINA}, CHINA, "m", "MOONSHOT_API_KEY"),
    ({"KIMI_API_KEY": "k", "MOONSHOT_BASE_URL": CHINA}, CHINA, "k", "KIMI_API_KEY"),
    # two keys: a URL belongs to the key of its own name
    (
        {"MOONSHOT_API_KEY": "m", "KIMI_API_KEY": "k", "KIMI_BASE_URL": CODING},
        MOONSHOT,
        "m",
        "MOONSHOT_API_KEY",
    ),
    (
        {
            "MOONSHOT_API_KEY": "m",
            "KIMI_API_KEY": "k",
            "KIMI_BASE_URL": CODING,
            "FLOWKIT_BASE_URL": CODING,
        },
        CODING,
        "k",
        "KIMI_API_KEY",
    ),
    ({"OPENAI_API_KEY": "o", "MOONSHOT_API_KEY": "m"}, OPENAI, "o", "OPENAI_API_KEY"),
    ({"MOONSHOT_API_KEY": "m", "OPENAI_BASE_URL": LOCAL}, LOCAL, "no-key", ""),
    ({"OPENAI_API_KEY": " ", "MOONSHOT_API_KEY": "m"}, MOONSHOT, "m", "MOONSHOT_API_KEY"),
    # flowkit's own variables come before
    ({"FLOWKIT_API_KEY": "f"}, OPENAI, "f", "FLOWKIT_API_KEY"),
    ({"FLOWKIT_API_KEY": "f", "FLOWKIT_BASE_URL": OTHER}, OTHER, "f", "FLOWKIT_API_KEY"),
    ({"FLOWKIT_API_KEY": "f", "OPENAI_API_KEY": "o"}, OPENAI, "f", "FLOWKIT_API_KEY"),
    (
        {"FLOWKIT_API_KEY": "f", "OPENAI_BASE_URL": OTHER, "OPENAI_API_KEY": "o"},
        OTHER,
        "f",
        "FLOWKIT_API_KEY",
    ),
    ({"FLOWKIT_BASE_URL": LOCAL}, LOCAL, "no-key", ""),
    ({"FLOWKIT_BASE_URL": OTHER, "OPENAI_API_KEY": "o"}, OTHER, "no-key", ""),
    ({"FLOWKIT_BASE_URL": OTHER, "MOONSHOT_API_KEY": "m"}, OTHER, "no-key", ""),
    ({"FLOWKIT_BASE_URL": OPENAI, "OPENAI_API_KEY": "o"}, OPENAI, "o", "OPENAI_API_KEY"),
    (
        {"FLOWKIT_BASE_URL": CHINA, "MOONSHOT_API_KEY": "m", "OPENAI_API_KEY": "o"},
        CHINA,
        "m",
        "MOONSHOT_API_KEY",
    ),
    (
        {"FLOWKIT_BASE_URL": "https://eu.api.openai.com/v1", "OPENAI_API_KEY": "o"},
        "https://eu.api.openai.com/v1",
        "o",
        "OPENAI_API_KEY",
    ),
    (
        {"FLOWKIT_BASE_URL": f"{OTHER}/x", "OPENAI_BASE_URL": OTHER, "OPENAI_API_KEY": "o"},
        f"{OTHER}/x",
        "o",
        "OPENAI_API_KEY",
    ),
    # what only looks like a provider's host
    (
        {"FLOWKIT_BASE_URL": "https://evil-api.openai.com.example/v1", "OPENAI_API_KEY": "o"},
        "https://evil-api.openai.com.example/v1",
        "no-key",
        "",
    ),
    (
        {"FLOWKIT_BASE_URL": "https://notapi.openai.com/v1", "OPENAI_API_KEY": "o"},
        "https://notapi.openai.com/v1",
        "no-key",
        "",
    ),
]


@pytest.mark.parametrize(("environ", "base_url", "key", "key_from"), PLACES)
def test_where_and_with_which_key(
    environ: dict[str, str], base_url: str, key: str, key_from: str
) -> None:
    found = resolve(environ)
    assert (found.base_url, found.key, found.key_from) == (base_url, key, key_from)
    assert configured(environ)


@pytest.mark.parametrize(
    ("environ", "base_url", "key", "wanted"),
    [
        ({"FLOWKIT_API_KEY": "f", "OPENAI_API_KEY": "o"}, "", "a", (OPENAI, "a")),
        ({"FLOWKIT_API_KEY": "f"}, OTHER, "", (OTHER, "f")),
        ({"FLOWKIT_API_KEY": "f", "FLOWKIT_BASE_URL": OTHER}, LOCAL, "", (LOCAL, "no-key")),
        (
            {"FLOWKIT_API_KEY": "f", "FLOWKIT_BASE_URL": OTHER},
            f"{OTHER}/2",
            "",
            (f"{OTHER}/2", "f"),
        ),
        ({"FLOWKIT_BASE_URL": OTHER}, "", "a", (OTHER, "a")),
        ({"OPENAI_BASE_URL": OTHER}, "", "a", (OTHER, "a")),
        ({"OPENAI_API_KEY": "o"}, OTHER, "", (OTHER, "no-key")),
        ({"OPENAI_API_KEY": "o", "OPENAI_BASE_URL": OTHER}, OTHER, "", (OTHER, "o")),
        ({"OPENAI_API_KEY": "o"}, MOONSHOT, "a", (MOONSHOT, "a")),
        ({}, LOCAL, "", (LOCAL, "no-key")),
        ({}, "", "a", (OPENAI, "a")),
    ],
)
def test_arguments_come_first(
    environ: dict[str, str], base_url: str, key: str, wanted: tuple[str, str]
) -> None:
    found = resolve(environ, base_url=base_url, key=key)
    assert (found.base_url, found.key) == wanted


@pytest.mark.parametrize(
    ("environ", "name", "wanted", "base_url"),
    [
        ({"OPENAI_API_KEY": "o"}, "", "gpt-5.4-mini", OPENAI),
        ({"OPENAI_API_KEY": "o", "OPENAI_MODEL": "gpt-x"}, "", "gpt-x", OPENAI),
        ({"OPENAI_API_KEY": "o", "OPENAI_MODEL": "x", "FLOWKIT_MODEL": "y"}, "", "y", OPENAI),
        ({"OPENAI_API_KEY": "o", "FLOWKIT_MODEL": "y"}, "z", "z", OPENAI),
        ({"MOONSHOT_API_KEY": "m"}, "", "kimi-k3", MOONSHOT),
        ({"MOONSHOT_API_KEY": "m", "OPENAI_MODEL": "x"}, "", "kimi-k3", MOONSHOT),
        # a name decides between two keys, but not against OPENAI_BASE_URL
        ({"OPENAI_API_KEY": "o", "MOONSHOT_API_KEY": "m"}, "kimi-k3", "kimi-k3", MOONSHOT),
        ({"OPENAI_API_KEY": "o", "MOONSHOT_API_KEY": "m"}, "gpt-x", "gpt-x", OPENAI),
        ({"OPENAI_BASE_URL": LOCAL, "MOONSHOT_API_KEY": "m"}, "kimi-k3", "kimi-k3", LOCAL),
        ({"FLOWKIT_API_KEY": "f", "FLOWKIT_MODEL": "kimi-k3"}, "", "kimi-k3", MOONSHOT),
        ({"OPENAI_API_KEY": "o"}, "kimi-k3", "kimi-k3", OPENAI),
    ],
)
def test_which_model(environ: dict[str, str], name: str, wanted: str, base_url: str) -> None:
    found = resolve(environ, name=name)
    assert (found.name, found.base_url) == (wanted, base_url)
    assert OpenAIModel.from_env(environ, name=name).name == wanted


@pytest.mark.parametrize(
    "environ", [{}, {"OPENAI_API_KEY": ""}, {"FLOWKIT_MODEL": "x"}, {"MOONSHOT_BASE_URL": MOONSHOT}]
)
def test_nothing_is_configured(environ: dict[str, str]) -> None:
    assert not OpenAIModel.configured(environ)
    with pytest.raises(NoModel, match="No language model is configured") as caught:
        OpenAIModel.from_env(environ)
    assert not caught.value.retryable
    for variable in ("OPENAI_API_KEY", "MOONSHOT_API_KEY", "OPENAI_BASE_URL", "FLOWKIT_MODEL"):
        assert variable in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"FLOWKIT_BASE_URL": "localhost:8000"}, "FLOWKIT_BASE_URL is not a URL"),
        ({"FLOWKIT_BASE_URL": "http://"}, "FLOWKIT_BASE_URL is not a URL"),
        ({"FLOWKIT_BASE_URL": "http://[::1"}, "FLOWKIT_BASE_URL is not a URL"),
        ({"FLOWKIT_BASE_URL": "http://host:port/v1"}, "FLOWKIT_BASE_URL is not a URL"),
        ({"OPENAI_BASE_URL": "file:///etc/passwd"}, "OPENAI_BASE_URL is not a URL"),
        ({"OPENAI_BASE_URL": "http://ann:s3cret@host/v1"}, "FLOWKIT_API_KEY"),
        ({"OPENAI_BASE_URL": f"{LOCAL}/chat/completions"}, "must end before"),
        ({"FLOWKIT_BASE_URL": OPENAI}, "no key for it"),
        ({"OPENAI_BASE_URL": MOONSHOT, "MOONSHOT_API_KEY": "s3cret"}, "no key for it"),
        ({"FLOWKIT_BASE_URL": "http://api.openai.com/v1", "OPENAI_API_KEY": "s3cret"}, "https"),
        ({"OPENAI_API_KEY": "s3cret\u2026"}, "from OPENAI_API_KEY has characters"),
        ({"OPENAI_API_KEY": "s3cret\nX: y"}, "from OPENAI_API_KEY has characters"),
        ({"OPENAI_API_KEY": "s3cret", "FLOWKIT_PROFILE": "wrong"}, "use one of kimi-k2-thinking, "),
    ],
)
def test_mistakes_are_explained_without_secrets(environ: dict[str, str], text: str) -> None:
    assert OpenAIModel.configured(environ)
    with pytest.raises(NoModel, match=text) as caught:
        OpenAIModel.from_env(environ)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"OPENAI_API_KEY": "o"}, "openai"),
        ({"OPENAI_API_KEY": "o", "FLOWKIT_PROFILE": "generic"}, "generic"),
        ({"OPENAI_BASE_URL": LOCAL}, "generic"),
        ({"MOONSHOT_API_KEY": "m"}, "kimi-k3"),
        ({"MOONSHOT_API_KEY": "m", "FLOWKIT_MODEL": "kimi-k3"}, "kimi-k3"),
        ({"OPENAI_BASE_URL": LOCAL, "FLOWKIT_MODEL": "moonshotai/Kimi-K2-Thinking"}, "vllm"),
        ({"OPENAI_BASE_URL": "http://localhost:11434/v1"}, "ollama"),
        ({"OPENAI_BASE_URL": "https://openrouter.ai/api/v1", "OPENAI_API_KEY": "o"}, "openrouter"),
        ({"OPENAI_BASE_URL": "https://api.deepseek.com", "OPENAI_API_KEY": "o"}, "deepseek"),
    ],
)
def test_which_profile(environ: dict[str, str], wanted: str) -> None:
    assert OpenAIModel.from_env(environ).profile.name == wanted


def test_a_model_shows_no_key() -> None:
    access = resolve({"OPENAI_API_KEY": "sk-secret-1"})
    model = OpenAIModel.from_env({"OPENAI_API_KEY": "sk-secret-1"})
    assert "secret" not in repr(access) + str(model) + repr(vars(model))


@pytest.mark.parametrize(
    ("key", "text", "wanted"),
    [
        ("abcd1234", "key abcd1234!", "key [key]!"),
        ("k", "kite", "kite"),
        ("no-key", "no-key given", "no-key given"),
        ("", "Incorrect API key provided: sk-abcd***wxyz.", "Incorrect API key provided: [key]."),
    ],
)
def test_what_looks_like_a_key_is_redacted(key: str, text: str, wanted: str) -> None:
    access = Access("m", LOCAL, "localhost:8000", key, "", openai=False)
    assert access.redact(text) == wanted


def test_importing_the_package_loads_no_sdk() -> None:
    root = Path(flowkit.model.__file__).parents[2]
    code = (
        "import sys, flowkit.model\n"
        "from flowkit.model import OpenAIModel, OfflineModel, RateLimited\n"
        "OpenAIModel('m', base_url='http://127.0.0.1:1/v1', environ={})\n"
        "print(sorted({'openai', 'httpx', 'httpx2', 'sqlalchemy'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_every_name_is_there() -> None:
    assert flowkit.model.__all__ == sorted(flowkit.model.__all__)
    for name in flowkit.model.__all__:
        assert getattr(flowkit.model, name).__name__ == name
    assert set(flowkit.model.__all__) <= set(dir(flowkit.model))
    assert not hasattr(flowkit.model, "Missing")
